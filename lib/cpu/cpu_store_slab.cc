// Whole experts of the CPU's store: as bytes, from other stores, and read back tensor by tensor.
#include <absl/cleanup/cleanup.h>

#include <algorithm>
#include <cstring>

#include "lib/cpu/cpu_store.h"

namespace dsv4mx::cpu {

void CpuStore::CopySlab(const uint8_t* from, uint8_t* to) const {
  if (from == to) return;
  constexpr int64_t kPiece = int64_t{1} << 20;
  const int64_t bytes = layout_.slab_bytes();
  pool_->For((bytes + kPiece - 1) / kPiece, [&](int64_t i, int) {
    const int64_t at = i * kPiece;
    std::memcpy(to + at, from + at, static_cast<size_t>(std::min(kPiece, bytes - at)));
  });
}

Status CpuStore::ReadSlab(int32_t expert, void* to, const Call&) const {
  CopySlab(Slab(expert), static_cast<uint8_t*>(to));
  return kOk;
}

Status CpuStore::WriteSlab(int32_t expert, const void* from, dsv4mx_memory, const Call&) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  DSV4MX_TRY(CheckCpuSlabScales(*spec_, expert, {bytes, 0, layout_.slab_bytes()}));
  CopySlab(bytes, SlabOf(expert));
  return kOk;
}

Status CpuStore::ReplaceSlab(int32_t expert, const void* from, dsv4mx_memory, Allow allow,
                             const Call&) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  DSV4MX_TRY(CheckCpuSlabScales(*spec_, expert, {bytes, 0, layout_.slab_bytes()}));
  Census census;
  bool wide;
  Inspect(bytes, &census, &wide);
  DSV4MX_TRY(allow(census));
  CopySlab(bytes, SlabOf(expert));
  SetDerived(expert, wide);
  return kOk;
}

Status CpuStore::CopyExpert(int32_t expert, const ExpertStore& given, int32_t from_expert,
                            const Call&) {
  const auto& from = static_cast<const CpuStore&>(given);
  CopySlab(from.Slab(from_expert), SlabOf(expert));
  wide_[static_cast<size_t>(expert)] = from.wide_[static_cast<size_t>(from_expert)];
  return kOk;
}

Status CpuStore::Get(int32_t expert, Matrix m, const TensorSink& to, const Call&) const {
  const int64_t rows = spec_->Rows(m), k = spec_->K(m);
  if (to.form == TensorForm::kBias) {
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(to.data + row * to.row_stride, Bias(expert, m) + row, sizeof(float));
    }
    return kOk;
  }
  // A row in raw form and as it is wanted, for each thread.
  const int64_t codes_bytes = k / 2, scales_bytes = k / kGroupSize;
  const int64_t each = codes_bytes + scales_bytes + to.RowBytes(k);
  const auto bytes = static_cast<size_t>(each * pool_->threads());
  void* buffers = nullptr;
  DSV4MX_TRY(staging_->Alloc(bytes, kCpuAlign, &buffers));
  const absl::Cleanup give_back = [&] { staging_->Free(buffers, bytes); };
  pool_->For(rows / kCpuTileRows, [&](int64_t tile, int thread) {
    uint8_t* codes = static_cast<uint8_t*>(buffers) + thread * each;
    uint8_t* scales = codes + codes_bytes;
    uint8_t* row = scales + scales_bytes;
    for (int64_t r = tile * kCpuTileRows; r < (tile + 1) * kCpuTileRows; ++r) {
      ReadCodes(expert, m, r, codes);
      ReadScales(expert, m, r, scales);
      to.MakeRow(codes, scales, k, row);
      to.PutRow(row, k, r);
    }
  });
  return kOk;
}

}  // namespace dsv4mx::cpu
