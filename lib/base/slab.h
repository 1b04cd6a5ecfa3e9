// One prepared expert as bytes: relocatable, of one size for every expert of a layer, with the same id in every process and
// on every machine. A layout's name changes whenever its bytes come to mean something else.
#ifndef DSV4MX_LIB_BASE_SLAB_H_
#define DSV4MX_LIB_BASE_SLAB_H_

#include <absl/functional/function_ref.h>

#include <cstdint>

#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

struct SlabForm {
  const char* layout;  // in words: "cpu 1", "sm90 1"
  uint64_t id;         // dsv4mx_slab.id: of layout, hidden, channels held and biases
  int64_t bytes;       // of one slab
};

// What bytes of a slab are. Derived ones follow from the others: prepare makes them, and it fills up with zeros.
enum class SlabPart { kCodes, kScales, kBias, kDerived };
// Told of the stretches of a slab, ascending, without gaps.
using SlabStretch = absl::FunctionRef<void(SlabPart part, int64_t offset, int64_t bytes)>;

// A run of a slab's bytes in host memory.
struct SlabPiece {
  const uint8_t* data;
  int64_t first, bytes;  // of the slab
};

// CheckScales: INVALID_SCALE with the position of a scale byte 255 in the piece, of which `expert` is told.
SlabForm CpuSlabForm(const LayerSpec& spec);
void ForCpuSlab(const LayerSpec& spec, SlabStretch f);
Status CheckCpuSlabScales(const LayerSpec& spec, int32_t expert, const SlabPiece& piece);

SlabForm Sm90SlabForm(const LayerSpec& spec);
void ForSm90Slab(const LayerSpec& spec, SlabStretch f);
Status CheckSm90SlabScales(const LayerSpec& spec, int32_t expert, const SlabPiece& piece);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_SLAB_H_
