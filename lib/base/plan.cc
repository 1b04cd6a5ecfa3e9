#include "lib/base/plan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <string>

#include "lib/base/text.h"

namespace dsv4mx {

namespace {

constexpr std::string_view kVersionLine = "dsv4mx-plan,1", kVersionKey = "dsv4mx-plan,";
constexpr int32_t kBandwidths[] = {2000, 3350, 4000, 4800};
constexpr int64_t kSmallWeights = int64_t{8} << 20;  // values of one expert
constexpr int64_t kSlotBytes = int64_t{4} << 30;     // of one chunk
constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMostOwnRows = 256;  // an apply looks through those of its device
constexpr int kColumns = 6;

// As rules and values of rules say them.
constexpr const char* kPathNames[] = {
#define X(path, name, step, widest) #name,
#include "kernels/paths.def"
#undef X
};

bool ParseInt(std::string_view text, int64_t low, int64_t high, int32_t* out) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    return false;
  }
  *out = static_cast<int32_t>(value);
  return true;
}

// A plain decimal number: no sign, no exponent, so that a locale or a notation cannot matter.
bool ParseRows(std::string_view text, double* out) {
  if (text.empty() || text.size() > 12) return false;
  double value = 0, unit = 0;
  for (const char c : text) {
    if (c == '.' && unit == 0) {
      unit = 1;
      continue;
    }
    if (c < '0' || c > '9') return false;
    if (unit == 0) {
      value = 10 * value + (c - '0');
    } else {
      unit /= 10;
      value += unit * (c - '0');
    }
  }
  *out = value;
  return text.front() != '.' && text.back() != '.' && value <= 1e6;
}

std::string_view Trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r'))
    s.remove_suffix(1);
  return s;
}

// Errors of one line.
struct Line {
  const char* file;
  int32_t number;

  Status Refuse(const char* column, std::string_view got, const char* wanted) const {
    const int length = static_cast<int>(std::min<size_t>(got.size(), 60));
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s:%d: %s is \"%.*s\", wanted %s", file, number,
                column, length, got.data(), wanted);
  }
};

Status ParseWidth(const Line& line, TileWidths widths, std::string_view text, int32_t* value) {
  if (ParseInt(text, widths.step, widths.widest, value) && *value % widths.step == 0) return kOk;
  char wanted[64];
  std::snprintf(wanted, sizeof wanted, "a width of %d, %d, ... %d", widths.step, 2 * widths.step,
                widths.widest);
  return line.Refuse("value", text, wanted);
}

// One of some paths, by its name.
Status ParsePath(const Line& line, std::initializer_list<Path> paths, std::string_view text,
                 int32_t* value) {
  std::string wanted;
  for (const Path path : paths) {
    const std::string_view name = kPathNames[static_cast<int>(path)];
    *value = static_cast<int32_t>(path);
    if (text == name) return kOk;
    if (!wanted.empty()) wanted += path == *(paths.end() - 1) ? " or " : ", ";
    wanted += name;
  }
  return line.Refuse("value", text, wanted.c_str());
}

Status ParseValue(const Line& line, const Generation& generation, PlanRule rule,
                  std::string_view text, int32_t* value) {
  switch (rule) {
    case PlanRule::kPath:
      return ParsePath(line, {Path::kPlanes, Path::kPlanesBig, Path::kBf16, Path::kF16}, text,
                       value);
    case PlanRule::kW4a8:
      return ParsePath(line, {Path::kE4m3, Path::kE4m3Big, Path::kE4m3Wide}, text, value);
    case PlanRule::kChunk:
      return ParseInt(text, 128, kMaxTokens, value)
                 ? kOk
                 : line.Refuse("value", text, "128..131072 tokens");
    case PlanRule::kFew:
    case PlanRule::kMixed:
      return ParseInt(text, 0, 1'000'000, value) ? kOk : line.Refuse("value", text, "0..1000000");
    case PlanRule::kLevel:
      return ParseInt(text, 0, 1, value) ? kOk : line.Refuse("value", text, "0 or 1");
    case PlanRule::kHot:
    case PlanRule::kCold:
      return ParseInt(text, 0, kMaxTokens, value) ? kOk
                                                  : line.Refuse("value", text, "0..131072 tokens");
    default:
      return ParseWidth(line, generation.WidthsOf(static_cast<Path>(rule)), text, value);
  }
}

