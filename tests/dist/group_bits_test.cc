// What groups promise about bits: expert-parallel ranks give those of one rank, tensor-parallel ranks the same on every rank
// and from run to run, and TP_INVARIANT the same at every size.
#include <cmath>
#include <cstring>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/dist/group.h"
#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

std::vector<uint8_t> OneRank(const Case& c) {
  return Runner(c).Apply().raw;
}

std::string Differs(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a.size() != b.size())
    return std::to_string(a.size()) + " bytes, wanted " + std::to_string(b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) return "byte " + std::to_string(i) + " of " + std::to_string(a.size());
  }
  return "";
}

// Relative distance of a result in the problem's type.
double Error(const Problem& p, const std::vector<uint8_t>& raw, const std::vector<double>& truth) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    float y;
    uint16_t narrow;
    if (p.out == DSV4MX_DTYPE_F32) {
      std::memcpy(&y, raw.data() + 4 * i, 4);
    } else {
      std::memcpy(&narrow, raw.data() + 2 * i, 2);
      y = FromBf16(narrow);
    }
    error += (y - truth[i]) * (y - truth[i]);
    norm += truth[i] * truth[i];
  }
  return std::sqrt(error / norm);
}

// Routes meet everything that enters the arithmetic of a row.
const char* const kProblems[] = {
    "h=128 i=64 e=16 k=4 m=37 slot=bf16 invariant=1 clamp=10 rsf=2.5",
    "h=96 i=96 e=8 k=3 m=20 slot=bf16 invariant=1 out=f32 bias13=f32 bias2=f32",
    "h=64 i=32 e=8 k=6 m=24 slot=bf16 invariant=1 dist=dup ids=i64 rw=bf16",
    "h=64 i=128 e=8 k=2 m=16 slot=bf16 invariant=1 wpos=before compute=w4a8",
    "h=64 i=64 e=8 k=1 m=9 slot=bf16 invariant=1 wpos=input dist=half",
    "h=64 i=64 e=8 k=2 m=19 slot=bf16 invariant=1 dist=one",
};

TEST_CASE("[D1] route-exact expert parallel has the bits of one rank", "[dist]") {
  for (const char* text : kProblems) {
    const Case c = MakeCase(text);
    const auto one = OneRank(c);
    for (const int size : {1, 2, 4, 8}) {
      INFO(text << " on " << size);
      Layout layout;
      layout.size = size;
      CHECK(Differs(RunGroup(c, layout), one) == "");
    }
  }
}

TEST_CASE("[D2] ranks may have any number of tokens, none included, and take several rounds",
          "[dist]") {
  const Case c = MakeCase("h=64 i=64 e=8 k=2 m=40 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto& tokens : std::vector<std::vector<int64_t>>{
           {40, 0, 0, 0}, {0, 0, 0, 40}, {1, 2, 36, 1}, {16, 0, 8, 16}, {17, 15, 7, 1}}) {
    for (const int64_t max_tokens : {0, 8, 16, 17, 1}) {
      Layout layout;
      layout.size = 4;
      layout.tokens = tokens;
      layout.max_tokens = max_tokens;
      INFO("max_tokens " << max_tokens << ", first " << tokens[0]);
      CHECK(Differs(RunGroup(c, layout, 3), one) == "");
    }
  }
}

TEST_CASE("[D3] redundant copies change no bits, whichever serves", "[dist]") {
  const Case c = MakeCase("h=64 i=64 e=6 k=3 m=30 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  Layout layout;
  layout.size = 3;
  layout.placement = {{0, 1, 2, 5}, {3, 4, 0}, {5, 5, 0, 1, 3}};
  CHECK(Differs(RunGroup(c, layout), one) == "");
  // Physical ids name copies themselves.
  Case physical = c;
  const std::vector<int32_t> copies = {0, 1, 2, 5, 3, 4, 0, 5, 5, 0, 1, 3};
  uint32_t turn = 0;
  for (int64_t& id : physical.in.ids) {
    std::vector<int64_t> places;
    for (size_t i = 0; i < copies.size(); ++i) {
      if (copies[i] == id) places.push_back(static_cast<int64_t>(i));
    }
    id = places[turn++ % places.size()];
  }
  layout.physical = true;
  CHECK(Differs(RunGroup(physical, layout), one) == "");
}

TEST_CASE("[D4] rank-reduce is right, and the same from run to run", "[dist]") {
  for (const char* text :
       {"h=128 i=64 e=16 k=4 m=37 out=f32 rsf=2.5", "h=64 i=32 e=8 k=6 m=24 dist=dup"}) {
    const Case c = MakeCase(text);
    const Reference truth = Compute(c);
    for (const int size : {2, 4, 8}) {
      for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
        Layout layout;
        layout.size = size;
        layout.ep_combine = DSV4MX_EP_RANK_REDUCE;
        layout.partial = partial;
        const auto first = RunGroup(c, layout), second = RunGroup(c, layout, 2);
        INFO(text << " on " << size << " partial " << partial);
        CHECK(Differs(first, second) == "");
        CHECK(Error(c.p, first, truth.truth) <= (partial == DSV4MX_DTYPE_F32 ? 3e-3 : 4e-3));
      }
    }
  }
}

