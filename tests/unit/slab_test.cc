// One expert as bytes, in the form of either backend: what is where, the id, scales that are refused, and moving an expert
// between stores of the CPU.
#include "lib/base/slab.h"

#include <cstring>
#include <memory>
#include <vector>

#include "lib/base/cpu_layout.h"
#include "lib/base/host_layout.h"
#include "lib/cpu/cpu_store.h"
#include "tests/catch.h"
#include "tests/layer_spec.h"
#include "tests/random.h"
#include "tests/raw_expert.h"
#include "tests/store_call.h"

namespace dsv4mx::test {
namespace {

LayerSpec SpecWith(int32_t hidden, int32_t intermediate, int32_t experts = 2, bool w13_bias = false,
                   bool w2_bias = false) {
  LayerSpec s = SpecOf(hidden, intermediate, experts);
  if (w13_bias) s.w13_bias = DSV4MX_DTYPE_F32;
  if (w2_bias) s.w2_bias = DSV4MX_DTYPE_F32;
  return s;
}

const LayerSpec kSpecs[] = {SpecWith(32, 32),
                            SpecWith(96, 160),
                            SpecWith(160, 96, 3, true, true),
                            SpecWith(128, 256, 2, true, false),
                            SpecWith(224, 352, 1, false, true),
                            SpecWith(2880, 64)};

RawExpert RandomExpert(const LayerSpec& spec, uint64_t seed) {
  RawExpert raw(spec);
  Rng rng(seed);
  for (const Matrix m : kMatrices) {
    rng.Bytes(raw.codes(m).data(), raw.codes(m).size());
    for (uint8_t& s : raw.scales(m)) s = static_cast<uint8_t>(rng.Below(255));
    for (float& b : raw.bias(m)) b = static_cast<float>(rng.Below(1000)) / 64;
  }
  return raw;
}

TEST_CASE("slab: the stretches of both forms cover it, each with as much as there is", "[slab]") {
  for (const LayerSpec& spec : kSpecs) {
    for (const bool sm90 : {false, true}) {
      INFO(spec.hidden << " x " << spec.intermediate << (sm90 ? " sm90" : " cpu"));
      const SlabForm form = sm90 ? Sm90SlabForm(spec) : CpuSlabForm(spec);
      int64_t at = 0, bytes[4] = {};
      (sm90 ? ForSm90Slab : ForCpuSlab)(spec, [&](SlabPart part, int64_t offset, int64_t n) {
        CHECK(offset == at);
        CHECK(n > 0);
        at = offset + n;
        bytes[static_cast<int>(part)] += n;
      });
      CHECK(at == form.bytes);
      const int64_t rows2 = sm90 ? Sm90PaddedRows(spec.hidden) : spec.hidden;
      const int64_t values = int64_t{spec.intermediate} * (2 * spec.hidden + rows2);
      CHECK(bytes[static_cast<int>(SlabPart::kCodes)] == values / 2);
      CHECK(bytes[static_cast<int>(SlabPart::kScales)] == values / 32);
      const int64_t biases =
          (spec.w13_bias != 0 ? 2 * spec.intermediate : 0) + (spec.w2_bias != 0 ? rows2 : 0);
      CHECK(bytes[static_cast<int>(SlabPart::kBias)] == 4 * biases);
    }
  }
}

TEST_CASE("slab: the id is of layout, sizes held and biases alone, and never changes", "[slab]") {
  std::vector<uint64_t> ids;
  for (const LayerSpec& spec : kSpecs) {
    ids.push_back(CpuSlabForm(spec).id);
    ids.push_back(Sm90SlabForm(spec).id);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    for (size_t j = 0; j < i; ++j) CHECK(ids[i] != ids[j]);
  }
  LayerSpec more = kSpecs[2];
  more.experts = 77;
  more.w13_bias = DSV4MX_DTYPE_BF16;  // stored as f32
  more.intermediate_global = 4096, more.intermediate_first = 32, more.clamp_limit = 7;
  CHECK(CpuSlabForm(more).id == CpuSlabForm(kSpecs[2]).id);
  CHECK(Sm90SlabForm(more).id == Sm90SlabForm(kSpecs[2]).id);
  // What files of another version and machine hold.
  CHECK(CpuSlabForm(SpecWith(4096, 2048)).id == 0x784681382223779f);
  CHECK(Sm90SlabForm(SpecWith(4096, 2048)).id == 0x6bf7cc3ef0ecd37d);
  CHECK(std::string(CpuSlabForm(more).layout) == "cpu 1");
  CHECK(std::string(Sm90SlabForm(more).layout) == "sm90 1");
}

TEST_CASE("slab: a scale byte 255 is refused with its position, whatever piece holds it",
          "[slab]") {
  for (const LayerSpec& spec : kSpecs) {
    RawExpert raw = RandomExpert(spec, 3);
    for (const Matrix m : kMatrices) {
      const int64_t groups = spec.K(m) / kGroupSize;
      for (const int64_t row : {int64_t{0}, spec.Rows(m) / 2 + 1, spec.Rows(m) - 1}) {
        for (const int64_t group : {int64_t{0}, groups - 1}) {
          uint8_t& scale = raw.scales(m)[static_cast<size_t>(row * groups + group)];
          const uint8_t before = scale;
          scale = 255;
          char want[120];
          std::snprintf(want, sizeof want, "scale of expert 5, %s, row %d, group %d is byte 255",
                        MatrixName(m), static_cast<int>(row), static_cast<int>(group));
          INFO(spec.hidden << " x " << spec.intermediate << ": " << want);
          std::vector<uint8_t> sm90(static_cast<size_t>(Sm90SlabForm(spec).bytes));
          Sm90PackExpert(spec, raw, sm90.data());
          std::vector<uint8_t> cpu(static_cast<size_t>(CpuSlabForm(spec).bytes));
          const CpuLayout layout(spec);
          for (const Matrix of : kMatrices) {
            for (int64_t r = 0; r < spec.Rows(of); ++r) {
              for (int64_t g = 0; g < spec.K(of) / kGroupSize; ++g) {
                cpu[static_cast<size_t>(layout.Scales(0, of) + CpuScale(spec.K(of), r, g))] =
                    raw.scales(of)[static_cast<size_t>(r * (spec.K(of) / kGroupSize) + g)];
              }
            }
          }
          const struct {
            const std::vector<uint8_t>& slab;
            Status (*check)(const LayerSpec&, int32_t, const SlabPiece&);
          } forms[] = {{cpu, CheckCpuSlabScales}, {sm90, CheckSm90SlabScales}};
          for (const auto& form : forms) {
            const auto bytes = static_cast<int64_t>(form.slab.size());
            int refused = 0;
            for (const int64_t piece : {bytes, int64_t{1000}}) {
              for (int64_t at = 0; at < bytes; at += piece) {
                const Status status =
                    form.check(spec, 5, {form.slab.data() + at, at, std::min(piece, bytes - at)});
                if (status.ok()) continue;
                ++refused;
                CHECK(status.code == DSV4MX_STATUS_INVALID_SCALE);
                CHECK(std::string(LastError()).find(want) == 0);
              }
            }
            CHECK(refused == 2);
          }
          scale = before;
        }
      }
    }
  }
}

// A store of the CPU with memory of its own.
struct Store {
  explicit Store(const LayerSpec& s) : spec(std::make_shared<LayerSpec>(s)) {
    REQUIRE(ThreadPool::Make(2, &pool).ok());
    const auto bytes = static_cast<size_t>(CpuLayout(s).bytes());
    void* block = std::aligned_alloc(64, bytes);
    memory.reset(static_cast<uint8_t*>(block));
    std::memset(block, 0xEE, bytes);
    store = std::make_unique<cpu::CpuStore>(spec, block, pool.get(), &staging);
  }
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  std::shared_ptr<LayerSpec> spec;
  std::unique_ptr<ThreadPool> pool;
  cpu::Memory staging;
  std::unique_ptr<uint8_t, Free> memory;
  std::unique_ptr<cpu::CpuStore> store;
};

TEST_CASE("slab: an expert of the cpu moves between stores by its bytes", "[slab][cpu]") {
  LayerSpec spec = kSpecs[2], larger = kSpecs[2];
  larger.experts = 5;
  Store a(spec), b(larger);
  RawExpert raw = RandomExpert(spec, 7);
  raw.scales(Matrix::kUp)[0] = 254;  // needs the wide form
  for (const Matrix m : kMatrices) {
    const int64_t k = spec.K(m);
    REQUIRE(a.store->SetCodes(1, m, {raw.codes(m).data(), k / 2, 1, false, false}, kCall).ok());
    REQUIRE(a.store
                ->SetScales(1, m,
                            {raw.scales(m).data(), k / kGroupSize, 1, DSV4MX_DTYPE_E8M0, false},
                            kCall)
                .ok());
    const auto* bias = reinterpret_cast<const uint8_t*>(raw.bias(m).data());
    REQUIRE(a.store->SetBias(1, m, {bias, 4, DSV4MX_DTYPE_F32, false}, kCall).ok());
  }
  Census made, moved;
  REQUIRE(a.store->PrepareExpert(1, &made, kCall).ok());
  const SlabForm form = a.store->Form();
  REQUIRE(form.id == b.store->Form().id);
  REQUIRE(form.bytes == b.store->Form().bytes);
  CHECK(form.bytes % 64 == 0);
  std::vector<uint8_t> bytes(static_cast<size_t>(form.bytes) + 1);
  uint8_t* const slab = bytes.data() + 1;  // of any alignment
  REQUIRE(a.store->ReadSlab(1, slab, kCall).ok());
  REQUIRE(b.store->WriteSlab(4, slab, DSV4MX_MEMORY_HOST, kCall).ok());
  REQUIRE(b.store->PrepareExpert(4, &moved, kCall).ok());
  CHECK(std::memcmp(b.store->Slab(4), slab, static_cast<size_t>(form.bytes)) == 0);
  CHECK(b.store->Wide(4));
  CHECK(b.store->Wide(4) == a.store->Wide(1));
  CHECK(moved.scale_min == made.scale_min);
  CHECK(moved.scale_max == made.scale_max);
  CHECK(moved.span_max == made.span_max);
  CHECK(moved.any == made.any);
  // What is derived does not depend on what came.
  const CpuLayout layout(spec);
  std::memset(slab + layout.Padding(), 0x11,
              static_cast<size_t>(layout.slab_bytes() - layout.Padding()));
  REQUIRE(b.store->WriteSlab(3, slab, DSV4MX_MEMORY_HOST, kCall).ok());
  REQUIRE(b.store->PrepareExpert(3, &moved, kCall).ok());
  CHECK(std::memcmp(b.store->Slab(3), a.store->Slab(1), static_cast<size_t>(form.bytes)) == 0);
  CHECK(b.memory.get()[0] == 0xEE);  // other slots are left alone
  CHECK(b.store->Slab(2)[form.bytes - 1] == 0xEE);
}

}  // namespace
}  // namespace dsv4mx::test