Status ParseRow(const Line& line, const Generation& generation, std::string_view text,
                PlanRow* row) {
  std::string_view columns[kColumns];
  int count = 0;
  for (std::string_view rest = text;; ++count) {
    const size_t comma = rest.find(',');
    if (count < kColumns) columns[count] = Trim(rest.substr(0, comma));
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  if (count + 1 != kColumns) {
    return line.Refuse("line", text, "6 columns: sms,gbps,shape,rule,rows_from,value");
  }
  row->multiprocessors = row->bandwidth = 0;
  if (columns[0] != "*" && !ParseInt(columns[0], 1, 1024, &row->multiprocessors)) {
    return line.Refuse("sms", columns[0], "1..1024 or *");
  }
  if (columns[1] != "*" &&
      !(ParseInt(columns[1], 1, 1 << 20, &row->bandwidth) &&
        std::count(std::begin(kBandwidths), std::end(kBandwidths), row->bandwidth) == 1)) {
    return line.Refuse("gbps", columns[1], "2000, 3350, 4000, 4800 or *");
  }
  constexpr const char* kShapes[] = {"*", "small", "large"};
  constexpr const char* kRules[] = {
#define X(path, name, step, widest) #name,
#include "kernels/paths.def"
#undef X
      "path", "w4a8", "chunk", "few", "hot", "cold", "level", "mixed"};
  static_assert(std::size(kRules) == kPlanRules, "a name for each rule");
  const auto shape = std::find(std::begin(kShapes), std::end(kShapes), columns[2]);
  if (shape == std::end(kShapes)) return line.Refuse("shape", columns[2], "small, large or *");
  const auto rule = std::find(std::begin(kRules), std::end(kRules), columns[3]);
  if (rule == std::end(kRules)) {
    return line.Refuse("rule", columns[3],
                       "path, w4a8, chunk, few, hot, cold, level, mixed or a path's name");
  }
  row->shape = static_cast<PlanShape>(shape - std::begin(kShapes));
  row->rule = static_cast<PlanRule>(rule - std::begin(kRules));
  if (!ParseRows(columns[4], &row->rows_from)) {
    return line.Refuse("rows_from", columns[4], "a decimal number 0..1000000");
  }
  // The workspace is sized by it, so it cannot depend on how many tokens come.
  if (row->rule == PlanRule::kChunk && row->rows_from != 0) {
    return line.Refuse("rows_from", columns[4], "0 in a chunk line");
  }
  if ((row->rule == PlanRule::kFew || row->rule == PlanRule::kMixed) && row->rows_from != 0) {
    return line.Refuse("rows_from", columns[4],
                       row->rule == PlanRule::kFew ? "0 in a few line" : "0 in a mixed line");
  }
  return ParseValue(line, generation, row->rule, columns[5], &row->value);
}

Status ReadFile(const char* path, std::string* text) {
  constexpr auto kCode = DSV4MX_STATUS_IO_ERROR;
  // Opening a pipe or a terminal would wait for its other end.
  const int descriptor = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      descriptor < 0 ? nullptr : ::fdopen(descriptor, "rb"),
      [](std::FILE* f) { return f == nullptr ? 0 : std::fclose(f); });
  if (file == nullptr && descriptor >= 0) ::close(descriptor);
  DSV4MX_RETURN_IF(file == nullptr, kCode, "plan_file %.200s cannot be opened, wanted a CSV file",
                   path);
  struct stat facts {};
  DSV4MX_RETURN_IF(::fstat(descriptor, &facts) != 0 || !S_ISREG(facts.st_mode), kCode,
                   "plan_file %.200s is no regular file, wanted a CSV file", path);
  text->resize(static_cast<size_t>(kMaxFileBytes) + 1);
  text->resize(std::fread(text->data(), 1, text->size(), file.get()));
  DSV4MX_RETURN_IF(std::ferror(file.get()) != 0, kCode, "plan_file %.200s cannot be read", path);
  DSV4MX_RETURN_IF(text->size() > static_cast<size_t>(kMaxFileBytes), DSV4MX_STATUS_FORMAT_ERROR,
                   "plan_file %.200s has more than %lld bytes, wanted a CSV file of plan rows",
                   path, static_cast<long long>(kMaxFileBytes));
  return kOk;
}

