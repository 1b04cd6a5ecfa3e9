#include "tests/loops/lanes.h"

#include <memory>
#include <thread>
#include <vector>

namespace dsv4mx::test {
namespace {

constexpr int kLanes = 128;

alignas(1024) uint8_t memory[kSharedBytes];
uint32_t fragments[kLanes][4];
std::unique_ptr<std::barrier<>> meeting;
thread_local int own_lane;

}  // namespace

uint8_t* const shared_memory = memory;

double FromE4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (bits & 128) != 0 ? -magnitude : magnitude;
}

void Multiply(int columns, float* d, const uint32_t* a, uint64_t descriptor, int accumulate) {
  std::memcpy(fragments[own_lane], a, sizeof fragments[0]);
  meeting->arrive_and_wait();
  const uint32_t base = static_cast<uint32_t>(descriptor & 0x3FFF) << 4;
  const int warp = own_lane / 32, g = own_lane % 32 / 4, t = own_lane % 4;
  for (int half = 0; half < 2; half++) {
    double row[32];  // row g or g + 8 of the warp's 16
    for (int k = 0; k < 32; k++) {
      const uint32_t word = fragments[warp * 32 + g * 4 + k % 16 / 4][k / 16 * 2 + half];
      row[k] = FromE4m3(static_cast<uint8_t>(word >> 8 * (k % 4)));
    }
    for (int column = 2 * t; column < columns; column += column % 2 == 0 ? 1 : 7) {
      double sum = 0;
      for (uint32_t k = 0; k < 32; k++) {
        uint32_t at = base + static_cast<uint32_t>(column) * 128 + k;
        at ^= (at >> 7 & 7) << 4;
        sum += row[k] * FromE4m3(memory[at]);
      }
      float& to = d[column / 8 * 4 + half * 2 + column % 2];
      to = static_cast<float>((accumulate != 0 ? static_cast<double>(to) : 0.0) + sum);
    }
  }
  meeting->arrive_and_wait();
}

void RunLanes(const std::function<void(int)>& f) {
  meeting = std::make_unique<std::barrier<>>(kLanes);
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < kLanes; lane++) {
    lanes.emplace_back([&f, lane] {
      own_lane = lane;
      f(lane);
    });
  }
  for (std::thread& lane : lanes) lane.join();
}

}  // namespace dsv4mx::test
