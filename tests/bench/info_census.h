// The scales of a block as its file has them. Unlike the census of prepared weights this counts groups of zeros too, whose
// scale means nothing: it reads no codes.
#ifndef DSV4MX_TESTS_BENCH_INFO_CENSUS_H_
#define DSV4MX_TESTS_BENCH_INFO_CENSUS_H_

#include <cstdint>
#include <string>

#include "dsv4mx.h"

namespace dsv4mx::bench {

struct Census {
  int64_t scales = 0;          // read
  int32_t min = 255, max = 0;  // bytes, 255 apart
  int32_t span = 0;            // most binades inside a row's run of 512 values
  int64_t nans = 0;            // bytes 255
  std::string error;           // why it is not complete, or ""
};

// Reads a tensor of scales, or the scales of a tensor of MXFP4 blocks (GGUF), whose dtype is OTHER.
void AddScales(const dsv4mx_checkpoint* checkpoint, const char* name, const dsv4mx_tensor& tensor,
               Census* census);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_INFO_CENSUS_H_
