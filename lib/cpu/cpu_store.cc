#include "lib/cpu/cpu_store.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "lib/base/float_bits.h"
#include "lib/base/marlin.h"
#include "lib/base/scales.h"
#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;

uint16_t LoadUnit(const uint8_t* p) {
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}
void StoreUnit(uint8_t* p, uint16_t v) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}

uint16_t SwapNibbles(uint16_t unit) {
  return static_cast<uint16_t>((unit & 0x0f0f) << 4 | (unit >> 4 & 0x0f0f));
}

// One tile of 32 rows from the caller's view: a transposition of 16-bit units.
void PackTileStrided(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile) {
  for (int64_t u = 0; u < k / kCpuUnitK; ++u) {
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* from = v.data + (first_row + r) * v.row_stride + 2 * u * v.byte_stride;
      const uint16_t unit = static_cast<uint16_t>(from[0] | from[v.byte_stride] << 8);
      StoreUnit(tile + (u * kRows + r) * 2, v.high_first ? SwapNibbles(unit) : unit);
    }
  }
}

// The same where a row's bytes are contiguous: 8 x 8 units at a time, in the vectors that every x86-64 has.
void PackTileContiguous(const CodesView& v, int64_t first_row, int64_t k, uint8_t* tile) {
#if defined(__SSE2__)
  const __m128i low = _mm_set1_epi8(0x0f);
  for (int64_t u = 0; u < k / kCpuUnitK; u += 8) {
    for (int r0 = 0; r0 < kRows; r0 += 8) {
      __m128i a[8], b[8];
      for (int r = 0; r < 8; ++r) {
        a[r] = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(v.data + (first_row + r0 + r) * v.row_stride + 2 * u));
        if (v.high_first) {
          a[r] = _mm_or_si128(_mm_slli_epi16(_mm_and_si128(a[r], low), 4),
                              _mm_and_si128(_mm_srli_epi16(a[r], 4), low));
        }
      }
      for (int i = 0; i < 4; ++i) {  // pairs of rows, then of pairs, then of those
        b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
      }
      for (int i = 0; i < 2; ++i) {
        for (int h = 0; h < 2; ++h) {
          a[4 * i + 2 * h] = _mm_unpacklo_epi32(b[4 * i + h], b[4 * i + 2 + h]);
          a[4 * i + 2 * h + 1] = _mm_unpackhi_epi32(b[4 * i + h], b[4 * i + 2 + h]);
        }
      }
      uint8_t* to = tile + (u * kRows + r0) * 2;
      for (int i = 0; i < 4; ++i) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * 2 * kRows),
                         _mm_unpacklo_epi64(a[i], a[4 + i]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * 2 * kRows),
                         _mm_unpackhi_epi64(a[i], a[4 + i]));
      }
    }
  }
#else
  PackTileStrided(v, first_row, k, tile);
#endif
}

