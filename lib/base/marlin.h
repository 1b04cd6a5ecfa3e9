// The Marlin form of one expert on the host: packing it from rows, unpacking it into rows, and the
// paddings it comes with. The positions themselves are the index functions of
// kernels/mxfp4/layout.h.
#ifndef DSV4MX_LIB_BASE_MARLIN_H_
#define DSV4MX_LIB_BASE_MARLIN_H_

#include <cstdint>

#include "lib/base/expert_rows.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

// Sizes of the padded matrices and of one expert's part of each tensor.
struct MarlinShape {
  int64_t hidden = 0, intermediate = 0;  // padded
  int64_t Rows13() const { return 2 * intermediate; }
  int64_t W13Bytes() const { return Rows13() * hidden / 2; }
  int64_t W2Bytes() const { return hidden * intermediate / 2; }
  int64_t W13ScaleBytes() const { return Rows13() * hidden / kGroupSize; }
  int64_t W2ScaleBytes() const { return hidden * intermediate / kGroupSize; }
};

// SGLang's rule: I to 64 when H is a multiple of 128, else to 128; H to 64.
MarlinShape DefaultMarlinShape(const LayerSpec& spec);

// Checks the paddings, the expert range, the memory kind and the bias type of a descriptor against
// the layer and resolves their defaults in place; biases that the layer does not have are refused.
Status ResolveMarlin(const LayerSpec& spec, dsv4mx_marlin* marlin);

// The descriptor of `index` experts further on: the same paddings, every pointer moved. Needs a
// resolved one.
dsv4mx_marlin MarlinSlab(const dsv4mx_marlin& resolved, int64_t index);

// One expert whose pointers are host memory of any alignment; NULL tensors are left out. Needs a
// resolved descriptor (paddings and bias type not 0). Padding is written as zero codes, zero scale
// bytes and zero biases.
void PackMarlin(const LayerSpec& spec, const ExpertReader& rows, const dsv4mx_marlin& slab);

// Refuses scale byte 255 with the expert's position; padding is not looked at.
Status CheckMarlinScales(const LayerSpec& spec, int32_t expert, const dsv4mx_marlin& slab);

// The inverse; padding is not looked at. Scale byte 255 fails with the expert's position before a
// row is written.
Status UnpackMarlin(const LayerSpec& spec, int32_t expert, const dsv4mx_marlin& slab,
                    ExpertWriter* rows);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_MARLIN_H_
