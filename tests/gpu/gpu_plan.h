// Plan files of few lines.
#ifndef DSV4MX_TESTS_GPU_GPU_PLAN_H_
#define DSV4MX_TESTS_GPU_GPU_PLAN_H_

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/catch.h"

namespace dsv4mx::test {

// Words of a problem: a plan file of these lines, each without its first three columns, named after them.
inline std::string PlanOfLines(const std::vector<std::string>& lines) {
  std::string text = "dsv4mx-plan,1\n";
  for (const std::string& line : lines) text += "*,*,*," + line + "\n";
  // Not where the test was started: that may be the source tree.
  const std::string name = (std::filesystem::temp_directory_path() /
                            ("dsv4mx_plan_" + std::to_string(std::hash<std::string>()(text)) + "_" +
                             std::to_string(getpid()) + ".csv"))
                               .string();
  std::FILE* f = std::fopen(name.c_str(), "w");
  REQUIRE(f != nullptr);
  std::fputs(text.c_str(), f);
  std::fclose(f);
  return " plan=" + name;
}

// Words of a problem: a plan that gives one path, by rule `rule`, with tiles of one width, to every number of tokens, and nothing
// to the kernels for few pairs; and more lines.
inline std::string PlanOfRule(const char* rule, const char* path, int width,
                              const std::vector<std::string>& more = {}) {
  std::vector<std::string> lines = {"few,0,0", std::string(rule) + ",0," + path,
                                    std::string(path) + ",0," + std::to_string(width), "hot,0,0",
                                    "cold,0,0"};
  lines.insert(lines.end(), more.begin(), more.end());
  return PlanOfLines(lines);
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_GPU_PLAN_H_