TEST_CASE("[D5] tensor parallel: one result on every rank, right, from run to run", "[dist]") {
  const Case c = MakeCase("h=128 i=256 e=4 k=2 m=300 out=f32 rsf=1.5 bias2=f32 bias13=f32");
  const Reference truth = Compute(c);
  for (const int size : {2, 4, 8}) {
    for (const dsv4mx_dtype partial : {DSV4MX_DTYPE_F32, DSV4MX_DTYPE_BF16}) {
      Layout layout;
      layout.size = layout.tp = size;
      layout.partial = partial;
      const auto first = RunGroup(c, layout, 1, 0);
      INFO(size << " ranks, partial " << partial);
      CHECK(Differs(RunGroup(c, layout, 3, size - 1), first) == "");
      CHECK(Error(c.p, first, truth.truth) <= (partial == DSV4MX_DTYPE_F32 ? 3e-3 : 4e-3));
    }
  }
}

TEST_CASE("[D6] TP_INVARIANT: the same bits at 1, 2, 4 and 8 ranks", "[dist]") {
  for (const char* text :
       {"h=128 i=256 e=4 k=3 m=300 rsf=1.5 bias2=f32 bias13=f32 out=f32",
        "h=64 i=512 e=4 k=2 m=17 slot=bf16 clamp=10", "h=64 i=1024 e=4 k=2 m=5 compute=w4a8"}) {
    const Case c = MakeCase(text);
    std::vector<uint8_t> one;
    for (const int size : {1, 2, 4, 8}) {
      Layout layout;
      layout.size = layout.tp = size;
      layout.tp_reduce = DSV4MX_TP_INVARIANT;
      const auto got = RunGroup(c, layout, 2, size - 1);
      if (size == 1) one = got;
      INFO(text << " at " << size);
      CHECK(Differs(got, one) == "");
    }
    Layout self;
    self.kind = DSV4MX_COMM_SELF;
    self.tp_reduce = DSV4MX_TP_INVARIANT;
    CHECK(Differs(RunGroup(c, self), one) == "");
  }
}

TEST_CASE("[D7] tensor parallel inside, expert parallel between: the bits of one part", "[dist]") {
  const Case c = MakeCase("h=64 i=128 e=8 k=3 m=26 slot=bf16 invariant=1 rsf=2");
  for (const int tp : {2, 4}) {
    Layout alone;
    alone.size = alone.tp = tp;
    const auto wanted = RunGroup(c, alone);
    Layout both;
    both.size = 8;
    both.tp = tp;
    both.tokens = tp == 2 ? std::vector<int64_t>{10, 0, 15, 1} : std::vector<int64_t>{7, 19};
    INFO("tp " << tp);
    CHECK(Differs(RunGroup(c, both, 2, tp - 1), wanted) == "");
  }
}

TEST_CASE("[D9] processes' way: callbacks and windows in shared memory", "[dist]") {
  const Case c = MakeCase("h=64 i=64 e=8 k=2 m=21 slot=bf16 invariant=1");
  const auto one = OneRank(c);
  for (const auto transport : {DSV4MX_COMM_TRANSPORT_AUTO, DSV4MX_COMM_TRANSPORT_PEER}) {
    Layout layout;
    layout.kind = DSV4MX_COMM_CALLBACK;
    layout.transport = transport;
    layout.size = 4;
    CHECK(Differs(RunGroup(c, layout, 3), one) == "");
  }
}

TEST_CASE("[D8] F32 slots are exact too, where communicator and layer agree on them", "[dist]") {
  const Case c = MakeCase("h=64 i=64 e=8 k=2 m=12 slot=f32 invariant=1");
  Layout layout;
  layout.size = 4;
  layout.slot = DSV4MX_DTYPE_F32;
  CHECK(Differs(RunGroup(c, layout), OneRank(c)) == "");
}

}  // namespace
}  // namespace dsv4mx::test
