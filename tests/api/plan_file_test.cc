// The plan file of a context, and the plan's refusals, through the ABI: told before any device is looked for.
#include <cstdio>
#include <string>

#include "tests/catch.h"
#include "tests/runner.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("[E7] a bad plan file is refused with its line, with or without a device", "[context]") {
  if (std::string(dsv4mx_version_string()).find("sm_90a") == std::string::npos) {
    return Skip("this build has no CUDA backend");
  }
  const char* path = "plan_file_test.csv";
  std::FILE* f = std::fopen(path, "wb");
  REQUIRE(f != nullptr);
  std::fputs("dsv4mx-plan,1\n*,*,*,path,0,fast\n", f);
  std::fclose(f);
  for (const dsv4mx_device device : {DSV4MX_DEVICE_CUDA, DSV4MX_DEVICE_AUTO}) {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = device;
    dsv4mx_context_experimental x = DSV4MX_CONTEXT_EXPERIMENTAL_INIT;
    x.plan_file = path;
    d.experimental = &x;
    dsv4mx_context* c = reinterpret_cast<dsv4mx_context*>(0x10);
    REQUIRE_REFUSED(dsv4mx_context_create(&d, &c), DSV4MX_STATUS_FORMAT_ERROR,
                    "plan_file_test.csv:2,fast,wanted,planes");
    CHECK(c == nullptr);
    x.plan_file = "no/such/plan.csv";
    REQUIRE_REFUSED(dsv4mx_context_create(&d, &c), DSV4MX_STATUS_IO_ERROR, "no/such/plan.csv");
    CHECK(c == nullptr);
  }
  std::remove(path);
}

}  // namespace
}  // namespace dsv4mx::test
