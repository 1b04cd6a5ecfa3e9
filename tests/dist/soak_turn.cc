#include "tests/dist/soak_turn.h"

#include <algorithm>
#include <random>

namespace dsv4mx::test {
namespace {

class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int64_t Below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool OneIn(int64_t n) { return Below(n) == 0; }
  template <class T>
  T One(std::initializer_list<T> of) {
    return of.begin()[Below(static_cast<int64_t>(of.size()))];
  }

 private:
  std::mt19937_64 random_;
};

std::string Number(const char* key, int64_t value) {
  return std::string(" ") + key + "=" + std::to_string(value);
}

void DrawGroup(Dice* d, Turn* t) {
  Layout& l = t->layout;
  l.size = d->One({1, 2, 2, 3, 4, 4, 5, 8});
  std::vector<int> divisors;
  for (int tp = 1; tp <= l.size; ++tp) {
    if (l.size % tp == 0) divisors.push_back(tp);
  }
  l.tp = divisors[static_cast<size_t>(d->Below(static_cast<int64_t>(divisors.size())))];
  if (l.ep() > 1 && d->OneIn(3)) l.ep_combine = DSV4MX_EP_RANK_REDUCE;
  const bool two = (l.tp & (l.tp - 1)) == 0;
  if (l.ep() == 1 && two && d->OneIn(2)) l.tp_reduce = DSV4MX_TP_INVARIANT;
  if (l.tp_reduce != DSV4MX_TP_INVARIANT && d->OneIn(2)) l.partial = DSV4MX_DTYPE_BF16;
  if (l.ep_combine == DSV4MX_EP_ROUTE_EXACT && d->OneIn(4)) l.slot = DSV4MX_DTYPE_F32;
  t->way = static_cast<Way>(d->Below(6));
  t->processes = t->way == Way::kProcessesShared || t->way == Way::kProcessesGather;
  t->peer =
      t->way == Way::kLocal || t->way == Way::kThreadsShared || t->way == Way::kProcessesShared;
  l.kind = t->way == Way::kLocal  ? DSV4MX_COMM_LOCAL
           : t->way == Way::kNccl ? DSV4MX_COMM_NCCL_ID
                                  : DSV4MX_COMM_CALLBACK;
  if (!t->peer && t->way != Way::kNccl) l.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
}

void DrawTokens(Dice* d, int64_t tokens, Layout* l) {
  if (!d->OneIn(4)) {
    l->tokens.assign(static_cast<size_t>(l->ep()), 0);
    // Often all in a few parts.
    const int64_t parts = 1 + d->Below(l->ep());
    for (int64_t t = 0; t < tokens; ++t) ++l->tokens[static_cast<size_t>(d->Below(parts))];
    std::rotate(l->tokens.begin(), l->tokens.begin() + d->Below(l->ep()), l->tokens.end());
  }
  if (d->OneIn(2)) l->max_tokens = 1 + d->Below(tokens);
  // Not hundreds of rounds.
  if (l->max_tokens != 0) l->max_tokens = std::max(l->max_tokens, tokens / 12 + 1);
}

void DrawProblem(Dice* d, Turn* t) {
  Layout& l = t->layout;
  const bool exact = l.ep() > 1 && l.ep_combine == DSV4MX_EP_ROUTE_EXACT;
  const bool tree = l.tp_reduce == DSV4MX_TP_INVARIANT;
  const bool w4a8 = !tree && d->OneIn(5);
  const int64_t unit = tree ? 256 : (w4a8 ? 128 : 32) * l.tp;
  const int64_t held = 1 + d->Below(4), experts = held * l.ep();
  const int64_t top_k = 1 + d->Below(std::min<int64_t>(experts, 6));
  const int64_t tokens = d->OneIn(12) ? 200 + d->Below(200) : 1 + d->Below(40);
  std::string& p = t->problem;
  p = "h=" + std::to_string(32 * (1 + d->Below(6))) + Number("i", unit * (1 + d->Below(2))) +
      Number("e", experts) + Number("k", top_k) + Number("m", tokens);
  if (exact) {
    p += std::string(" invariant=1 slot=") + (l.slot == DSV4MX_DTYPE_F32 ? "f32" : "bf16");
  } else {
    l.slot = 0;
  }
  if (w4a8) p += " compute=w4a8";
  if (d->OneIn(2)) p += " out=f32";
  if (d->OneIn(3)) p += " bias13=f32";
  if (d->OneIn(3)) {
    p += top_k == 1 && !w4a8 && d->OneIn(2) ? " wpos=input" : " wpos=before";
  } else if (d->OneIn(3)) {
    p += " bias2=f32";
  }
  if (d->OneIn(3)) p += " rsf=2.5";
  if (d->OneIn(3)) p += " clamp=10";
  if (d->OneIn(3)) p += " ids=i64";
  if (d->OneIn(3)) p += " rw=bf16";
  p += std::string(" dist=") + d->One({"uniform", "zipf", "one", "none", "half", "dup"});
  p += Number("seed", 1 + d->Below(1 << 30));
  DrawTokens(d, tokens, &l);
  if (l.tp != 1 || l.ep() == 1 || !d->OneIn(3)) return;
  // Copies, also two of one expert on one rank.
  for (int ep = 0; ep < l.ep(); ++ep) {
    std::vector<int32_t> experts_here;
    for (int64_t e = 0; e < held; ++e) experts_here.push_back(static_cast<int32_t>(ep * held + e));
    for (int64_t copies = d->Below(3); copies > 0; --copies)
      experts_here.push_back(static_cast<int32_t>(d->Below(experts)));
    l.placement.push_back(std::move(experts_here));
  }
}

}  // namespace

Turn DrawTurn(uint64_t seed) {
  Dice d(seed);
  Turn t;
  t.seed = seed;
  DrawGroup(&d, &t);
  DrawProblem(&d, &t);
  t.calls = static_cast<int>(1 + d.Below(4));
  t.victim = static_cast<int>(d.Below(t.layout.size));
  if (t.layout.size > 1 && d.OneIn(2)) {
    // Only windows have timeouts of their own, and an all_gather of a rank that has gone is its caller's matter.
    t.trouble = t.peer ? d.One({Trouble::kLate, Trouble::kTag, Trouble::kTag, Trouble::kAbort,
                                Trouble::kLeave, Trouble::kLeave, Trouble::kSkip})
                       : d.One({Trouble::kLate, Trouble::kTag, Trouble::kAbort});
  }
  t.layout.timeout_ns = t.trouble == Trouble::kSkip ? 1'000'000'000 : 60'000'000'000;
  return t;
}

std::string Turn::Text() const {
  std::string text = "turn " + std::to_string(seed) + ": \"" + problem + "\" on " +
                     std::to_string(layout.size) + " ranks, tp " + std::to_string(layout.tp) +
                     (layout.ep_combine == DSV4MX_EP_RANK_REDUCE ? ", RANK_REDUCE" : "") +
                     (layout.tp_reduce == DSV4MX_TP_INVARIANT ? ", TP_INVARIANT" : "") + ", " +
                     kWays[static_cast<int>(way)] + ", max_tokens " +
                     std::to_string(layout.max_tokens) + ", tokens";
  for (const int64_t n : layout.tokens) text += " " + std::to_string(n);
  return text + ", " + std::to_string(calls) + " calls, trouble " +
         kTroubles[static_cast<int>(trouble)] + " of rank " + std::to_string(victim);
}

}  // namespace dsv4mx::test