bool IsOf(const PlanRow& row, const PlanDevice& device) {
  return (row.multiprocessors == 0 || row.multiprocessors == device.multiprocessors) &&
         (row.bandwidth == 0 || row.bandwidth == device.bandwidth);
}

int Particularity(const PlanRow& row) {
  return (row.own ? 8 : 0) + (row.multiprocessors != 0 ? 4 : 0) + (row.bandwidth != 0 ? 2 : 0) +
         (row.shape != PlanShape::kAny ? 1 : 0);
}

// The smallest width that holds what one expert can get, if that is less than the row's.
int32_t Narrow(int64_t step, int32_t width, int64_t tokens) {
  return static_cast<int32_t>(std::min<int64_t>((tokens + step - 1) / step * step, width));
}

double RowsPerExpert(const LayerSpec& spec, int64_t tokens) {
  return static_cast<double>(tokens) * spec.top_k / spec.placement.experts_global;
}

// Blocks of less than 512 of K go through a loop that is not unrolled: GPT-OSS at one token took 49 us in it, and 35 in the
// kernels for many pairs. So only layers that are small beside the cost of launches take it.
double FewHandicap(const LayerSpec& spec, const Generation& generation) {
  return spec.hidden % generation.whole_k == 0 ? 1 : 64;
}
// 2^20 weights of all pairs that even routing sends here, each pair's counted.
double MebiWeights(const LayerSpec& spec, double rows) {
  return rows * spec.experts * 3 * spec.hidden * spec.intermediate / (1 << 20);
}

// Of the paths of planes, which give the same bits: the one that the table names, or what holds as many rows where it names none.
Path PlanesFor(const PlanRow& row, const Generation& generation, double rows) {
  const Path path = static_cast<Path>(row.value);
  if (IsPlanes(path)) return path;
  return rows < generation.WidthsOf(Path::kPlanes).widest ? Path::kPlanes : Path::kPlanesBig;
}

// Whether a layer takes f16 or bf16 although the row names planes_big. An end of K behind whole blocks of 512 costs that more than it
// gains (GPT-OSS at 1,024 tokens, hidden 2,880: 845 and 806 us); who names it in a plan file gets it.
bool EndsBehindBlocks(const PlanRow& row, const LayerSpec& spec, const Generation& generation) {
  return static_cast<Path>(row.value) == Path::kPlanesBig && !row.own &&
         spec.hidden % generation.whole_k != 0;
}

// Shares experts out to launches of several paths by how many tokens they have: what the routing sends to an expert is known on
// the device alone.
void ShareOutExperts(const PlanTable& table, const LayerSpec& spec, int64_t tokens,
                     const PlanDevice& device, Path halves, Plan* plan) {
  const PlanShape shape = ShapeOf(spec);
  const auto value = [&](PlanRule rule, double rows) {
    return table.Find(rule, device, shape, rows)->value;
  };
  PlanPart main{plan->path, plan->width, 1, kAnyCount};
  const auto add = [&](const PlanPart& part) { plan->parts[plan->part_count++] = part; };
  const auto beside = [&](Path path, double rows, int32_t least, int32_t most) {
    const TileWidths widths = plan->generation->WidthsOf(path);
    const int32_t most_here = static_cast<int32_t>(std::min<int64_t>(most, plan->chunk_tokens));
    return PlanPart{path, Narrow(widths.step, value(WidthRule(path), rows), most_here), least,
                    most};
  };
  plan->part_count = 0;
  // By a choice of the table, with counts from the kernel that lists many pairs, in the last chunk too.
  const int64_t last = tokens - (plan->chunks - 1) * plan->chunk_tokens;
  const bool mixed = (plan->why == Plan::Why::kRow || plan->why == Plan::Why::kEnds) &&
                     !plan->quantised && !plan->few &&
                     last * spec.top_k > plan->generation->counted_in_place &&
                     MebiWeights(spec, 1) >= value(PlanRule::kMixed, 0);
  const int32_t hot = mixed ? value(PlanRule::kHot, plan->rows) : 0;
  int32_t cold = mixed && plan->path != Path::kPlanes ? value(PlanRule::kCold, plan->rows) : 0;
  if (hot > 0) {
    // Beside f16 or bf16 that is the same path, with wider tiles.
    const PlanPart part =
        beside(IsPlanes(plan->path) ? halves : plan->path, 4.0 * hot, hot + 1, kAnyCount);
    if (part.path != main.path || part.width > main.width) {
      // Lines of one file can cross. No expert may be of two parts, and one count at least is left to the main one.
      cold = std::min(cold, hot - 1);
      main.most = hot;
      add(part);
    }
  }
  if (cold > 0) main.least = cold + 1;
  plan->main_part = plan->part_count;
  add(main);
  if (cold > 0) add(beside(Path::kPlanes, cold, 1, cold));
}

