// Overlap of rows against a count of every byte.
#include <cstdint>
#include <vector>

#include "lib/core/overlap.h"
#include "tests/catch.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

const uint8_t* At(uintptr_t address) {
  return reinterpret_cast<const uint8_t*>(address);
}

bool OverlapByBytes(const RowRange& a, const RowRange& b) {
  std::vector<uint8_t> taken(4096, 0);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t byte = 0; byte < a.row_bytes; ++byte) {
      taken[reinterpret_cast<uintptr_t>(a.data) + static_cast<size_t>(i * a.stride_bytes + byte)] =
          1;
    }
  }
  for (int64_t i = 0; i < b.rows; ++i) {
    for (int64_t byte = 0; byte < b.row_bytes; ++byte) {
      if (taken[reinterpret_cast<uintptr_t>(b.data) +
                static_cast<size_t>(i * b.stride_bytes + byte)] != 0)
        return true;
    }
  }
  return false;
}

TEST_CASE("[J6] overlap: the answer of a count of bytes, for rows of one stride and of two",
          "[overlap]") {
  Rng rng(5);
  int overlapping = 0;
  constexpr int kCases = 200000;
  for (int n = 0; n < kCases; ++n) {
    const auto range = [&](int64_t stride) {
      const int64_t row = 1 + rng.Below(stride);
      return RowRange{At(static_cast<uintptr_t>(1 + rng.Below(300))), 1 + rng.Below(9), row,
                      stride};
    };
    const RowRange a = range(1 + rng.Below(40));
    const RowRange b = range(rng.Below(2) == 0 ? a.stride_bytes : 1 + rng.Below(40));
    const bool want = OverlapByBytes(a, b);
    overlapping += want ? 1 : 0;
    if (Overlap(a, b) != want || Overlap(b, a) != want) {
      FAIL("at " << a.data << " " << a.rows << " rows of " << a.row_bytes << " in steps of "
                 << a.stride_bytes << ", and at " << b.data << " " << b.rows << " of "
                 << b.row_bytes << " in steps of " << b.stride_bytes << ": wanted " << want);
    }
  }
  CHECK(overlapping > kCases / 10);
  CHECK(overlapping < kCases * 9 / 10);
}

TEST_CASE("[J6] overlap: columns of one matrix, edges, nothing, and the ends of the address space",
          "[overlap]") {
  const uintptr_t base = 0x7f0000000000;
  const auto rows = [&](uintptr_t offset, int64_t n, int64_t bytes, int64_t stride) {
    return RowRange{At(base + offset), n, bytes, stride};
  };
  CHECK_FALSE(Overlap(rows(0, 1000, 128, 256), rows(128, 1000, 128, 256)));
  CHECK(Overlap(rows(0, 1000, 128, 256), rows(126, 1000, 128, 256)));
  CHECK(Overlap(rows(0, 1000, 130, 256), rows(128, 1000, 128, 256)));
  CHECK_FALSE(Overlap(rows(0, 10, 128, 128), rows(1280, 10, 128, 128)));
  CHECK(Overlap(rows(0, 10, 128, 128), rows(1279, 10, 128, 128)));
  CHECK(Overlap(rows(128, 10, 128, 128), rows(0, 10, 128, 128)));
  CHECK_FALSE(Overlap(rows(0, 0, 128, 128), rows(0, 10, 128, 128)));
  CHECK_FALSE(Overlap({nullptr, 10, 128, 128}, Block(nullptr, 4)));
  CHECK_FALSE(Overlap(Block(At(8), 8), Block(At(~uintptr_t{0} - 15), 8)));
  // A matrix of 2^17 rows whose columns belong to two owners with strides of their own.
  CHECK_FALSE(Overlap(rows(0, 1 << 17, 64, 256), rows(128, 1 << 16, 64, 512)));
  CHECK(Overlap(rows(0, 1 << 17, 64, 256), rows(128, 1 << 16, 64, 320)));
}

}  // namespace
}  // namespace dsv4mx::test
