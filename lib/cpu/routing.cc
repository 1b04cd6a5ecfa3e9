#include "lib/cpu/routing.h"

#include <algorithm>

namespace dsv4mx::cpu {
namespace {

// `local` tells the local expert of a token's slot, or -1.
template <class Local>
void Sort(const LayerSpec& spec, int64_t tokens, const Local& local, Routing* r) {
  const int64_t all = tokens * spec.top_k;
  std::fill_n(r->count, spec.experts, 0);
  for (int64_t t = 0, p = 0; t < tokens; ++t) {
    for (int slot = 0; slot < spec.top_k; ++slot, ++p) {
      const int32_t expert = local(t, slot);
      r->place[p] = expert;  // for the moment
      if (expert >= 0) ++r->count[expert];
    }
  }
  r->pairs = 0;
  r->hit = 0;
  for (int32_t e = 0; e < spec.experts; ++e) {
    const int32_t count = r->count[e];
    r->count[e] = r->pairs;  // from now on the expert's next free place
    if (count == 0) continue;
    r->experts[r->hit] = e;
    r->begin[r->hit++] = r->pairs;
    r->pairs += count;
  }
  r->begin[r->hit] = r->pairs;
  for (int64_t p = 0; p < all; ++p) {
    if (r->place[p] < 0) continue;
    const int32_t place = r->count[r->place[p]]++;
    r->pair[place] = static_cast<int32_t>(p);
    r->place[p] = place;
  }
}

}  // namespace

void Route(const LayerSpec& spec, const PairArray& ids, int64_t tokens, Routing* r) {
  Sort(
      spec, tokens, [&](int64_t t, int slot) { return spec.LocalExpert(ids.Id(t, slot)); }, r);
}

void RouteLocal(const LayerSpec& spec, const int32_t* experts, int64_t tokens, Routing* r) {
  Sort(
      spec, tokens, [&](int64_t t, int slot) { return experts[t * spec.top_k + slot]; }, r);
}

void CountPairs(const Routing& r, int64_t* expert_counts) {
  if (expert_counts == nullptr) return;
  for (int32_t i = 0; i < r.hit; ++i) {
    // Calls in flight may count into the same array.
    __atomic_fetch_add(&expert_counts[r.experts[i]], int64_t{r.begin[i + 1] - r.begin[i]},
                       __ATOMIC_RELAXED);
  }
}

Status CheckIds(const LayerSpec& spec, const PairArray& ids, int64_t tokens, int64_t* invalid) {
  int64_t count = 0, first = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int slot = 0; slot < spec.top_k; ++slot) {
      if (spec.placement.IsId(ids.Id(t, slot))) continue;
      if (count++ == 0) first = t * spec.top_k + slot;
    }
  }
  *invalid = count;
  if (count == 0) return kOk;
  const long long token = first / spec.top_k, slot = first % spec.top_k;
  return Fail(
      DSV4MX_STATUS_INVALID_ID,
      "id %lld of token %lld is %lld, wanted -1..%d; invalid ids in all: %lld (ids_dtype is "
      "%s)",
      slot, token, static_cast<long long>(ids.Id(token, static_cast<int>(slot))),
      spec.placement.id_count - 1, static_cast<long long>(count),
      ids.dtype == DSV4MX_DTYPE_I64 ? "I64" : "I32");
}

Routing CarveRouting(const LayerSpec& spec, int64_t tokens, Carver* carver) {
  const int64_t pairs = tokens * spec.top_k, hit = std::min<int64_t>(spec.experts, pairs);
  Routing r;
  r.experts = carver->Take<int32_t>(hit);
  r.begin = carver->Take<int32_t>(hit + 1);
  r.pair = carver->Take<int32_t>(pairs);
  r.place = carver->Take<int32_t>(pairs);
  r.count = carver->Take<int32_t>(spec.experts);
  return r;
}

}  // namespace dsv4mx::cpu