// Whether f16 holds the weights.
bool IsF16(const Census& census, const Generation& generation) {
  return !census.any || (census.scale_min >= generation.f16_least_scale &&
                         census.scale_max <= generation.f16_most_scale);
}
// Whether h may be levelled, of planes and of E4M3. Not where nothing was prepared: any expert may come then.
bool IsLevel(const Census& census, const Generation& generation) {
  return census.any && census.planes_exact() && census.scale_min >= generation.level_least_scale &&
         census.scale_max - census.scale_min <= generation.level_most_spread;
}
// Whether the bf16 path needs its wide form.
bool IsWide(const Census& census, const Generation& generation) {
  return census.any && census.scale_max > generation.max_scale;
}

}  // namespace

const char* PathName(Path path) {
  return path == Path::kBf16Wide ? "wide bf16" : kPathNames[static_cast<int>(path)];
}

int32_t BandwidthClass(int64_t gigabytes_per_second) {
  if (gigabytes_per_second <= 0) return 0;
  const auto distance = [&](int32_t c) {
    return std::abs(std::log(static_cast<double>(gigabytes_per_second) / c));
  };
  return *std::min_element(std::begin(kBandwidths), std::end(kBandwidths),
                           [&](int32_t a, int32_t b) { return distance(a) < distance(b); });
}

PlanShape ShapeOf(const LayerSpec& spec) {
  return int64_t{3} * spec.hidden * spec.intermediate_global < kSmallWeights ? PlanShape::kSmall
                                                                             : PlanShape::kLarge;
}

Status PlanTable::Parse(std::string_view text, const char* name, bool own,
                        const Generation& generation, std::vector<PlanRow>* rows) {
  Line line{name, 0};
  bool versioned = false;
  const size_t own_begin = rows->size();
  while (!text.empty()) {
    ++line.number;
    const size_t end = text.find('\n');
    const std::string_view content = Trim(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (content.empty() || content.front() == '#') continue;
    if (!versioned) {
      if (content != kVersionLine) {
        return line.Refuse(
            content.substr(0, kVersionKey.size()) == kVersionKey ? "version" : "first line",
            content, "dsv4mx-plan,1");
      }
      versioned = true;
      continue;
    }
    PlanRow row{};
    DSV4MX_TRY(ParseRow(line, generation, content, &row));
    row.own = own;
    row.line = line.number;
    if (own && rows->size() >= own_begin + kMostOwnRows) {
      return line.Refuse("number of rows", content, "at most 256 in a plan file");
    }
    rows->push_back(row);
  }
  if (!versioned) return line.Refuse("file", "", "the line dsv4mx-plan,1 and plan rows");
  return kOk;
}

Status PlanTable::Make(const char* path, const PlanDevice& device,
                       std::shared_ptr<const PlanTable>* out) {
  const Generation& generation = *device.generation;
  std::vector<PlanRow> rows;
  DSV4MX_TRY(Parse(generation.plan, "built-in plan", false, generation, &rows));
  if (path != nullptr) {
    std::string text, name(path, ::strnlen(path, 200));
    DSV4MX_TRY(ReadFile(path, &text));
    DSV4MX_TRY(Parse(text, name.c_str(), true, generation, &rows));
  }
  const PlanTable table(std::move(rows));
  // A device that nobody measured must find every rule.
  for (int32_t r = 0; r < kPlanRules; ++r) {
    const auto rule = static_cast<PlanRule>(r);
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      DSV4MX_RETURN_IF(table.Find(rule, PlanDevice{}, shape, 0) == nullptr, DSV4MX_STATUS_INTERNAL,
                       "the built-in plan has no row for any device, rule %d",
                       static_cast<int>(rule));
    }
  }
  *out = std::make_shared<PlanTable>(table.For(device));
  return kOk;
}

