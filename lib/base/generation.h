// What the kernels of a device generation can do: the table through which the plan and the texts learn of them, so that
// nothing in lib but generation.cc asks the kernels themselves. Another generation is another table.
#ifndef DSV4MX_LIB_BASE_GENERATION_H_
#define DSV4MX_LIB_BASE_GENERATION_H_

#include <cstdint>

#include "kernels/launch.h"

namespace dsv4mx {

struct Generation {
  const char* architecture;                 // what they are compiled for: "sm_90a"
  int32_t compute_capability;               // of the devices that run them: 10 * major + minor
  const char* plan;                         // its built-in rows (lib/base/tuning)
  const TileWidths* widths;                 // by Path
  int32_t max_scale;                        // largest scale byte of all paths but the wide one
  int32_t f16_least_scale, f16_most_scale;  // scale bytes of weights that f16 holds
  int32_t level_least_scale;  // least scale byte of weights whose layers may be levelled
  int32_t level_most_spread;  // and how far these may be apart
  int32_t few_tokens;         // most tokens of a tile of the kernels for few pairs
  int32_t few_pairs;          // most pairs of a call that takes them
  int64_t
      counted_in_place;  // most pairs whose experts are counted by every kernel, not by one in front
  int32_t whole_k;       // of hidden: what is behind multiples of it goes through slower code
  // Whether calls of so many pairs can take the kernels for few pairs.
  bool (*few_fits)(int64_t hidden, int64_t intermediate, int64_t experts, int64_t pairs,
                   int64_t top_k, bool quantised);
  // Whether they write slots, which a combine adds up.
  bool (*few_combines)(int64_t tokens);
  // Launches of a call, by the kernels for few pairs and by the others.
  int32_t (*few_launches)(int64_t tokens);
  int32_t (*launches)(int64_t pairs);

  TileWidths WidthsOf(Path path) const { return widths[static_cast<int32_t>(path)]; }
};
extern const Generation kSm90;

// That of a device, by 10 * major + minor; null where no kernels are built for it.
const Generation* FindGeneration(int32_t compute_capability);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_GENERATION_H_
