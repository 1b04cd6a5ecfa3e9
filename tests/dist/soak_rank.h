// A rank of a turn: it computes, goes through the turn's trouble and says what is wrong by an exception.
#ifndef DSV4MX_TESTS_DIST_SOAK_RANK_H_
#define DSV4MX_TESTS_DIST_SOAK_RANK_H_

#include <initializer_list>
#include <string>
#include <vector>

#include "tests/dist/soak_turn.h"

namespace dsv4mx::test {

void Need(bool good, const std::string& what);
// Relative, of two results of a problem.
double Distance(const Problem& p, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b);

class Member {
 public:
  // wanted: rows of the whole problem.
  Member(const Turn& turn, const Case& c, const std::vector<uint8_t>& wanted, int rank);
  Rank& rank() { return rank_; }
  bool Victim() const { return rank_.rank == t_.victim; }

  void Works(int calls);
  // Until something goes wrong, which has to be this; rows are NaN then, and the next call says the same.
  void Fails(std::initializer_list<dsv4mx_status> with, uint32_t tag = 0);
  void Reset() { Must(dsv4mx_comm_reset(rank_.comm.get(), nullptr), "reset"); }
  // The turn's trouble. False: the group is at its end.
  bool Endure();

  int64_t applied = 0;

 private:
  const Turn& t_;
  const Case& c_;
  std::vector<uint8_t> wanted_;
  Rank rank_;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_DIST_SOAK_RANK_H_
