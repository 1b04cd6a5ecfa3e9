// The CPU backend's store: every layout of the caller's memory comes out as the same codes, and the census counts what
// it says it counts.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "lib/cpu/cpu_kernels.h"
#include "lib/cpu/cpu_store.h"
#include "tests/catch.h"
#include "tests/random.h"
#include "tests/store_call.h"

namespace dsv4mx::test {
namespace {

using cpu::CpuStore;

struct Fixture {
  Fixture(int32_t hidden, int32_t intermediate, bool bias = false)
      : spec(std::make_shared<LayerSpec>()) {
    spec->hidden = hidden;
    spec->intermediate = intermediate;
    spec->experts = spec->placement.experts = spec->placement.experts_global =
        spec->placement.id_count = 2;
    spec->top_k = 1;
    if (bias) spec->w13_bias = spec->w2_bias = DSV4MX_DTYPE_BF16;
    REQUIRE(ThreadPool::Make(3, &pool).ok());
    bytes = CpuLayout(*spec).bytes();
    memory.resize(static_cast<size_t>(bytes) / 64 + 1);
    store = std::make_unique<CpuStore>(spec, memory.data(), pool.get(), &staging);
  }
  const uint8_t* Memory() const { return memory.data()->bytes; }

  struct alignas(64) Line {
    uint8_t bytes[64];
  };
  std::shared_ptr<LayerSpec> spec;
  std::unique_ptr<ThreadPool> pool;
  cpu::Memory staging;
  int64_t bytes = 0;
  std::vector<Line> memory;
  std::unique_ptr<CpuStore> store;
};

TEST_CASE("[C3][D1] cpu store: 4.25 bit per weight and f32 biases, in whole cache lines", "[cpu]") {
  Fixture plain(96, 160), biased(96, 160, true), even(64, 256);
  const auto lines = [](int64_t bytes) { return 2 * ((bytes + 63) / 64 * 64); };  // two experts
  CHECK(plain.bytes == lines(3 * 96 * 160 * 17 / 32));
  CHECK(biased.bytes == lines(3 * 96 * 160 * 17 / 32 + 4 * (2 * 160 + 96)));
  CHECK(even.bytes * 8 * 4 == int64_t{3} * 64 * 256 * 2 * 17);  // here nothing is rounded up
}

TEST_CASE("[A7][B10][A27] cpu store: codes from any pointer, stride and nibble order", "[cpu]") {
  Fixture f(96, 160);
  Rng rng(5);
  for (const int32_t expert : {0, 1}) {
    for (const Matrix m : kMatrices) {
      const int64_t rows = f.spec->Rows(m), k = f.spec->K(m);
      std::vector<uint8_t> raw(static_cast<size_t>(rows * k / 2));
      rng.Bytes(raw.data(), raw.size());
      for (const int64_t byte_stride : {1, 3}) {
        for (const bool high_first : {false, true}) {
          for (const int64_t offset : {0, 1, 7}) {
            const int64_t row_stride = byte_stride * k / 2 + offset;
            std::vector<uint8_t> given(static_cast<size_t>(rows * row_stride + offset));
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t b = 0; b < k / 2; ++b) {
                const uint8_t v = raw[static_cast<size_t>(r * k / 2 + b)];
                given[static_cast<size_t>(offset + r * row_stride + b * byte_stride)] =
                    high_first ? static_cast<uint8_t>(v << 4 | v >> 4) : v;
              }
            }
            const CodesView view{given.data() + offset, row_stride, byte_stride, high_first, false};
            REQUIRE(f.store->SetCodes(expert, m, view, test::kCall).ok());
            std::string wrong;
            std::vector<uint8_t> row(static_cast<size_t>(k / 2));
            for (int64_t r = 0; r < rows; ++r) {
              f.store->ReadCodes(expert, m, r, row.data());
              if (std::memcmp(row.data(), raw.data() + r * k / 2, row.size()) != 0)
                wrong = "ReadCodes";
              for (int64_t i = 0; i < k; ++i) {
                const CpuPos p = CpuCode(k, r, i);
                uint16_t unit;
                std::memcpy(&unit, f.Memory() + CpuLayout(*f.spec).Codes(expert, m) + p.byte, 2);
                const int want = raw[static_cast<size_t>(r * k / 2 + i / 2)] >> (i % 2 * 4) & 15;
                if ((unit >> p.bit & 15) != want) wrong = "CpuCode";
              }
            }
            INFO("expert " << expert << " " << MatrixName(m) << " byte stride " << byte_stride
                           << " high first " << high_first << " offset " << offset);
            REQUIRE(wrong == "");
          }
        }
      }
    }
  }
}

