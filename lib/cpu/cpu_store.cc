#include "lib/cpu/cpu_store.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "lib/base/float_bits.h"
#include "lib/base/marlin.h"
#include "lib/base/scales.h"
#include "lib/base/shared_work.h"
#include "lib/cpu/cpu_kernels.h"

namespace dsv4mx::cpu {
namespace {

constexpr int kRows = kCpuTileRows;
constexpr int64_t kMostReading = int64_t{64} << 20;

// What one thread reads into: 64 of the longest rows of codes, so a tile of gate and one of up, and never less than the 64
// raw rows, padded, of a Marlin import.
int64_t BlockBytes(const LayerSpec& spec) {
  const int64_t row = (std::max(spec.hidden, spec.intermediate) + 127) / 128 * 128;
  return (64 * row / 2 + row / kGroup + kCpuAlign - 1) / kCpuAlign * kCpuAlign;
}

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

// Contiguous rows of bytes as lines of 32: 16 x 16 at a time, by four rounds of interleaving the halves.
void TransposeScales(const uint8_t* from, int64_t row_stride, int64_t groups, uint8_t* tile) {
  int64_t done = 0;
#if defined(__SSE2__)
  for (; done + 16 <= groups; done += 16) {
    for (int half = 0; half < kRows; half += 16) {
      __m128i a[16], b[16];
      for (int r = 0; r < 16; ++r) {
        a[r] = _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(from + (half + r) * row_stride + done));
      }
      for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 8; ++i) {
          b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
          b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
        }
        std::copy_n(b, 16, a);
      }
      for (int g = 0; g < 16; ++g) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(tile + (done + g) * kRows + half), a[g]);
      }
    }
  }
#endif
  for (int r = 0; r < kRows; ++r) {
    for (int64_t g = done; g < groups; ++g) tile[g * kRows + r] = from[r * row_stride + g];
  }
}

// Scales of the 32 rows from `row` on, in the view those from `at` on. Refuses the first bad one in their order.
Status PackScales(const ScalesView& v, int64_t at, int32_t expert, Matrix m, int64_t row, int64_t k,
                  uint8_t* scales) {
  const int64_t groups = k / kGroup;
  const bool bytes = ScaleElementBytes(v.dtype) == 1;
  uint8_t* tile = scales + CpuScale(k, row, 0);
  if (bytes && v.group_stride == 1) {
    const uint8_t* from = v.data + at * v.row_stride;
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = from + r * v.row_stride;
      const void* bad = std::memchr(p, 255, static_cast<size_t>(groups));
      if (bad == nullptr) continue;
      const int64_t g = static_cast<const uint8_t*>(bad) - p;
      return BadScale(expert, m, row + r, g, p + g, v.dtype);
    }
    TransposeScales(from, v.row_stride, groups, tile);
    return kOk;
  }
  for (int r = 0; r < kRows; ++r) {
    const uint8_t* from = v.data + (at + r) * v.row_stride;
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* p = from + g * v.group_stride;
      int byte = bytes ? *p : ScaleByte(p, v.dtype);
      if (byte == 255 || byte == kBadScale) return BadScale(expert, m, row + r, g, p, v.dtype);
      tile[g * kRows + r] = static_cast<uint8_t>(byte);
    }
  }
  return kOk;
}

