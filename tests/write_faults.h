// Faults of writing, for all threads of the process: the linker sends the library's calls of the system through here (--wrap).
#ifndef DSV4MX_TESTS_WRITE_FAULTS_H_
#define DSV4MX_TESTS_WRITE_FAULTS_H_

#include <cstddef>

namespace dsv4mx::test {

// The calls of the system that a writer makes.
enum class WriteCall { kOpen, kWrite, kTruncate, kSync, kClose, kRename, kCalls };

struct WriteFaults {
  WriteCall call = WriteCall::kCalls;  // which fails
  int error = 0;                       // with which errno
  int left = 0;                        // calls of it that still succeed
  size_t most = 0;                     // bytes that one write takes at most; 0 = any
  int interrupts = 0;                  // writes and syncs that end with EINTR first
};

// Set for as long as the object lives.
class WithWriteFaults {
 public:
  explicit WithWriteFaults(const WriteFaults& faults);
  ~WithWriteFaults();
  WithWriteFaults(const WithWriteFaults&) = delete;
  WithWriteFaults& operator=(const WithWriteFaults&) = delete;
  bool met() const;  // whether the fault was met
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_WRITE_FAULTS_H_