TEST_CASE("cpu store: rows on demand want BeginReading", "[cpu]") {
  struct Zeros final : RowSource {
    int64_t RowBytes() const override { return 48; }
    Status Read(int64_t, int64_t rows, uint8_t* to) const override {
      std::memset(to, 0, static_cast<size_t>(rows * 48));
      return kOk;
    }
  } zeros;
  Fixture f(96, 160);
  const int32_t experts[] = {0};
  const RowsToRead rows[] = {
      {&zeros, RowsToRead::kCodes, Matrix::kGate, false, false, DSV4MX_DTYPE_U8, experts}};
  ReadTimes times;
  CHECK(f.store->ReadRows(rows, test::kCall, &times).code == DSV4MX_STATUS_INTERNAL);
  CHECK(std::string(LastError()).find("before BeginReading") != std::string::npos);
  REQUIRE(f.store->BeginReading(0, 0, test::kCall).ok());
  CHECK(f.store->ReadRows(rows, test::kCall, &times).ok());
  CHECK(times.readers >= 1);
  CHECK(times.bytes == 48 * 160);
  CHECK(times.whole_s > 0);
  CHECK(f.store->EndReading().ok());
}

TEST_CASE("cpu store: contiguous scale bytes, whole vectors of them and a rest", "[cpu]") {
  Fixture f(1120, 512);  // 35 and 16 groups
  Rng rng(11);
  for (const Matrix m : kMatrices) {
    const int64_t rows = f.spec->Rows(m), groups = f.spec->K(m) / 32;
    for (const int64_t stride : {groups, groups + 3}) {
      std::vector<uint8_t> raw(static_cast<size_t>(rows * stride));
      for (uint8_t& b : raw) b = static_cast<uint8_t>(rng.Below(255));
      const ScalesView view{raw.data(), stride, 1, DSV4MX_DTYPE_U8, false};
      REQUIRE(f.store->SetScales(1, m, view, test::kCall).ok());
      std::vector<uint8_t> row(static_cast<size_t>(groups));
      int64_t wrong = 0;
      for (int64_t r = 0; r < rows; ++r) {
        f.store->ReadScales(1, m, r, row.data());
        wrong += std::memcmp(row.data(), raw.data() + r * stride, row.size()) != 0 ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("[A5][A8] cpu store: scales of any stride and dtype; the first bad one is named",
          "[cpu]") {
  Fixture f(96, 64);
  const int64_t rows = 64, groups = 3;
  Rng rng(9);
  std::vector<uint8_t> raw(static_cast<size_t>(rows * groups));
  for (uint8_t& b : raw) b = static_cast<uint8_t>(rng.Below(255));
  raw[0] = 0;
  raw[1] = 254;
  std::vector<uint8_t> bytes(raw.size() * 5 + 1), floats(raw.size() * 4 + 3);
  for (size_t i = 0; i < raw.size(); ++i) {
    bytes[1 + i * 5] = raw[i];
    const uint32_t bits = raw[i] == 0 ? 0x00400000u : static_cast<uint32_t>(raw[i]) << 23;
    std::memcpy(floats.data() + 3 + i * 4, &bits, 4);
  }
  const ScalesView views[] = {{raw.data(), groups, 1, DSV4MX_DTYPE_E8M0, false},
                              {bytes.data() + 1, groups * 5, 5, DSV4MX_DTYPE_U8, false},
                              {floats.data() + 3, groups * 4, 4, DSV4MX_DTYPE_F32, false}};
  for (const ScalesView& view : views) {
    REQUIRE(f.store->SetScales(1, Matrix::kUp, view, test::kCall).ok());
    uint8_t row[3];
    for (int64_t r = 0; r < rows; ++r) {
      f.store->ReadScales(1, Matrix::kUp, r, row);
      REQUIRE(std::memcmp(row, raw.data() + r * groups, 3) == 0);
    }
  }
  raw[41 * 3 + 2] = 255;
  raw[50 * 3] = 255;
  const Status status = f.store->SetScales(1, Matrix::kUp, views[0], test::kCall);
  CHECK(status.code == DSV4MX_STATUS_INVALID_SCALE);
  CHECK(MissingWords(LastError(), "expert 1, up, row 41, group 2, 255") == "");
}

TEST_CASE("[A14] cpu store: biases are kept exactly, bf16 and f32, from any pointer", "[cpu]") {
  Fixture f(96, 64, true);
  std::vector<uint8_t> given(1 + 96 * 6);
  for (int64_t r = 0; r < 96; ++r) {
    const float v = 0.1f * static_cast<float>(r) - 3.0f;
    std::memcpy(given.data() + 1 + r * 6, &v, 4);
  }
  REQUIRE(
      f.store
          ->SetBias(1, Matrix::kDown, {given.data() + 1, 6, DSV4MX_DTYPE_F32, false}, test::kCall)
          .ok());
  for (int64_t r = 0; r < 96; ++r)
    CHECK(f.store->Bias(1, Matrix::kDown)[r] == 0.1f * static_cast<float>(r) - 3.0f);
  for (int64_t r = 0; r < 64; ++r) {
    const uint16_t v = static_cast<uint16_t>(0x3f80 + r);
    std::memcpy(given.data() + 1 + r * 2, &v, 2);
  }
  REQUIRE(
      f.store->SetBias(0, Matrix::kUp, {given.data() + 1, 2, DSV4MX_DTYPE_BF16, false}, test::kCall)
          .ok());
  for (int64_t r = 0; r < 64; ++r)
    CHECK(f.store->Bias(0, Matrix::kUp)[r] == 1.0f + static_cast<float>(r) / 128.0f);
}

// Codes and scales of one matrix of expert 0, all others zero.
struct Filled {
  Filled(Fixture* f, Matrix m) : fixture(f), matrix(m), k(f->spec->K(m)) {
    codes.resize(static_cast<size_t>(f->spec->Rows(m) * k / 2));
    scales.assign(static_cast<size_t>(f->spec->Rows(m) * k / 32), 10);
  }
  void Group(int64_t row, int64_t group, uint8_t byte, uint8_t scale) {
    codes[static_cast<size_t>(row * k / 2 + group * 16 + 5)] = byte;
    scales[static_cast<size_t>(row * k / 32 + group)] = scale;
  }
  Census Count() {
    Census census;
    REQUIRE(fixture->store->SetCodes(0, matrix, {codes.data(), k / 2, 1, false, false}, test::kCall)
                .ok());
    REQUIRE(fixture->store
                ->SetScales(0, matrix, {scales.data(), k / 32, 1, DSV4MX_DTYPE_E8M0, false},
                            test::kCall)
                .ok());
    REQUIRE(fixture->store->PrepareExpert(0, &census, test::kCall).ok());
    return census;
  }
  Fixture* fixture;
  Matrix matrix;
  int64_t k;
  std::vector<uint8_t> codes, scales;
};

TEST_CASE(
    "[A28] cpu store: the census sees groups that are not all zero, spans inside a row's block of "
    "512",
    "[cpu]") {
  for (const Matrix m : kMatrices) {
    Fixture f(1056, 1056);
    Filled w(&f, m);
    INFO(MatrixName(m));
    Census census = w.Count();
    CHECK_FALSE(census.any);

    w.Group(3, 0, 0x88, 240);  // -0 twice: still all zero
    CHECK_FALSE(w.Count().any);

    w.Group(7, 15, 0x01, 120);  // last group of the first block
    w.Group(7, 16, 0x10, 100);  // first of the second: another block
    w.Group(8, 14, 0x0f, 90);   // another row
    w.Group(7, 32, 0x70, 131);  // the short last block
    census = w.Count();
    CHECK(census.any);
    CHECK(census.scale_min == 90);
    CHECK(census.scale_max == 131);
    CHECK(census.span_max == 0);

    w.Group(7, 0, 0x08, 60);  // zero: not counted
    w.Group(7, 1, 0x09, 108);
    census = w.Count();
    CHECK(census.span_max == 12);
    CHECK_FALSE(census.planes_exact());
    w.Group(1055, 31, 0x02, cpu::kFirstWideScale - 1);
    CHECK(w.Count().scale_max == 246);
    CHECK_FALSE(f.store->Wide(0));

    w.Group(1055, 31, 0x02, cpu::kFirstWideScale);
    CHECK(w.Count().scale_max == 247);
    CHECK(f.store->Wide(0));
    CHECK_FALSE(f.store->Wide(1));
  }
}

}  // namespace
}  // namespace dsv4mx::test
