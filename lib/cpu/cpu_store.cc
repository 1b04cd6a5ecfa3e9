#include "lib/cpu/cpu_store.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "lib/base/marlin.h"
#include "lib/base/scales.h"
#include "lib/cpu/cpu_kernels.h"
#include "lib/cpu/cpu_pack.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;

// Census of one tile; `codes` and `scales` are the tile's.
void CountTile(const uint8_t* codes, const uint8_t* scales, int64_t k, Census* census) {
  constexpr int64_t kBlockGroups = kPromotionK / kGroupSize;
  const int64_t groups = k / kGroupSize;
  for (int64_t block = 0; block < groups; block += kBlockGroups) {
    uint8_t low[kRows], high[kRows];  // of this block, per row; low > high = nothing seen
    std::fill_n(low, kRows, uint8_t{255});
    std::fill_n(high, kRows, uint8_t{0});
    for (int64_t g = block; g < std::min(groups, block + kBlockGroups); ++g) {
      uint16_t any[kRows] = {};
      for (int u = 0; u < kGroupSize / kCpuUnitK; ++u) {
        uint16_t line[kRows];
        std::memcpy(line, codes + (g * (kGroupSize / kCpuUnitK) + u) * 2 * kRows, sizeof line);
        for (int r = 0; r < kRows; ++r) any[r] = static_cast<uint16_t>(any[r] | (line[r] & 0x7777));
      }
      const uint8_t* s = scales + g * kRows;
      for (int r = 0; r < kRows; ++r) {
        low[r] = any[r] != 0 ? std::min(low[r], s[r]) : low[r];
        high[r] = any[r] != 0 ? std::max(high[r], s[r]) : high[r];
      }
    }
    for (int r = 0; r < kRows; ++r) {
      if (low[r] > high[r]) continue;
      census->any = true;
      census->scale_min = std::min<int32_t>(census->scale_min, low[r]);
      census->scale_max = std::max<int32_t>(census->scale_max, high[r]);
      census->span_max = std::max<int32_t>(census->span_max, high[r] - low[r]);
    }
  }
}

}  // namespace

// One expert's rows for the Marlin code.
class CpuStore::Rows final : public ExpertReader, public ExpertWriter {
 public:
  Rows(CpuStore* writable, const CpuStore& store, int32_t expert)
      : writable_(writable), store_(store), expert_(expert) {}

  void ReadCodes(Matrix m, int64_t row, uint8_t* codes) const override {
    store_.ReadCodes(expert_, m, row, codes);
  }
  void ReadScales(Matrix m, int64_t row, uint8_t* scales) const override {
    store_.ReadScales(expert_, m, row, scales);
  }
  float ReadBias(Matrix m, int64_t row) const override { return store_.Bias(expert_, m)[row]; }
  void WriteCodes(Matrix m, int64_t row, const uint8_t* codes) override {
    const int64_t k = store_.spec().K(m);
    uint8_t* to = writable_->At(store_.layout_.Codes(expert_, m));
    for (int64_t u = 0; u < k / kCpuUnitK; ++u) {
      std::memcpy(to + CpuCode(k, row, u * kCpuUnitK).byte, codes + 2 * u, 2);
    }
  }
  void WriteScales(Matrix m, int64_t row, const uint8_t* scales) override {
    const int64_t k = store_.spec().K(m);
    uint8_t* to = writable_->At(store_.layout_.Scales(expert_, m));
    for (int64_t g = 0; g < k / kGroupSize; ++g) to[CpuScale(k, row, g)] = scales[g];
  }
  void WriteBias(Matrix m, int64_t row, float bias) override {
    std::memcpy(writable_->At(store_.layout_.Bias(expert_, m)) + 4 * row, &bias, 4);
  }

 private:
  CpuStore* writable_;
  const CpuStore& store_;
  int32_t expert_;
};

CpuStore::CpuStore(std::shared_ptr<const LayerSpec> spec, void* memory, ThreadPool* pool,
                   const Memory* staging)
    : spec_(std::move(spec)),
      layout_(*spec_),
      memory_(static_cast<uint8_t*>(memory)),
      pool_(pool),
      staging_(staging),
      wide_(static_cast<size_t>(spec_->experts), 0) {}