void PackBias(const uint8_t* from, int64_t stride, int64_t rows, dsv4mx_dtype dtype, uint8_t* to) {
  for (int64_t row = 0; row < rows; ++row, from += stride, to += 4) {
    float value;
    if (dtype == DSV4MX_DTYPE_BF16) {
      value = FloatFromBf16(LoadUnit(from));
    } else {
      std::memcpy(&value, from, 4);
    }
    std::memcpy(to, &value, 4);
  }
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

CpuStore::CpuStore(std::shared_ptr<const LayerSpec> spec, void* memory, ThreadPool* pool,
                   const Memory* staging)
    : spec_(std::move(spec)),
      layout_(*spec_),
      memory_(static_cast<uint8_t*>(memory)),
      pool_(pool),
      staging_(staging),
      wide_(static_cast<size_t>(spec_->experts), 0) {}

int64_t CpuStore::ReadingBytes(const LayerSpec& spec, int threads) {
  const int64_t block = BlockBytes(spec);
  return block * std::clamp<int64_t>(kMostReading / block, 1, threads);
}

Status CpuStore::BeginReading(int64_t bytes, int threads, const Call&) {
  EndReading();
  const int64_t block = BlockBytes(*spec_);
  if (threads == 0 || threads > pool_->threads()) threads = pool_->threads();
  if (bytes == 0) bytes = ReadingBytes(*spec_, threads);
  DSV4MX_RETURN_IF(bytes < block, DSV4MX_STATUS_INVALID_ARGUMENT,
                   "staging_bytes is %lld, wanted at least %lld: a run of rows for one thread",
                   static_cast<long long>(bytes), static_cast<long long>(block));
  const int readers = static_cast<int>(std::min<int64_t>(bytes / block, threads));
  void* memory = nullptr;
  DSV4MX_TRY(staging_->Alloc(static_cast<size_t>(readers * block), kCpuAlign, &memory));
  reading_ = static_cast<uint8_t*>(memory);
  readers_ = readers;
  return kOk;
}

void CpuStore::EndReading() {
  staging_->Free(reading_, static_cast<size_t>(readers_ * BlockBytes(*spec_)));
  reading_ = nullptr;
  readers_ = 0;
}

// Calls pack(matrix, first row, rows, data, row stride) for runs of whole tiles, each by the thread that read it.
template <class Pack>
Status CpuStore::ReadRows(const RowsToRead& rows, Matrix m, const Call& call, Pack&& pack) {
  DSV4MX_RETURN_IF(reading_ == nullptr, DSV4MX_STATUS_INTERNAL, "rows to read before BeginReading");
  const int64_t step = rows.paired ? 2 : 1;  // rows of the source per row of a matrix
  const int64_t all = spec_->Rows(m) * step, tile = kRows * step;
  const int64_t row_bytes = rows.source->RowBytes(), block = BlockBytes(*spec_);
  // Some runs for each thread, as long as its block allows: a read costs a call of the system.
  const int64_t fair = (all / (4 * readers_) + tile - 1) / tile * tile;
  const int64_t run = std::max(std::min(fair, block / row_bytes / tile * tile), tile);
  return ShareWork(
      pool_, readers_, (all + run - 1) / run, all * row_bytes, call.control,
      [&](int64_t item, int reader) -> Status {
        const int64_t first = item * run, count = std::min(run, all - first);
        uint8_t* data = reading_ + reader * block;
        DSV4MX_TRY(rows.source->Read(first, count, data));
        for (int64_t i = 0; i < step; ++i) {
          const Matrix of = rows.paired && i == 1 ? Matrix::kUp : m;
          DSV4MX_TRY(pack(of, first / step, count / step, data + i * row_bytes, step * row_bytes));
        }
        return kOk;
      });
}

Status CpuStore::SetCodes(int32_t expert, Matrix m, const CodesView& v, const Call& call) {
  const int64_t k = spec_->K(m), tile_bytes = kRows * k / 2;
  if (v.rows.source != nullptr) {
    return ReadRows(
        v.rows, m, call,
        [&](Matrix of, int64_t first, int64_t rows, const uint8_t* data, int64_t stride) -> Status {
          uint8_t* codes = At(layout_.Codes(expert, of)) + first / kRows * tile_bytes;
          const CodesView run{data, stride, 1, v.high_first, false};
          for (int64_t row = 0; row < rows; row += kRows, codes += tile_bytes) {
            PackTileContiguous(run, row, k, codes);
          }
          return kOk;
        });
  }
  uint8_t* codes = At(layout_.Codes(expert, m));
  const auto pack = v.byte_stride == 1 ? PackTileContiguous : PackTileStrided;
  const int64_t tiles = spec_->Rows(m) / kRows;
  return ShareWork(pool_, pool_->threads(), tiles, tiles * tile_bytes, call.control,
                   [&](int64_t tile, int) -> Status {
                     pack(v, tile * kRows, k, codes + tile * tile_bytes);
                     return kOk;
                   });
}

Status CpuStore::SetScales(int32_t expert, Matrix m, const ScalesView& v, const Call& call) {
  const int64_t k = spec_->K(m);
  if (v.rows.source != nullptr) {
    return ReadRows(
        v.rows, m, call,
        [&](Matrix of, int64_t first, int64_t rows, const uint8_t* data, int64_t stride) -> Status {
          uint8_t* scales = At(layout_.Scales(expert, of));
          const ScalesView run{data, stride, ScaleElementBytes(v.dtype), v.dtype, false};
          for (int64_t row = 0; row < rows; row += kRows) {
            DSV4MX_TRY(PackScales(run, row, expert, of, first + row, k, scales));
          }
          return kOk;
        });
  }
  uint8_t* scales = At(layout_.Scales(expert, m));
  const int64_t tiles = spec_->Rows(m) / kRows;
  return ShareWork(pool_, pool_->threads(), tiles, tiles * k, call.control,
                   [&](int64_t tile, int) -> Status {
                     return PackScales(v, tile * kRows, expert, m, tile * kRows, k, scales);
                   });
}

Status CpuStore::SetBias(int32_t expert, Matrix m, const BiasView& v, const Call& call) {
  if (v.rows.source != nullptr) {
    return ReadRows(
        v.rows, m, call,
        [&](Matrix of, int64_t first, int64_t rows, const uint8_t* data, int64_t stride) -> Status {
          PackBias(data, stride, rows, v.dtype, At(layout_.Bias(expert, of)) + 4 * first);
          return kOk;
        });
  }
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
    Merge(found, census);
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
