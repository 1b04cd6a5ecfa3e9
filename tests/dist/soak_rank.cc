#include "tests/dist/soak_rank.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

float ValueAt(const Problem& p, const std::vector<uint8_t>& raw, size_t i) {
  float wide;
  uint16_t narrow;
  if (p.out == DSV4MX_DTYPE_F32) return std::memcpy(&wide, raw.data() + 4 * i, 4), wide;
  return std::memcpy(&narrow, raw.data() + 2 * i, 2), FromBf16(narrow);
}
size_t Values(const Problem& p, const std::vector<uint8_t>& raw) {
  return raw.size() / (p.out == DSV4MX_DTYPE_F32 ? 4 : 2);
}
bool AllNaN(const Problem& p, const std::vector<uint8_t>& raw) {
  for (size_t i = 0; i < Values(p, raw); ++i) {
    if (!std::isnan(ValueAt(p, raw, i))) return false;
  }
  return true;
}

}  // namespace

void Need(bool good, const std::string& what) {
  if (!good) throw std::runtime_error(what);
}

double Distance(const Problem& p, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < Values(p, b); ++i) {
    const double x = ValueAt(p, a, i), y = ValueAt(p, b, i);
    error += (x - y) * (x - y), norm += y * y;
  }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

Member::Member(const Turn& turn, const Case& c, const std::vector<uint8_t>& wanted, int rank)
    : t_(turn), c_(c) {
  rank_.rank = rank;
  MakePart(c, t_.layout, &rank_);
  const Share share = ShareOf(c.p, t_.layout, rank / t_.layout.tp);
  const int64_t row = c.p.hidden * (c.p.out == DSV4MX_DTYPE_F32 ? 4 : 2);
  wanted_.assign(wanted.begin() + share.first * row,
                 wanted.begin() + (share.first + share.count) * row);
}

void Member::Works(int calls) {
  for (int i = 0; i < calls; ++i) {
    CallOptions o;
    o.tag = static_cast<uint32_t>(i);
    Need(ApplyShare(c_, t_.layout, rank_, o) == wanted_, "other rows in call " + std::to_string(i));
    ++applied;
  }
}

void Member::Fails(std::initializer_list<dsv4mx_status> with, uint32_t tag) {
  CallOptions o;
  std::vector<uint8_t> rows;
  o.rows = &rows;
  o.tag = tag;
  for (int again = 0; again < 2; ++again) {
    dsv4mx_status status = DSV4MX_STATUS_OK;
    std::string text;
    const auto begin = Clock::now();
    while (status == DSV4MX_STATUS_OK) {
      Need(Since(begin) < 100, "no fault within 100 s");
      try {
        (void)ApplyShare(c_, t_.layout, rank_, o);
        ++applied;
      } catch (const Refused& e) {
        status = e.status;
        text = e.what();
      }
    }
    bool known = false;
    for (const dsv4mx_status s : with) known = known || s == status;
    Need(known, "another fault: " + text);
    Need(AllNaN(c_.p, rows), "rows that are not NaN after " + text);
    dsv4mx_comm_fault_info f = DSV4MX_COMM_FAULT_INFO_INIT;
    Must(dsv4mx_comm_query_faults(rank_.comm.get(), &f), "query_faults");
    Need(f.status == status, "query_faults says otherwise: " + text);
  }
}

bool Member::Endure() {
  constexpr auto kLost = DSV4MX_STATUS_COMM_RANK_LOST, kTimeout = DSV4MX_STATUS_COMM_TIMEOUT;
  // A fault also ends the call before, where a rank is still inside it.
  if (t_.trouble != Trouble::kNone) Reset();
  switch (t_.trouble) {
    case Trouble::kNone:
      return true;
    case Trouble::kLate:
      if (Victim()) std::this_thread::sleep_for(std::chrono::milliseconds(t_.seed % 30));
      Works(1);
      return true;
    case Trouble::kTag:
      Fails({DSV4MX_STATUS_COMM_MISMATCH}, Victim() ? 77 : 0);
      break;
    case Trouble::kAbort:
      // Over collectives nobody hears of it but its own rank.
      if (Victim() || !t_.peer) Must(dsv4mx_comm_abort(rank_.comm.get()), "abort");
      Fails({kLost});
      break;
    case Trouble::kSkip:
      if (Victim())
        std::this_thread::sleep_for(std::chrono::nanoseconds(t_.layout.timeout_ns * 3 / 2));
      Fails({kTimeout});
      break;
    case Trouble::kLeave:
      if (Victim()) return false;
      Fails({kLost});
      return false;
  }
  Reset();
  return true;
}

}  // namespace dsv4mx::test
