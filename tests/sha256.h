// SHA-256 (FIPS 180-4) for golden hashes: short and slow, nothing depends on its speed.
#ifndef DSV4MX_TESTS_SHA256_H_
#define DSV4MX_TESTS_SHA256_H_

#include <cstddef>
#include <string>

namespace dsv4mx::test {

// Lower-case hex of the hash of `bytes` bytes at `data`.
std::string Sha256(const void* data, size_t bytes);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_SHA256_H_
