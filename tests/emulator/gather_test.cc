// The gather by itself, judged against what launch.h promises: panel rows in stable order, every byte of a panel row, what
// stands beside it, and nothing anywhere else. Numbers of tokens around those where it divides its work otherwise.
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/launch.h"
#include "kernels/mxfp4/layout.h"
#include "tests/catch.h"
#include "tests/numbers.h"
#include "tests/random.h"

namespace dsv4mx::test {
namespace {

constexpr uint8_t kPoison = 0xA5;
constexpr int kPoisonRow = -77;

enum class Ids { kUniform, kOne, kLast, kNone, kForeign, kDup, kWild, kBlocks };
constexpr Ids kIds[] = {Ids::kUniform, Ids::kOne, Ids::kLast, Ids::kNone,
                        Ids::kForeign, Ids::kDup, Ids::kWild, Ids::kBlocks};

struct Case {
  Path path = Path::kPlanes;
  int hidden = 96, experts = 32, experts_global = 32, expert_first = 0, top_k = 6, tokens = 1;
  Ids ids = Ids::kUniform;
  bool wide = false, mapped = false, quantised = false, on_input = false, on_hidden = false;
  int live = -1, begin = 0;  // tokens_device, less than 0 = none
  int most = kAnyCount;
  Path beside = Path::kBf16;  // of rows of experts that are larger
  bool strange = false;       // rows of zeros, of Inf and NaN, of all binades
  bool listed = false,
       in_parts = false;  // counts by a kernel of their own; sizes of a larger chunk
};

std::vector<int64_t> MakeIds(const Case& c, Rng& rng) {
  std::vector<int64_t> ids(static_cast<size_t>(c.tokens) * static_cast<size_t>(c.top_k));
  const int64_t all = c.experts_global, first = c.expert_first, last = first + c.experts - 1;
  for (size_t i = 0; i < ids.size(); ++i) {
    int64_t& id = ids[i];
    id = rng.Below(all);
    switch (c.ids) {
      case Ids::kUniform:
        break;
      case Ids::kOne:
        id = first;
        break;
      case Ids::kLast:
        id = last;
        break;
      case Ids::kNone:
        id = -1;
        break;
      case Ids::kForeign:
        id = rng.Below(8) == 0 ? id : last + 1;
        break;
      case Ids::kDup:
        id = first + rng.Below(2) * (c.experts - 1);
        break;
      case Ids::kWild: {
        const int64_t wild[] = {-1,
                                -2,
                                all,
                                all + 1,
                                INT32_MAX,
                                INT32_MIN,
                                id,
                                id,
                                c.wide ? INT64_MAX : 7,
                                c.wide ? INT64_MIN : -7,
                                c.wide ? int64_t{1} << 32 : 0};
        id = wild[rng.Below(static_cast<int64_t>(std::size(wild)))];
        break;
      }
      // Long runs of one expert, falling.
      case Ids::kBlocks:
        id = last - static_cast<int64_t>(i) / 50 % c.experts;
        break;
    }
  }
  return ids;
}

uint8_t E4m3(float v) {
  return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}
float FromE4m3(uint8_t b) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(b, __NV_E4M3)));
}
// The least power of two that is not less than peak / 448.
float ScaleOf(float peak) {
  if (peak == 0) return 0x1p-126f;
  int e;
  const float m = std::frexp(peak, &e);
  return std::max(std::ldexp(1.0f, e - 9 + (m > 0.875f)), 0x1p-126f);
}

// One rounding to nearest, ties to even; v is finite and rounds to less than 2^16.
uint16_t ToF16(double v) {
  const int sign = std::signbit(v) ? 0x8000 : 0;
  if (v == 0) return static_cast<uint16_t>(sign);
  const int ulp = std::max(std::ilogb(v) - 10, -24);
  // Of 2^10 and above the tenth bit is the exponent's lowest: subnormals and carries need no case of their own.
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(std::fabs(v), -ulp)));
  return static_cast<uint16_t>(sign + (ulp + 24) * 1024 + steps);
}
// The power of two that brings the peak to 2^14 and more, below 2^15.
float F16ScaleOf(float peak) {
  return peak == 0 ? 0x1p-126f : std::max(std::ldexp(1.0f, std::ilogb(peak) - 14), 0x1p-126f);
}

