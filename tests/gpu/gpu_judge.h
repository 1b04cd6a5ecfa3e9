// How calls on the device are judged: row by row against the fp64 reference, by the limits of section 7 of the architecture,
// with everything around the rows looked at too. Checks give "" or a text with the problem string that repeats the case.
#ifndef DSV4MX_TESTS_GPU_GPU_JUDGE_H_
#define DSV4MX_TESTS_GPU_GPU_JUDGE_H_

#include <string>
#include <vector>

#include "tests/check.h"
#include "tests/gpu/gpu_layer.h"

namespace dsv4mx::test {

// The reference's rows for `tokens` of the given inputs; x in device memory. Needs nothing of the library.
Reference ComputeOnGpu(const Case& c, const RawModel& raw, const Inputs& in, const uint16_t* x,
                       int64_t x_stride, const std::vector<int64_t>& tokens);

// Tokens to judge: all of them where the reference can afford it, else the first, the last, one without any expert and a
// random choice.
std::vector<int64_t> TokensToJudge(const GpuCall& call);

// The limits of section 7 of the architecture; one rounding more where slots are bf16.
Limits LimitsOf(const Problem& problem, int64_t rows);

// Judges rows that a finished call wrote, one by one and together, by these limits. "" or what is wrong. Prints a line
// per case if DSV4MX_VERBOSE is set.
std::string JudgeRows(const GpuCall& call, const std::vector<int64_t>& tokens);

// Runs and judges; looks at guards, gaps, and at every live row for numbers that are not finite.
std::string RunAndJudge(GpuCall* call);
std::string RunAndJudge(const GpuLayer& layer, const Inputs& in,
                        const GpuCallOptions& options = {});
// A problem string from nothing to the verdict.
std::string RunAndJudge(const std::string& text, const GpuCallOptions& options = {});

// "" if the live rows of both calls are the same bits.
std::string SameRows(const GpuCall& a, const GpuCall& b);

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_JUDGE_H_
