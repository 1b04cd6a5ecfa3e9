// Plan files of one line for each rule.
#ifndef DSV4MX_TESTS_GPU_GPU_PLAN_H_
#define DSV4MX_TESTS_GPU_GPU_PLAN_H_

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "tests/catch.h"

namespace dsv4mx::test {

// Words of a problem: a plan that gives one path, by rule `rule`, with tiles of one width, to every number of tokens, and nothing
// to the kernels for few pairs.
inline std::string PlanOfRule(const char* rule, const char* path, int width) {
  // Not where the test was started: that may be the source tree.
  const std::string name = (std::filesystem::temp_directory_path() /
                            (std::string("dsv4mx_plan_") + path + "_" + std::to_string(width) +
                             "_" + std::to_string(getpid()) + ".csv"))
                               .string();
  std::FILE* f = std::fopen(name.c_str(), "w");
  REQUIRE(f != nullptr);
  std::fprintf(f, "dsv4mx-plan,1\n*,*,*,few,0,0\n*,*,*,%s,0,%s\n*,*,*,%s,0,%d\n", rule, path, path,
               width);
  std::fclose(f);
  return " plan=" + name;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_PLAN_H_