struct Row {
  std::vector<uint8_t> bytes;  // lines of 128, not swizzled; of planes two a block
  float scale = 1;             // that values are divided by
  float stands = -7;           // what is to stand beside them: poison where nothing is
  bool nan = false;            // by its scale: bytes may be any
};
Row MakeRow(const Case& c, Path path, const uint16_t* x, float weight) {
  const int64_t h = c.hidden;
  std::vector<float> v(static_cast<size_t>(h));
  float peak = 0;
  bool finite = true;
  for (size_t k = 0; k < v.size(); ++k) {
    v[k] = FromBf16(x[k]);
    if (c.on_input) v[k] = FromBf16(ToBf16(v[k] * weight));
    peak = std::max(peak, std::fabs(v[k]));
    finite = finite && std::isfinite(v[k]);
  }
  if (c.quantised) {
    for (size_t k = 0; k < v.size(); k += 128) {
      float top = 1e-4f;
      const size_t end = std::min(v.size(), k + 128);
      for (size_t i = k; i < end; ++i) top = std::max(top, std::fabs(v[i]));
      for (size_t i = k; i < end; ++i) v[i] = FromE4m3(E4m3(v[i] / ScaleOf(top))) * ScaleOf(top);
    }
  }
  const bool planes = path == Path::kPlanes, one = IsE4m3(path), f16 = path == Path::kF16;
  Row row;
  row.bytes.assign(static_cast<size_t>((h + 127) / 128 * (one ? 128 : 256)), 0);
  if (planes) row.scale = ScaleOf(peak);
  if (one) row.scale = ScaleOf(std::max(peak, 1e-4f));
  if (f16) row.scale = F16ScaleOf(peak);
  // Weights as f16 are 2^12 times too large.
  if (planes || one || f16) row.stands = f16 ? std::ldexp(row.scale, -12) : row.scale;
  if (!finite && row.stands != -7) {
    row.nan = true, row.stands = NAN;
    return row;
  }
  for (int64_t k = 0; k < h; ++k) {
    const float y = v[static_cast<size_t>(k)] / row.scale;
    if (planes) {
      const int64_t at = Sm90PlaneIndex(h, k);
      uint8_t* const to = &row.bytes[static_cast<size_t>(at / 128 * 256 + at % 128)];
      to[0] = E4m3(y);
      to[128] = E4m3((y - FromE4m3(to[0])) * 16);
    } else if (one) {
      row.bytes[static_cast<size_t>(Sm90PlaneIndex(h, k))] = E4m3(y);
    } else {
      // Of NaN as bf16, the one that the device's conversion gives.
      const uint16_t bits = f16 ? ToF16(y) : std::isnan(y) ? uint16_t{0x7FFF} : ToBf16(y);
      const int64_t at = f16 ? Sm90F16Index(h, k) : Sm90Bf16Index(h, k);
      std::memcpy(&row.bytes[static_cast<size_t>(at * 2)], &bits, 2);
    }
  }
  return row;
}

// One row of each kind after the other: as it is, then those that a scale has to do with.
void MakeStrange(uint16_t* x, size_t hidden, int kind, Rng& rng) {
  const auto binades = [&](int least, int all) {
    for (size_t k = 0; k < hidden; ++k)
      x[k] = ToBf16(std::ldexp(rng.Normal(), least + static_cast<int>(rng.Below(all))));
  };
  const size_t one = static_cast<size_t>(rng.Below(static_cast<int64_t>(hidden)));
  if (kind == 1) std::fill(x, x + hidden, uint16_t{0});
  if (kind == 2) std::fill(x, x + hidden, uint16_t{0x8000});
  if (kind == 3) binades(-40, 50);   // f16 rounds
  if (kind == 4) binades(70, 50);    // large
  if (kind == 5) binades(-133, 12);  // numbers below the least scale's, and subnormal ones
  if (kind == 6) x[one] = 0x7F80;    // Inf
  if (kind == 7) x[one] = 0xFFC1;    // NaN
  if (kind == 8) x[one] = 0x7F7F;    // the largest number
  if (kind == 9) {
    std::fill(x, x + hidden, uint16_t{0});
    x[one] = 0x8001;  // the least
  }
  if (kind == 10) binades(-126, 30);  // about where the scale ends
}
constexpr int kStrange = 11;

bool Same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