PlanTable::PlanTable(std::vector<PlanRow> rows) : rows_(std::move(rows)) {
  hash_ = 0xcbf29ce484222325;  // FNV-1a
  const auto add = [this](uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001b3; };
  for (const PlanRow& row : rows_) {
    add(static_cast<uint64_t>(row.multiprocessors));
    add(static_cast<uint64_t>(row.bandwidth));
    add(static_cast<uint64_t>(row.shape));
    add(static_cast<uint64_t>(row.rule));
    add(static_cast<uint64_t>(row.rows_from * 1024));
    add(static_cast<uint64_t>(row.value));
    add(row.own ? 1 : 0);
  }
}

PlanTable PlanTable::For(const PlanDevice& device) const {
  // Whether `b`, which is `later` in the table, is the answer wherever `a` could be.
  const auto outdoes = [](const PlanRow& b, const PlanRow& a, bool later) {
    if (b.rule != a.rule || (b.shape != PlanShape::kAny && b.shape != a.shape)) return false;
    const int difference = Particularity(b) - Particularity(a);
    return difference > 0 ? b.rows_from <= a.rows_from
                          : difference == 0 && later && b.rows_from == a.rows_from;
  };
  PlanTable result = *this;
  std::erase_if(result.rows_, [&](const PlanRow& row) { return !IsOf(row, device); });
  const std::vector<PlanRow> all = result.rows_;
  result.rows_.clear();
  for (const PlanRow& a : all) {
    if (std::none_of(all.begin(), all.end(),
                     [&](const PlanRow& b) { return outdoes(b, a, &b > &a); })) {
      result.rows_.push_back(a);
    }
  }
  return result;
}

const PlanRow* PlanTable::Find(PlanRule rule, const PlanDevice& device, PlanShape shape,
                               double rows) const {
  const PlanRow* best = nullptr;
  for (const PlanRow& row : rows_) {
    if (row.rule != rule || row.rows_from > rows) continue;
    if (!IsOf(row, device)) continue;
    if (row.shape != PlanShape::kAny && row.shape != shape) continue;
    // Of equals the later line wins.
    if (best == nullptr || Particularity(row) > Particularity(*best) ||
        (Particularity(row) == Particularity(*best) && row.rows_from >= best->rows_from)) {
      best = &row;
    }
  }
  return best;
}

int64_t LargestChunk(const PlanTable& table, const LayerSpec& spec, int64_t tokens,
                     const PlanDevice& device) {
  const int64_t slot = spec.slot_dtype == DSV4MX_DTYPE_BF16 ? 2 : 4;
  const int64_t bound = kSlotBytes / (slot * spec.hidden * spec.top_k) / 128 * 128;
  const int64_t chunk = table.Find(PlanRule::kChunk, device, ShapeOf(spec), 0)->value;
  return std::min(tokens, std::min(chunk, std::max<int64_t>(bound, 128)));
}

