// Sizes are run-time values: every hidden and intermediate size that is a multiple of 32, and what is refused.
#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

DEVICE_TEST_CASE("[C1][A11] intermediate sizes of every partition", "[shapes]") {
  for (const int i : {32, 96, 128, 160, 192, 256, 288, 384, 576, 1152, 2304, 2880}) {
    const std::string m = i > 600 ? "2" : "5";
    CHECK(RunAndCheck("h=128 e=2 k=2 clamp=10 m=" + m + " i=" + std::to_string(i), device) == "");
  }
}

DEVICE_TEST_CASE(
    "[C1][A10] hidden sizes of every model, multiples of 32 that are none of 64 or 128",
    "[shapes]") {
  for (const int h : {32, 96, 160, 2880, 4096, 5120, 7168}) {
    CHECK(RunAndCheck("i=96 e=2 k=2 m=3 clamp=10 h=" + std::to_string(h), device) == "");
  }
}

DEVICE_TEST_CASE("[C1][G4] hidden and intermediate sizes together, one rank of each model",
                 "[shapes]") {
  for (const char* text : {
           "h=2880 i=2880 e=2 k=1 m=2 act=gptoss clamp=7 bias=1 order=interleaved",
           "h=4096 i=256 e=2 k=2 m=3 clamp=10",
           "h=7168 i=192 e=2 k=2 m=3 clamp=10",
           "h=7168 i=384 e=2 k=2 m=2 clamp=10",
           "h=5120 i=288 e=2 k=2 m=3 clamp=10",
           "h=5120 i=576 e=2 k=2 m=2 clamp=10",
           "h=4096 i=2048 e=1 k=1 m=2 clamp=10",
       }) {
    CHECK(RunAndCheck(text, device) == "");
  }
}

DEVICE_TEST_CASE("[C1] small sizes in all combinations", "[shapes]") {
  for (int h = 32; h <= 224; h += 64) {
    for (int i = 32; i <= 224; i += 32) {
      CHECK(RunAndCheck("e=2 k=2 m=3 h=" + std::to_string(h) + " i=" + std::to_string(i), device) ==
            "");
    }
  }
}

TEST_CASE("[C2][F1] what cannot work is refused at layer creation, with the nearest size that can",
          "[shapes]") {
  const struct {
    int hidden, intermediate;
    const char* words;
  } cases[] = {
      {4096, 144, "intermediate,144,32,128,160"},
      {4096, 100, "intermediate,100,32,96"},
      {4096, 0, "intermediate,0,32"},
      {4096, -64, "intermediate,-64,32"},
      {4100, 256, "hidden,4100,32,4096"},
      {31, 256, "hidden,31,32"},
      {65568, 256, "hidden,65568,65536"},
      {64, 1 << 20, "intermediate,1048576,65536"},
  };
  for (const auto& c : cases) {
    dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 m=0"));
    d.hidden = c.hidden;
    d.intermediate = c.intermediate;
    dsv4mx_layer* layer = reinterpret_cast<dsv4mx_layer*>(0x10);
    REQUIRE_REFUSED(dsv4mx_layer_create(CpuContext(), &d, &layer), DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                    c.words);
    CHECK(layer == nullptr);
  }
}

TEST_CASE(
    "[C3][D1] prepared bytes follow the sizes: one byte per scale, no padding beyond a small tile",
    "[shapes]") {
  for (const char* text : {"h=128 i=32 e=2", "h=128 i=96 e=3", "h=128 i=192 e=1",
                           "h=5120 i=288 e=1", "h=2880 i=2880 e=1", "h=4096 i=256 e=2",
                           "h=128 i=96 e=3 bias=f32 act=gptoss", "h=7168 i=192 e=1"}) {
    const Case c = MakeCase(Parse(std::string(text) + " m=0 k=1"), false);
    const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
    dsv4mx_layer_info info{};
    info.struct_size = sizeof info;
    REQUIRE_OK(dsv4mx_layer_query(layer.get(), &info));
    const auto up64 = [](int64_t n) { return (n + 63) / 64 * 64; };
    const int64_t h = c.p.hidden, i = c.p.intermediate, e = c.p.experts;
    const int64_t exact = e * (3 * h * i / 2 + 3 * h * i / 32);
    // Rows to 64 at most (architecture.md section 5), biases as fp32, and the alignment of each of a few slabs.
    const int64_t most = e * (2 * up64(i) * (h / 2 + h / 32) + up64(h) * (i / 2 + i / 32) +
                              4 * (2 * up64(i) + up64(h)) + 4096);
    INFO(text << ": " << info.prepared_bytes << " bytes, codes and scales alone " << exact);
    CHECK(info.prepared_bytes >= exact);
    CHECK(info.prepared_bytes <= most);
  }
}

}  // namespace
}  // namespace dsv4mx::test