// Census of one tile; `codes` and `scales` are the tile's.
void CountTile(const uint8_t* codes, const uint8_t* scales, int64_t k, Census* census) {
  constexpr int64_t kBlockGroups = kPromotionK / kGroup;
  const int64_t groups = k / kGroup;
  for (int64_t block = 0; block < groups; block += kBlockGroups) {
    uint8_t low[kRows], high[kRows];  // of this block, per row; low > high = nothing seen
    std::fill_n(low, kRows, uint8_t{255});
    std::fill_n(high, kRows, uint8_t{0});
    for (int64_t g = block; g < std::min(groups, block + kBlockGroups); ++g) {
      uint16_t any[kRows] = {};
      for (int u = 0; u < kGroup / kCpuUnitK; ++u) {
        uint16_t line[kRows];
        std::memcpy(line, codes + (g * (kGroup / kCpuUnitK) + u) * 2 * kRows, sizeof line);
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

void Merge(const Census& from, Census* into) {
  into->any = into->any || from.any;
  into->scale_min = std::min(into->scale_min, from.scale_min);
  into->scale_max = std::max(into->scale_max, from.scale_max);
  into->span_max = std::max(into->span_max, from.span_max);
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
    for (int64_t g = 0; g < k / kGroup; ++g) to[CpuScale(k, row, g)] = scales[g];
  }
  void WriteBias(Matrix m, int64_t row, float bias) override {
    std::memcpy(writable_->At(store_.layout_.Bias(expert_, m)) + 4 * row, &bias, 4);
  }

 private:
  CpuStore* writable_;
  const CpuStore& store_;
  int32_t expert_;
};

CpuStore::CpuStore(std::shared_ptr<const LayerSpec> spec, void* memory, ThreadPool* pool)
    : spec_(std::move(spec)),
      layout_(*spec_),
      memory_(static_cast<uint8_t*>(memory)),
      pool_(pool),
      wide_(static_cast<size_t>(spec_->experts), 0) {}

Status CpuStore::SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call&) {
  const int64_t k = spec_->K(m), tile_bytes = kRows * k / 2;
  uint8_t* codes = At(layout_.Codes(expert, m));
  const auto pack = v.byte_stride == 1 ? PackTileContiguous : PackTileStrided;
  pool_->For(spec_->Rows(m) / kRows,
             [&](int64_t tile, int) { pack(v, tile * kRows, k, codes + tile * tile_bytes); });
  return kOk;
}

Status CpuStore::SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call&) {
  const int64_t k = spec_->K(m), groups = k / kGroup, rows = spec_->Rows(m);
  uint8_t* scales = At(layout_.Scales(expert, m));
  const bool bytes = ScaleElementBytes(v.dtype) == 1;
  constexpr int64_t kRun = 64;  // groups at a time, so that a row of any length needs no memory
  std::atomic<int64_t> bad{rows *
                           groups};  // first position that is refused, whatever thread met it first
  pool_->For(rows / kRows, [&](int64_t tile, int) {
    for (int64_t begin = 0; begin < groups; begin += kRun) {
      const int64_t end = std::min(groups, begin + kRun);
      for (int64_t row = tile * kRows; row < (tile + 1) * kRows; ++row) {
        const uint8_t* from = v.data + row * v.row_stride;
        for (int64_t g = begin; g < end; ++g) {
          const uint8_t* p = from + g * v.group_stride;
          int byte = bytes ? *p : ScaleByte(p, v.dtype);
          if (byte == 255) byte = kBadScale;
          if (byte == kBadScale) {
            int64_t at = row * groups + g, first = bad.load();
            while (at < first && !bad.compare_exchange_weak(first, at)) {
            }
            return;
          }
          scales[CpuScale(k, row, g)] = static_cast<uint8_t>(byte);
        }
      }
    }
  });
  const int64_t at = bad.load(), row = at / groups, group = at % groups;
  if (at == rows * groups) return kOk;
  return BadScale(expert, m, row, group, v.data + row * v.row_stride + group * v.group_stride,
                  v.dtype);
}

Status CpuStore::SetBias(int32_t expert, Matrix m, const BiasView& v, const Call&) {
  uint8_t* bias = At(layout_.Bias(expert, m));
  for (int64_t row = 0; row < spec_->Rows(m); ++row) {
    const uint8_t* p = v.data + row * v.stride;
    float value;
    if (v.dtype == DSV4MX_DTYPE_BF16) {
      value = FloatFromBf16(LoadUnit(p));
    } else {
      std::memcpy(&value, p, 4);
    }
    std::memcpy(bias + 4 * row, &value, 4);
  }
  return kOk;
}

void CpuStore::Inspect(const uint8_t* slab, Census* census, bool* wide) const {
  std::mutex merging;
  *wide = false;
  for (const Matrix m : kMatrices) {
    const int64_t k = spec_->K(m);
    pool_->For(spec_->Rows(m) / kRows, [&](int64_t tile, int) {
      const uint8_t* scales = slab + layout_.Scales(0, m) + tile * k;
      Census found;
      CountTile(slab + layout_.Codes(0, m) + tile * kRows * k / 2, scales, k, &found);
      const uint8_t top = *std::max_element(scales, scales + k);
      const std::lock_guard<std::mutex> lock(merging);
      Merge(found, census);
      *wide = *wide || top >= kFirstWideScale;
    });
  }
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

Status CpuStore::ReadSlabPart(int32_t expert, int64_t first, int64_t bytes, void* to,
                              const Call&) const {
  std::memcpy(to, Slab(expert) + first, static_cast<size_t>(bytes));
  return kOk;
}

Status CpuStore::WriteSlabPart(int32_t expert, int64_t first, int64_t bytes, const void* from,
                               const Call&) {
  std::memcpy(HostSlab(expert) + first, from, static_cast<size_t>(bytes));
  return kOk;
}

void CpuStore::ReadCodes(int32_t e, Matrix m, int64_t row, uint8_t* codes) const {
  const int64_t k = spec_->K(m);
  const uint8_t* from = Codes(e, m) + CpuCode(k, row, 0).byte;
  for (int64_t u = 0; u < k / kCpuUnitK; ++u) std::memcpy(codes + 2 * u, from + u * 2 * kRows, 2);
}

void CpuStore::ReadScales(int32_t e, Matrix m, int64_t row, uint8_t* scales) const {
  const int64_t k = spec_->K(m);
  const uint8_t* from = Scales(e, m) + CpuScale(k, row, 0);
  for (int64_t g = 0; g < k / kGroup; ++g) scales[g] = from[g * kRows];
}

}  // namespace dsv4mx::cpu