// "" or what is wrong.
std::string Judge(const Case& c) {
  Rng rng(11, static_cast<uint64_t>(c.tokens * 8 + static_cast<int>(c.ids)));
  const std::vector<int64_t> ids = MakeIds(c, rng);
  const size_t pairs = ids.size();
  std::vector<int32_t> narrow(ids.begin(), ids.end()), map(static_cast<size_t>(c.experts_global));
  for (size_t i = 0; i < map.size(); ++i) {
    const int e = static_cast<int>(i * 7 % map.size());
    map[i] = e < c.experts ? e : -1;
  }
  const int64_t stride = c.hidden + 8;
  std::vector<uint16_t> x(static_cast<size_t>(c.tokens * stride));
  for (uint16_t& v : x) v = ToBf16(std::ldexp(rng.Normal(), static_cast<int>(rng.Below(20)) - 10));
  for (int t = 0; c.strange && t < c.tokens; ++t)
    MakeStrange(&x[static_cast<size_t>(t * stride)], static_cast<size_t>(c.hidden), t % kStrange,
                rng);
  std::vector<float> weights(pairs);
  for (float& w : weights) w = static_cast<float>(rng.Normal());
  const int32_t live = c.live;

  GatherArgs a{};
  Routing& r = a.routing;
  r.ids = c.wide ? static_cast<const void*>(ids.data()) : narrow.data();
  r.ids_are_64 = c.wide;
  r.expert_map = c.mapped ? map.data() : nullptr;
  r.tokens_device = c.live < 0 && c.live != -5 ? nullptr : &live;
  r.token_begin = c.begin;
  r.tokens = c.tokens, r.top_k = c.top_k;
  r.experts = c.experts, r.expert_first = c.expert_first, r.experts_global = c.experts_global;
  a.panel_rows = MoePanelRows(static_cast<int64_t>(pairs), c.experts);
  const size_t rows = static_cast<size_t>(a.panel_rows);
  std::vector<int32_t> counts(static_cast<size_t>(c.experts), kPoisonRow),
      taken(kClearedWords, kPoisonRow), panel_row(pairs, kPoisonRow);
  std::vector<uint8_t> panel(static_cast<size_t>(MoePanelBytes(a.panel_rows, c.hidden)) + 16,
                             kPoison);
  uint8_t* const at = panel.data() + (16 - reinterpret_cast<uintptr_t>(panel.data()) % 16) % 16;
  std::vector<int32_t> source(rows, kPoisonRow), want_source(source);
  std::vector<float> row_scale(rows, -7.0f), hidden_weight(rows, -7.0f);
  a.counts = counts.data(), a.taken = taken.data(), a.panel_row = panel_row.data();
  std::vector<uint16_t> moved(x.size() + 8);  // bulk copies want multiples of 16 bytes
  uint16_t* const x_at =
      moved.data() + (16 - reinterpret_cast<uintptr_t>(moved.data()) % 16) % 16 / 2;
  std::copy(x.begin(), x.end(), x_at);
  a.x = x_at, a.x_stride = stride, a.hidden = c.hidden;
  a.panel = at;
  // Not where rows of another form stand in the panel as well.
  const bool all_f16 = c.path == Path::kF16 && (c.most == kAnyCount || c.beside == Path::kF16);
  a.source = !all_f16 || rng.Below(3) == 0 ? nullptr : source.data();
  a.row_scale = row_scale.data();
  a.router_weights = weights.data();
  a.weight_on_input = c.on_input;
  a.hidden_weight = c.on_hidden ? hidden_weight.data() : nullptr;
  a.path = c.path;
  a.most = c.most, a.beside = c.beside;
  r.listed = c.listed;
  int32_t extent[2] = {kPoisonRow, kPoisonRow};
  std::vector<int32_t> sizes(static_cast<size_t>(c.experts));
  for (int32_t& size : sizes)
    size = static_cast<int32_t>(rng.Below(c.most < 1000 ? 2 * c.most + 1 : 1));
  a.sizes = c.in_parts ? sizes.data() : counts.data();
  a.extent = c.in_parts ? nullptr : extent;
  a.quantised = c.quantised;
  a.half_slots = static_cast<int32_t>(rng.Below(2));
  if (LaunchGather(a, nullptr) != 0 || cudaDeviceSynchronize() != cudaSuccess)
    return "launch failed";

  // What should be there.
  const int tokens =
      c.live < 0 && c.live != -5 ? c.tokens : std::clamp(live - c.begin, 0, c.tokens);
  std::vector<int> expert(pairs, -1), of(static_cast<size_t>(c.experts), 0), first(of);
  for (size_t i = 0; i < static_cast<size_t>(tokens) * static_cast<size_t>(c.top_k); ++i) {
    const int64_t id = ids[i];
    if (id < 0 || id >= c.experts_global) continue;
    const int64_t e = c.mapped ? map[static_cast<size_t>(id)] : id - c.expert_first;
    if (e >= 0 && e < c.experts) expert[i] = static_cast<int>(e), of[static_cast<size_t>(e)]++;
  }
  for (int e = 0, lower = 0, hit = 0; e < c.experts; ++e) {
    const size_t n = static_cast<size_t>(e);
    first[n] = (lower + 7) / 8 * 8 + 8 * hit;
    lower += of[n], hit += of[n] > 0;
  }
  std::vector<uint8_t> want(static_cast<size_t>(MoePanelBytes(a.panel_rows, c.hidden)), kPoison);
  std::vector<float> want_scale(rows, -7.0f), want_weight(rows, -7.0f);
  const bool listed = c.listed || static_cast<int64_t>(pairs) > kCountedInPlace;
  const auto has_scale = [](Path path) {
    return path == Path::kPlanes || path == Path::kF16 || IsE4m3(path);
  };
  const bool scaled = has_scale(c.path) || has_scale(c.beside);
  for (size_t e = 0; scaled && e < of.size(); ++e) {
    if (of[e] == 0) continue;
    for (int p = first[e] + of[e]; p % 4 != 0; ++p) want_scale[static_cast<size_t>(p)] = 0;
  }
  std::vector<int> next = first;
  std::vector<bool> stands(pairs);  // of each token, whether its row does
  for (size_t i = 0; i < pairs; ++i) {
    const size_t token = i / static_cast<size_t>(c.top_k);
    const int wanted = static_cast<int>(token) >= tokens ? kPoisonRow
                       : expert[i] < 0                   ? -1
                                                         : next[static_cast<size_t>(expert[i])]++;
    // Above kCountedInPlace pairs, experts with many have rows of another form.
    const size_t n = static_cast<size_t>(std::max(expert[i], 0));
    const bool beside = listed && (c.in_parts ? sizes[n] : of[n]) > c.most;
    const Path path = beside ? c.beside : c.path;
    const int mark = wanted >= 0 && a.half_slots != 0 && path == Path::kF16 ? kHalfSlot : 0;
    if (panel_row[i] != (wanted | mark)) {
      return "pair " + std::to_string(i) + " in panel row " + std::to_string(panel_row[i]) +
             ", wanted " + std::to_string(wanted | mark);
    }
    if (wanted < 0) continue;
    const size_t p = static_cast<size_t>(wanted);
    const uint16_t* const from = &x[token * static_cast<size_t>(stride)];
    const Row row = MakeRow(c, path, from, weights[token]);
    want_scale[p] = row.stands;
    if (c.on_hidden) want_weight[p] = weights[i];
    const bool has_source = a.source != nullptr;
    const size_t lines = row.bytes.size() / 128;
    if (has_source) {
      want_source[p] = static_cast<int32_t>(token * lines / 2);
      if (stands[token]) continue;
      stands[token] = true;
    }
    for (size_t line = 0; line < lines; ++line) {
      const size_t to = has_source              ? token * lines + line
                        : path == Path::kPlanes ? (line / 2 * rows + p) * 2 + line % 2
                        : path == Path::kBf16 || path == Path::kF16
                            ? line / 2 * rows * 2 + p / 8 * 16 + line % 2 * 8 + p % 8
                            : line * rows + p;
      const size_t swizzle = has_source ? 0 : to & 7;
      for (size_t chunk = 0; chunk < 8; ++chunk)
        std::memcpy(
            &want[to * 128 + (chunk ^ swizzle) * 16],
            row.nan ? at + to * 128 + (chunk ^ swizzle) * 16 : &row.bytes[line * 128 + chunk * 16],
            16);
    }
  }
  if (std::any_of(taken.begin(), taken.end(), [](int32_t n) { return n != 0; }))
    return "counters of taken items are not cleared";
  if (!Same(want_scale, row_scale)) return "scales differ";
  if (source != want_source) return "the places of tokens' rows differ";
  if (!std::equal(want_weight.begin(), want_weight.end(), hidden_weight.begin()))
    return "weights of h differ";
  for (size_t i = 0; i < want.size(); ++i) {
    if (at[i] != want[i]) return "byte " + std::to_string(i) + " of the panel differs";
  }
  if (!listed) return "";
  if (counts != of) return "counts differ";
  int32_t least = kAnyCount, most = 0;
  for (const int n : of) {
    if (n > 0) least = std::min(least, n), most = std::max(most, n);
  }
  if (!c.in_parts && (extent[0] != least || extent[1] != most))
    return "the extent of counts differs";
  return "";
}