Status CpuStore::SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call&) {
  const int64_t k = spec_->K(m), tile_bytes = kRows * k / 2, tiles = spec_->Rows(m) / kRows;
  pool_->For(v.experts * tiles, [&](int64_t item, int) {
    CodesView one = v;
    one.data += item / tiles * v.expert_stride;
    const auto to = static_cast<int32_t>(expert + item / tiles);
    const int64_t tile = item % tiles;
    PackCodes(one, tile * kRows, k, At(layout_.Codes(to, m)) + tile * tile_bytes);
  });
  return kOk;
}

Status CpuStore::SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call&) {
  const int64_t k = spec_->K(m), tiles = spec_->Rows(m) / kRows;
  uint8_t* scales = At(layout_.Scales(expert, m));
  const auto pack = [&](int64_t tile) {
    return PackScales(v, tile * kRows, expert, m, tile * kRows, k, scales);
  };
  // The first that is refused, whatever thread meets it; and this one says so.
  std::atomic<int64_t> refused{tiles};
  pool_->For(tiles, [&](int64_t tile, int) {
    if (tile > refused.load(std::memory_order_relaxed) || pack(tile).ok()) return;
    int64_t least = refused.load();
    while (tile < least && !refused.compare_exchange_weak(least, tile)) {
    }
  });
  return refused < tiles ? pack(refused) : kOk;
}

Status CpuStore::SetBias(int32_t expert, Matrix m, const BiasView& v, const Call&) {
  PackBias(v.data, v.stride, spec_->Rows(m), v.dtype, At(layout_.Bias(expert, m)));
  return kOk;
}

// One loop over the tiles of all matrices: the threads meet once.
void CpuStore::Inspect(const uint8_t* slab, Census* census, bool* wide) const {
  std::mutex merging;
  *wide = false;
  const int64_t half = spec_->intermediate / kRows;  // tiles of gate, and of up
  pool_->For(2 * half + spec_->hidden / kRows, [&](int64_t item, int) {
    const Matrix m = item < half ? Matrix::kGate : item < 2 * half ? Matrix::kUp : Matrix::kDown;
    const int64_t tile = m == Matrix::kDown ? item - 2 * half : item % half, k = spec_->K(m);
    const uint8_t* scales = slab + layout_.Scales(0, m) + tile * k;
    Census found;
    CountTile(slab + layout_.Codes(0, m) + tile * kRows * k / 2, scales, k, &found);
    const uint8_t top = *std::max_element(scales, scales + k);
    const std::lock_guard<std::mutex> lock(merging);
    census->Add(found);
    *wide = *wide || top >= kFirstWideScale;
  });
}

void CpuStore::SetDerived(int32_t expert, bool wide) {
  const int64_t padding = layout_.Padding();
  std::memset(SlabOf(expert) + padding, 0, static_cast<size_t>(layout_.slab_bytes() - padding));
  wide_[static_cast<size_t>(expert)] = wide ? 1 : 0;
}

Status CpuStore::PrepareExpert(int32_t expert, Census* census, const Call&) {
  bool wide;
  Inspect(Slab(expert), census, &wide);
  SetDerived(expert, wide);
  return kOk;
}

Status CpuStore::ImportMarlin(int32_t expert, const dsv4mx_marlin& slab, const Call&) {
  Rows rows(this, *this, expert);
  return UnpackMarlin(*spec_, expert, slab, &rows);
}

Status CpuStore::ExportMarlin(const dsv4mx_marlin& resolved, const Call& call) const {
  for (int32_t i = 0; i < resolved.expert_count; ++i) {
    DSV4MX_TRY(call.control.Report(DSV4MX_STAGE_CONVERT, i, resolved.expert_count));
    PackMarlin(*spec_, Rows(nullptr, *this, resolved.expert_first + i), MarlinSlab(resolved, i));
  }
  return call.control.Report(DSV4MX_STAGE_CONVERT, resolved.expert_count, resolved.expert_count);
}

void CpuStore::ReadCodes(int32_t e, Matrix m, int64_t row, uint8_t* codes) const {
  const int64_t k = spec_->K(m);
  const uint8_t* from = Codes(e, m) + CpuCode(k, row, 0).byte;
  for (int64_t u = 0; u < k / kCpuUnitK; ++u) std::memcpy(codes + 2 * u, from + u * 2 * kRows, 2);
}

void CpuStore::ReadScales(int32_t e, Matrix m, int64_t row, uint8_t* scales) const {
  const int64_t k = spec_->K(m);
  const uint8_t* from = Scales(e, m) + CpuScale(k, row, 0);
  for (int64_t g = 0; g < k / kGroupSize; ++g) scales[g] = from[g * kRows];
}

}  // namespace dsv4mx::cpu
