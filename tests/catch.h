// Catch2 2.13 or 3.x, and what this suite adds to it: skipping with a printed reason (2.13 has none), and one way to
// write a test that runs on the CPU and, where there is one, on a CUDA device.
#ifndef DSV4MX_TESTS_CATCH_H_
#define DSV4MX_TESTS_CATCH_H_

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <string>

#include "dsv4mx.h"

namespace dsv4mx::test {

// Counts the running test case as skipped and prints why. The caller returns at once.
void Skip(const std::string& reason);

// What the main asks, as one more test case, after a run of all tests of the program that passed: "" or what is wrong.
struct FinalCheck {
  const char* name;
  std::string (*run)();
};
extern FinalCheck final_check;

// "" if a CUDA context can be made, else the library's reason. Asked once.
const std::string& WhyNoGpu();

}  // namespace dsv4mx::test

// Leaves the test case, counted as skipped, where no CUDA device can be used.
#define REQUIRE_GPU()                                   \
  do {                                                  \
    if (!::dsv4mx::test::WhyNoGpu().empty()) {          \
      ::dsv4mx::test::Skip(::dsv4mx::test::WhyNoGpu()); \
      return;                                           \
    }                                                   \
  } while (0)

// A test case for each kind of device: the body sees `dsv4mx_device device`.
#define DEVICE_TEST_NAME2(a, b) a##b
#define DEVICE_TEST_NAME(a, b) DEVICE_TEST_NAME2(a, b)
#define DEVICE_TEST_CASE(name, tags)                                                         \
  static void DEVICE_TEST_NAME(DeviceTest, __LINE__)([[maybe_unused]] dsv4mx_device device); \
  TEST_CASE(name ", cpu", tags "[cpu]") {                                                    \
    DEVICE_TEST_NAME(DeviceTest, __LINE__)(DSV4MX_DEVICE_CPU);                               \
  }                                                                                          \
  TEST_CASE(name ", cuda", tags "[gpu]") {                                                   \
    REQUIRE_GPU();                                                                           \
    DEVICE_TEST_NAME(DeviceTest, __LINE__)(DSV4MX_DEVICE_CUDA);                              \
  }                                                                                          \
  static void DEVICE_TEST_NAME(DeviceTest, __LINE__)([[maybe_unused]] dsv4mx_device device)

// A status with the library's text beside it, so that a failure says why.
#define REQUIRE_OK(expr)                                                                   \
  do {                                                                                     \
    const dsv4mx_status require_ok_ = (expr);                                              \
    INFO(#expr << ": " << dsv4mx_status_name(require_ok_) << ": " << dsv4mx_last_error()); \
    REQUIRE(require_ok_ == DSV4MX_STATUS_OK);                                              \
  } while (0)

// A refusal: the code, and words that its one line of text must contain.
#define REQUIRE_REFUSED(expr, code, words)                                          \
  do {                                                                              \
    const dsv4mx_status refused_ = (expr);                                          \
    const std::string refused_text_ = dsv4mx_last_error();                          \
    INFO(#expr << ": " << dsv4mx_status_name(refused_) << ": " << refused_text_);   \
    REQUIRE(std::string(dsv4mx_status_name(refused_)) == dsv4mx_status_name(code)); \
    REQUIRE(::dsv4mx::test::MissingWords(refused_text_, words) == "");              \
  } while (0)

namespace dsv4mx::test {
// The comma-separated `words` that `text` lacks (case ignored), or what is wrong with it as one line; "" if nothing.
std::string MissingWords(const std::string& text, const std::string& words);
}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_CATCH_H_