TEST_CASE("gather: every kind of ids, at numbers of tokens where work is divided otherwise") {
  for (const Ids ids : kIds) {
    for (const int tokens : {1, 2, 131, 132, 133, 264, 265, 397, 512, 660, 661, 682, 683, 2000}) {
      Case c;
      c.ids = ids, c.tokens = tokens;
      c.experts_global = 64, c.expert_first = 16;
      c.wide = tokens % 2 == 1;
      c.mapped = tokens % 3 == 0;
      c.path = tokens % 4 == 0   ? Path::kBf16
               : tokens % 4 == 1 ? Path::kE4m3
               : tokens % 4 == 2 ? Path::kPlanes
                                 : Path::kF16;
      INFO("ids " << static_cast<int>(ids) << " tokens " << tokens);
      CHECK(Judge(c) == "");
    }
  }
}

TEST_CASE("gather: few and most slots, few and most experts") {
  for (const Ids ids : {Ids::kUniform, Ids::kOne, Ids::kLast, Ids::kWild}) {
    for (const int top_k : {1, 2, 16}) {
      for (const int experts : {1, 3, 250, 4096}) {
        for (const int pairs : {4096, 3200, 400}) {
          Case c;
          c.ids = ids, c.top_k = top_k, c.tokens = pairs / top_k, c.hidden = 32;
          c.experts = c.experts_global = experts;
          c.on_hidden = top_k == 2, c.on_input = top_k == 1;
          INFO("ids " << static_cast<int>(ids) << " k " << top_k << " experts " << experts
                      << " pairs " << pairs);
          CHECK(Judge(c) == "");
        }
      }
    }
  }
}