Plan MakePlan(const PlanTable& table, const LayerSpec& spec, const Census* census, int64_t tokens,
              const PlanDevice& device) {
  const Generation& generation = *device.generation;
  Plan plan;
  plan.generation = &generation;
  const PlanShape shape = ShapeOf(spec);
  const int64_t largest = LargestChunk(table, spec, tokens, device);
  plan.chunks = (tokens + largest - 1) / largest;
  // Equal parts, so that the last one is no remnant that reads all weights for a few tokens.
  plan.chunk_tokens = std::min(largest, ((tokens + plan.chunks - 1) / plan.chunks + 7) / 8 * 8);
  plan.rows = RowsPerExpert(spec, plan.chunk_tokens);
  plan.quantised = spec.compute == DSV4MX_COMPUTE_W4A8;

  const bool planes_allowed = census == nullptr || census->planes_exact();
  const bool wide = census != nullptr && IsWide(*census, generation);
  // Router weights before w2 make h too small for f16 too often.
  const bool f16_allowed = spec.router_weight_position != DSV4MX_ROUTER_WEIGHT_BEFORE_W2 &&
                           (census == nullptr || IsF16(*census, generation));
  const Path halves = f16_allowed ? Path::kF16 : Path::kBf16;
  const PlanRow* const path_row = table.Find(PlanRule::kPath, device, shape, plan.rows);
  if (spec.number_path != DSV4MX_NUMBER_PATH_AUTO) {
    plan.why = Plan::Why::kForced;
    plan.path = spec.number_path == DSV4MX_NUMBER_PATH_PLANES
                    ? PlanesFor(*path_row, generation, plan.rows)
                    : Path::kBf16;
  } else if (!planes_allowed) {
    plan.why = Plan::Why::kCensus;
    const bool f16 = static_cast<Path>(path_row->value) == Path::kF16 && !plan.quantised &&
                     !spec.batch_invariant;
    plan.path = f16 ? halves : Path::kBf16;
  } else if (plan.quantised) {
    // All paths of W4A8 give the same bits, as far as they level h or do not.
    plan.path_row = table.Find(PlanRule::kW4a8, device, shape, plan.rows);
    plan.path = static_cast<Path>(plan.path_row->value);
  } else if (spec.batch_invariant) {
    plan.why = Plan::Why::kInvariant;
    plan.path = PlanesFor(*path_row, generation, plan.rows);
  } else {
    const bool ends = EndsBehindBlocks(*path_row, spec, generation);
    plan.why = ends ? Plan::Why::kEnds : Plan::Why::kRow;
    plan.path_row = path_row;
    plan.path = ends ? halves : static_cast<Path>(path_row->value);
    if (plan.path == Path::kF16) plan.path = halves;
  }
  if (plan.path == Path::kBf16 && wide) plan.path = Path::kBf16Wide;
  plan.width_row = table.Find(WidthRule(plan.path), device, shape, plan.rows);
  plan.width =
      Narrow(generation.WidthsOf(plan.path).step, plan.width_row->value, plan.chunk_tokens);
  plan.few = (plan.quantised ? IsE4m3(plan.path) : IsPlanes(plan.path)) &&
             MebiWeights(spec, plan.rows) <= table.Find(PlanRule::kFew, device, shape, 0)->value /
                                                 FewHandicap(spec, generation) &&
             generation.few_fits(spec.hidden, spec.intermediate, spec.experts,
                                 plan.chunk_tokens * spec.top_k, spec.top_k, plan.quantised);
  ShareOutExperts(table, spec, tokens, device, halves, &plan);
  // By a choice of the table, of layers that left the dtype of slots open. A bias of w2 is in no unit of h.
  plan.levelled = !plan.few && plan.path_row != nullptr && !spec.batch_invariant &&
                  (plan.path == Path::kPlanes || IsE4m3(plan.path)) && !spec.plain_slots &&
                  spec.w2_bias == 0 && (census == nullptr || IsLevel(*census, generation)) &&
                  table.Find(PlanRule::kLevel, device, shape, plan.rows)->value != 0;
  const auto launches = [&](int64_t of) {
    return plan.few ? generation.few_launches(of)
                    : generation.launches(of * spec.top_k) + 2 * (plan.part_count - 1) +
                          (plan.has_f16() ? 2 : 0) + (plan.levelled ? 1 : 0) +
                          (plan.quantised && !IsE4m3(plan.path) ? 1 : 0);
  };
  plan.launches = (plan.chunks - 1) * launches(plan.chunk_tokens) +
                  launches(tokens - (plan.chunks - 1) * plan.chunk_tokens);
  return plan;
}

