// A machine for kernels that are compiled for the host: CTAs whose threads are fibers, with what SM 9.0 gives them to meet at
// (warp operations, named barriers, mbarriers, clusters), copies that arrive later than they are asked for, and wgmma. It
// computes what the device computes but for the rounding inside a product's sum. What it cannot see: whether fences of
// memory stand where they must, and how fast anything is.
//
// Everything that a kernel gets wrong on the way (a barrier that nobody meets, an address outside shared memory, lanes that
// disagree) ends the launch with one line of text, as a fault of the device would.
#ifndef DSV4MX_TESTS_EMULATOR_MACHINE_H_
#define DSV4MX_TESTS_EMULATOR_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace dsv4mx::emulator {

struct Size {
  unsigned x = 1, y = 1, z = 1;
};

// One launch. `thread` runs once in each thread.
struct Launch {
  Size grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 0;  // CTAs along x, 0 = 1
  std::function<void()> thread;
};

// Devices run beside each other, each its launches one by one.
inline constexpr int kMostDevices = 8;

// Runs all of it. "" or what went wrong.
std::string Run(const Launch& launch, int device = 0);

// CTAs, or CTAs of a cluster, run side by side on this many threads of the host.
void SetHostThreads(int threads);

// ------------------------------------------------------------------------------------------- of the running thread --

struct Thread {
  Size index, block;  // threadIdx, blockIdx
  Size block_size, grid;
};
const Thread& This();

// Lanes of a warp meet: `mine` of every lane of `mask`, by lane. `operation` names the meeting place, the same in all.
struct Lanes {
  const uint64_t* values;  // [32]
  uint32_t present;        // lanes that came; those that have ended are missing
  int lane;
};
Lanes Meet(const char* operation, uint32_t mask, uint64_t mine);

// Lets the others of the CTA go on: who waits for what another CTA, or another device, stores may wait for one of its own.
void Rest();

void NamedBarrier(int id, int threads);  // threads 0 = all of the CTA that have not ended
// Whether any thread of the CTA says so.
bool AnyOfAll(bool mine);

// --------------------------------------------------------------------------------------------------- shared memory --

// Addresses as the device's 32-bit ones; those of another CTA of the cluster come from ClusterAddress.
uint32_t AddressOf(const void* pointer);
uint8_t* At(uint32_t address, size_t bytes);
uint8_t* DynamicShared();

void BarrierInit(uint32_t bar, uint32_t count);
void BarrierArrive(uint32_t bar);
void BarrierArriveExpect(uint32_t bar, uint32_t bytes);
void BarrierWait(uint32_t bar, uint32_t parity);
bool BarrierTest(uint32_t bar, uint32_t parity);

// Arrives some time later, and counts then.
void BulkCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t bar);
// So do these, and what they count is the arrival.
void AsyncCopy16(uint32_t to, const void* from);
void AsyncCopiesArrive(uint32_t bar);
// Leaves at the latest when this thread waits.
void BulkStore(void* to, uint32_t from, uint32_t bytes);
void BulkStoreWait();

// --------------------------------------------------------------------------------------------------------- cluster --

uint32_t ClusterRank();
uint32_t ClusterAddress(uint32_t address, uint32_t rank);
void* ClusterPointer(void* pointer, uint32_t rank);
void ClusterBarrier();
void Send(uint32_t to, const void* words, uint32_t bytes, uint32_t bar);

// ----------------------------------------------------------------------------------------------------------- wgmma --

// m64 x columns, 32 bytes of K, A from registers, B from rows of 128 bytes with 128-byte swizzle; a warpgroup meets.
enum class Number { kE4m3, kBf16, kF16 };
void Multiply(Number number, int columns, float* d, const uint32_t* a, uint64_t b, bool accumulate);

double FromE4m3(uint8_t bits);

}  // namespace dsv4mx::emulator

#endif  // DSV4MX_TESTS_EMULATOR_MACHINE_H_