TEST_CASE("gather: so many pairs that a warp lists them in several rounds") {
  for (const Ids ids : {Ids::kUniform, Ids::kBlocks}) {
    for (const int pairs : {65536, 65537}) {
      for (const int experts : {1500}) {
        Case c;
        c.ids = ids, c.top_k = 1, c.tokens = pairs, c.hidden = 32, c.path = Path::kE4m3;
        c.experts = c.experts_global = experts;
        INFO("ids " << static_cast<int>(ids) << " pairs " << pairs << " experts " << experts);
        CHECK(Judge(c) == "");
      }
    }
  }
}

TEST_CASE("gather: tails of K, long rows, every path") {
  for (const Path path : {Path::kPlanes, Path::kBf16, Path::kE4m3, Path::kF16}) {
    for (const int hidden : {32, 160, 2880, 4096, 7168, 8192, 8352}) {
      for (const int tokens : {3, 140, 300, 700}) {
        if (hidden > 4096 && tokens == 140) continue;
        Case c;
        c.path = path, c.hidden = hidden, c.tokens = tokens, c.top_k = 2, c.experts = 5;
        c.experts_global = 8, c.expert_first = 2;
        c.quantised = path == Path::kBf16 && tokens == 300;
        INFO("path " << static_cast<int>(path) << " hidden " << hidden << " tokens " << tokens);
        CHECK(Judge(c) == "");
      }
    }
  }
}

TEST_CASE(
    "gather: rows of planes, and beside them rows of bf16 or f16 of experts with many pairs") {
  for (const Path path : {Path::kBf16, Path::kF16}) {
    for (const Ids ids : {Ids::kUniform, Ids::kDup, Ids::kBlocks, Ids::kWild}) {
      for (const int most : {0, 20, 48, 137, 1000000}) {
        for (const int hidden : {160, 4096 + 64, 8192 + 32}) {
          if (hidden > 4000 && (ids == Ids::kDup || most > 137)) continue;
          Case c;
          c.beside = path;
          c.ids = ids, c.most = most, c.hidden = hidden, c.tokens = 700, c.experts = 30;
          c.on_hidden = most == 20, c.live = most == 48 ? 690 : -1;
          c.strange = most == 48;
          c.listed = c.in_parts = most == 137;
          if (c.listed) c.tokens = hidden > 4000 ? 20 : 300;
          INFO("beside " << static_cast<int>(path) << " ids " << static_cast<int>(ids) << " most "
                         << most << " hidden " << hidden);
          CHECK(Judge(c) == "");
        }
      }
    }
  }
}