void PrintPlan(const Plan& plan, const Census* census, int64_t tokens, const PlanDevice& device,
               char* text, size_t bytes) {
  char why[160] = "";
  switch (plan.why) {
    case Plan::Why::kRow:
      std::snprintf(why, sizeof why, "%s rows per expert are %s or more in line %d of the %s",
                    Text(plan.rows, 2).text,
                    Text(static_cast<float>(plan.path_row->rows_from)).text, plan.path_row->line,
                    plan.path_row->own ? "plan file" : "built-in plan");
      break;
    case Plan::Why::kEnds:
      std::snprintf(
          why, sizeof why,
          "hidden is no multiple of %d, where planes_big, which line %d of the built-in plan "
          "names, is slower",
          device.generation->whole_k, plan.path_row->line);
      break;
    case Plan::Why::kForced:
      std::snprintf(why, sizeof why, "number_path forces it");
      break;
    case Plan::Why::kInvariant:
      std::snprintf(why, sizeof why, "one path is pinned for batch invariance");
      break;
    case Plan::Why::kCensus:
      std::snprintf(
          why, sizeof why, "%s are not exact here: scale bytes up to %d, a span of %d binades",
          plan.quantised ? "E4M3 weights" : "planes", census != nullptr ? census->scale_max : 0,
          census != nullptr ? census->span_max : 0);
      break;
  }
  char beside[160] = "";
  for (int32_t i = 0, at = 0; i < plan.part_count; ++i) {
    const PlanPart& part = plan.parts[i];
    if (i == plan.main_part) continue;
    const bool hot = part.most == kAnyCount;
    at += std::snprintf(beside + at, sizeof beside - static_cast<size_t>(at),
                        "; experts with %s %d tokens by %s, tiles of up to %d",
                        hot ? "more than" : "up to", hot ? part.least - 1 : part.most,
                        PathName(part.path), part.width);
  }
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::snprintf(
      text, bytes,
      "cuda %s %s%s%s: %s x fp4, tiles of 64 rows x up to %d tokens (line %d of the %s), %d SMs, "
      "bandwidth "
      "class %d, %lld token%s in %lld chunk%s of at most %lld, %lld launches, because %s%s%s",
      device.generation->architecture, PathName(plan.path), plan.few ? " for few pairs" : "",
      plan.levelled ? " with one scale a row of h" : "",
      plan.quantised ? "W4A8, e4m3 activations" : "bf16",
      plan.few ? device.generation->few_tokens : plan.width, plan.width_row->line,
      plan.width_row->own ? "plan file" : "built-in plan", device.multiprocessors, device.bandwidth,
      number(tokens), tokens == 1 ? "" : "s", number(plan.chunks), plan.chunks == 1 ? "" : "s",
      number(plan.chunk_tokens), number(plan.launches), why, beside,
      plan.path == Path::kBf16Wide ? "; scale bytes above 128 need the wide form" : "");
}

Status CheckPlanCensus(const LayerSpec& spec, const Census& census) {
  DSV4MX_RETURN_IF(spec.number_path == DSV4MX_NUMBER_PATH_PLANES && !census.planes_exact(),
                   DSV4MX_STATUS_UNSUPPORTED,
                   "number_path is PLANES, but the weights have scale bytes up to %d and a span of "
                   "%d binades in "
                   "a block of 512, wanted at most 128 and 11, or AUTO or BF16",
                   census.scale_max, census.span_max);
  return kOk;
}

Status CheckPlanNewcomer(const Generation& generation, const Census& prepared, const Census& expert,
                         const char* what) {
  // By census alone, not by a path that one layer forces: other layers may run with the same weights.
  const bool planes = prepared.planes_exact() && !expert.planes_exact();
  const bool wide = !IsWide(prepared, generation) && IsWide(expert, generation);
  const bool f16 = IsF16(prepared, generation) && !IsF16(expert, generation);
  if (!planes && !wide && f16) {
    return Fail(DSV4MX_STATUS_UNSUPPORTED,
                "%s has scale bytes from %d on, wanted %d or more, which the number path of the "
                "prepared weights allows; reset and prepare them with it",
                what, expert.scale_min, generation.f16_least_scale);
  }
  Census both = prepared;
  both.Add(expert);
  const bool level = IsLevel(prepared, generation) && !IsLevel(both, generation);
  if (!planes && !wide && level) {
    return Fail(
        DSV4MX_STATUS_UNSUPPORTED,
        "%s has scale bytes from %d to %d, wanted %d or more and within %d of each other and of "
        "those that were prepared, which have one scale for a row of h; reset and prepare them "
        "with it",
        what, expert.scale_min, expert.scale_max, generation.level_least_scale,
        generation.level_most_spread);
  }
  if (!planes && !wide) return kOk;
  return Fail(
      DSV4MX_STATUS_UNSUPPORTED,
      "%s has scale bytes up to %d and a span of %d binades in a block of 512, wanted at most "
      "%s, which the number path of the prepared weights allows; reset and prepare them with "
      "it",
      what, expert.scale_max, expert.span_max, planes ? "128 and 11" : "scale byte 128");
}

}  // namespace dsv4mx