TEST_CASE("gather: rows of zeros, with Inf and NaN, of very large and of very small numbers") {
  for (const Path path : {Path::kPlanes, Path::kBf16, Path::kF16}) {
    for (const int hidden : {32, 96, 4096 + 160}) {
      for (const bool listed : {false, true}) {
        for (const bool on_input : {false, true}) {
          Case c;
          c.path = path, c.hidden = hidden, c.strange = true, c.listed = listed;
          c.on_input = on_input, c.top_k = on_input ? 1 : 3, c.tokens = 4 * kStrange;
          INFO("path " << static_cast<int>(path) << " hidden " << hidden
                       << (listed ? " listed" : "") << (on_input ? " weight on input" : ""));
          CHECK(Judge(c) == "");
        }
      }
    }
  }
}

TEST_CASE("sizes: pairs of each expert of a chunk, whatever its ids and its strides") {
  for (const Ids kind : kIds) {
    for (const bool wide : {false, true}) {
      Case c;
      c.ids = kind, c.wide = wide, c.mapped = wide, c.tokens = 900, c.experts = 70,
      c.experts_global = 90;
      c.expert_first = wide ? 0 : 11;
      const int64_t stride = c.top_k + 3;
      Rng rng(12, static_cast<uint64_t>(kind));
      const std::vector<int64_t> ids = MakeIds(c, rng);
      std::vector<int64_t> strided(static_cast<size_t>(c.tokens * stride), 5);
      std::vector<int32_t> narrow(strided.size(), 5), map(static_cast<size_t>(c.experts_global)),
          want(static_cast<size_t>(c.experts)), sizes(want.size(), kPoisonRow),
          extent(2, kPoisonRow);
      for (size_t i = 0; i < map.size(); ++i)
        map[i] = i % 3 == 0 ? -1 : static_cast<int32_t>(i * 2 % 70);
      const int begin = 40, live = 777, tokens = 800;  // of them 737 count
      for (size_t i = 0; i < ids.size(); ++i) {
        const size_t token = i / 6, at = token * static_cast<size_t>(stride) + i % 6;
        strided[at] = ids[i], narrow[at] = static_cast<int32_t>(ids[i]);
        const int64_t id = wide ? ids[i] : narrow[at];
        if (token >= live - begin || id < 0 || id >= c.experts_global) continue;
        const int64_t e = wide ? map[static_cast<size_t>(id)] : id - c.expert_first;
        if (e >= 0 && e < c.experts) want[static_cast<size_t>(e)]++;
      }
      SizesArgs a{};
      a.routing.ids = wide ? static_cast<const void*>(strided.data()) : narrow.data();
      a.routing.ids_are_64 = wide, a.routing.expert_map = wide ? map.data() : nullptr;
      a.routing.tokens_device = &live, a.routing.token_begin = begin, a.routing.tokens = tokens;
      a.routing.top_k = c.top_k, a.routing.experts = c.experts,
      a.routing.expert_first = c.expert_first;
      a.routing.experts_global = c.experts_global;
      a.ids_stride = stride, a.sizes = sizes.data(), a.extent = extent.data();
      INFO("ids " << static_cast<int>(kind) << (wide ? " wide" : ""));
      REQUIRE(LaunchSizes(a, nullptr) == 0);
      REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
      CHECK(sizes == want);
      int32_t least = kAnyCount;
      for (const int n : want) least = n > 0 ? std::min(least, n) : least;
      CHECK(extent == std::vector<int32_t>{least, *std::max_element(want.begin(), want.end())});
    }
  }
}

TEST_CASE("gather: tokens given by the device") {
  for (const int live : {0, 1, 5, 130, 299, 300, 301, 900, -5}) {
    for (const int begin : {0, 3}) {
      Case c;
      c.tokens = 300, c.live = live, c.begin = begin;
      INFO("live " << live << " begin " << begin);
      CHECK(Judge(c) == "");
    }
  }
}

}  // namespace
}  // namespace dsv4mx::test
