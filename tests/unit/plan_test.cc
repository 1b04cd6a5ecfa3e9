// The kernel plan without a device: the built-in rows, which of them a device finds, what the census decides, files that
// override, and files that are refused.
#include "lib/base/plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/layer_spec.h"
#include "tests/random.h"
#include "tests/safetensors_file.h"

using namespace dsv4mx;

namespace dsv4mx {}

namespace {

LayerSpec Spec(int32_t hidden = 4096, int32_t intermediate = 2048, int32_t experts = 256,
               int32_t top_k = 6) {
  LayerSpec spec = test::SpecOf(hidden, intermediate, experts, top_k);
  spec.slot_dtype = DSV4MX_DTYPE_F32;
  return spec;
}

Census MakeCensus(int32_t low, int32_t high, int32_t span) {
  Census c;
  c.any = true;
  c.scale_min = low;
  c.scale_max = high;
  c.span_max = span;
  return c;
}

// For every device.
std::shared_ptr<const PlanTable> BuiltIn() {
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in plan", false, kSm90, &rows).ok());
  return std::make_shared<PlanTable>(std::move(rows));
}

struct TempFile {
  explicit TempFile(const std::string& text) : path("plan_test_rows.csv") {
    std::FILE* f = std::fopen(path.c_str(), "wb");
    REQUIRE(f != nullptr);
    REQUIRE(std::fwrite(text.data(), 1, text.size(), f) == text.size());
    std::fclose(f);
  }
  ~TempFile() { std::remove(path.c_str()); }
  std::string path;
};

const PlanDevice kH200{132, 4800}, kH100{132, 3350}, kPcie{114, 2000}, kH20{78, 4000}, kUnknown{};

// The text of a built-in row.
std::string BuiltInLine(const PlanRow& row) {
  REQUIRE_FALSE(row.own);
  std::string_view text = kSm90.plan;
  for (int32_t line = 1; line < row.line; ++line) text.remove_prefix(text.find('\n') + 1);
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

TEST_CASE("[A25] plan: built-in rows parse, and every row is the answer to some question",
          "[unit]") {
  const auto table = BuiltIn();
  std::set<const PlanRow*> found;
  for (const PlanDevice& device : {kH200, kH100, kPcie, kH20, kUnknown}) {
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      for (int i = 0; i < 40000; ++i) {
        const double rows = i / 16.0;
        for (int32_t r = 0; r < kPlanRules; ++r) {
          const auto rule = static_cast<PlanRule>(r);
          const PlanRow* row = table->Find(rule, device, shape, rows);
          // Two million times: an assertion costs more than what it looks at.
          if (row == nullptr || row->rule != rule) FAIL("rule " << r << ", " << rows << " rows");
          found.insert(row);
        }
      }
    }
  }
  for (const PlanRow& row : table->rows()) {
    INFO("line " << row.line);
    CHECK(found.count(&row) == 1);
  }
}

TEST_CASE("plan: the head of the built-in rows names the legal widths", "[unit]") {
  const std::string text = kSm90.plan;
  for (const auto& [path, name] : {std::pair(Path::kPlanes, "#            planes "),
                                   std::pair(Path::kPlanesBig, "#            planes_big "),
                                   std::pair(Path::kBf16, "#            bf16 "),
                                   std::pair(Path::kBf16Wide, "#            wide "),
                                   std::pair(Path::kE4m3, "#            e4m3 "),
                                   std::pair(Path::kE4m3Big, "#            e4m3_big "),
                                   std::pair(Path::kE4m3Wide, "#            e4m3_wide "),
                                   std::pair(Path::kF16, "#            f16 ")}) {
    const size_t at = text.find(name);
    REQUIRE(at != std::string::npos);
    const std::string line = text.substr(at, text.find('\n', at) - at);
    const TileWidths widths = WidthsOf(path);
    const std::string wanted = std::to_string(widths.step) + ", " +
                               std::to_string(2 * widths.step) + ", ... " +
                               std::to_string(widths.widest);
    INFO(line << ": wanted " << wanted);
    CHECK(line.size() > wanted.size());
    CHECK(line.compare(line.size() - wanted.size(), wanted.size(), wanted) == 0);
  }
}

TEST_CASE("plan: widths and launches are those of the device's generation", "[unit]") {
  Generation other = kSm90;
  TileWidths widths[kPaths];
  std::copy(std::begin(kTileWidths), std::end(kTileWidths), widths);
  widths[static_cast<int>(Path::kPlanes)] = {16, 64};
  other.widths = widths;
  other.few_fits = [](int64_t, int64_t, int64_t, int64_t, int64_t, bool) { return false; };
  std::vector<PlanRow> rows;
  const char* const wide = "dsv4mx-plan,1\n*,*,*,planes,0,64";
  const char* const narrow = "dsv4mx-plan,1\n*,*,*,planes,0,8";
  CHECK(PlanTable::Parse(wide, "rows.csv", true, other, &rows).ok());
  CHECK(!PlanTable::Parse(wide, "rows.csv", true, kSm90, &rows).ok());
  CHECK(!PlanTable::Parse(narrow, "rows.csv", true, other, &rows).ok());
  CHECK(std::string(LastError()).find("a width of 16, 32, ... 64") != std::string::npos);

  const std::shared_ptr<const PlanTable> table = BuiltIn();
  const LayerSpec spec = Spec();
  PlanDevice device = kH200;
  CHECK(MakePlan(*table, spec, nullptr, 1, device).few);
  device.generation = &other;
  const Plan plan = MakePlan(*table, spec, nullptr, 1, device);
  CHECK(!plan.few);
  CHECK(plan.generation == &other);
  CHECK(FindGeneration(90) == &kSm90);
  CHECK(FindGeneration(100) == nullptr);

  // So are the built-in rows, and what a file may say beside them.
  const std::string text =
      std::regex_replace(kSm90.plan, std::regex("(\n[^#\n]*,planes,[^,\n]*,)\\d+"), "$0116");
  other.plan = text.c_str();
  const TempFile file(wide);
  std::shared_ptr<const PlanTable> of_device;
  CHECK(!PlanTable::Make(file.path.c_str(), kH200, &of_device).ok());
  REQUIRE(PlanTable::Make(nullptr, device, &of_device).ok());
  CHECK(of_device->Find(WidthRule(Path::kPlanes), device, PlanShape::kLarge, 0)->value == 16);
  REQUIRE(PlanTable::Make(file.path.c_str(), device, &of_device).ok());
  CHECK(of_device->Find(WidthRule(Path::kPlanes), device, PlanShape::kLarge, 0)->value == 64);
}

TEST_CASE("[E7] plan: an apply looks at the rows that can be its device's answer, and at no others",
          "[unit]") {
  // Three kinds: of another device, beaten by a particular row, and said again.
  std::string text = "dsv4mx-plan,1\n";
  for (int i = 0; i < 100; ++i) text += "77,*,*,path," + std::to_string(i) + ",bf16\n";
  for (int i = 0; i < 100; ++i) text += "*,*,*,planes," + std::to_string(i) + ",16\n";
  for (int i = 0; i < 50; ++i) text += "*,*,small,bf16,1,64\n";
  text += "132,*,*,planes,0,8\n*,*,*,path,3,bf16\n*,*,small,path,0,planes\n";
  const TempFile file(text);
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in plan", false, kSm90, &rows).ok());
  REQUIRE(PlanTable::Parse(text, "rows.csv", true, kSm90, &rows).ok());
  const PlanTable whole(rows);
  REQUIRE(rows.size() > 270);
  PlanDevice other = kH200;
  other.multiprocessors = 77;
  for (const PlanDevice& device : {kH200, kH100, kPcie, kH20, kUnknown, other}) {
    std::shared_ptr<const PlanTable> table;
    REQUIRE(PlanTable::Make(file.path.c_str(), device, &table).ok());
    INFO(device.multiprocessors << " " << device.bandwidth);
    CHECK(table->Hash() == whole.Hash());
    const auto own = std::count_if(table->rows().begin(), table->rows().end(),
                                   [](const PlanRow& row) { return row.own; });
    // Of device 77 all rows of the first kind, which beat those of any device; else the two of any device. A particular row
    // beats all of the second kind, and of the third the last is left.
    CHECK(own ==
          (device.multiprocessors == 77 ? 100 : 2) + (device.multiprocessors == 132 ? 1 : 100) + 1);
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      for (int i = 0; i < 2000; ++i) {
        for (int32_t r = 0; r < kPlanRules; ++r) {
          const auto rule = static_cast<PlanRule>(r);
          const PlanRow* const want = whole.Find(rule, device, shape, i / 16.0);
          const PlanRow* const got = table->Find(rule, device, shape, i / 16.0);
          REQUIRE(got != nullptr);
          REQUIRE((got->line == want->line && got->own == want->own));
        }
      }
    }
  }
}

TEST_CASE("plan: every width that a kernel takes can be a row, and no other", "[unit]") {
  for (const auto& [path, rule] :
       {std::pair(Path::kPlanes, "planes"), std::pair(Path::kPlanesBig, "planes_big"),
        std::pair(Path::kBf16, "bf16"), std::pair(Path::kBf16Wide, "wide"),
        std::pair(Path::kE4m3, "e4m3"), std::pair(Path::kE4m3Big, "e4m3_big"),
        std::pair(Path::kE4m3Wide, "e4m3_wide"), std::pair(Path::kF16, "f16")}) {
    const TileWidths widths = WidthsOf(path);
    for (int32_t width = 0; width <= 300; ++width) {
      const bool legal = width > 0 && width <= widths.widest && width % widths.step == 0;
      const std::string text =
          "dsv4mx-plan,1\n*,*,*," + std::string(rule) + ",0," + std::to_string(width);
      std::vector<PlanRow> rows;
      INFO(text);
      CHECK(PlanTable::Parse(text, "rows.csv", true, kSm90, &rows).ok() == legal);
      if (!legal) continue;
      REQUIRE(rows.size() == 1);
      CHECK(rows[0].rule == WidthRule(path));
      CHECK(rows[0].value == width);
    }
  }
}

TEST_CASE("plan: which line an H20, an H100 PCIe, an H100 SXM, an H200 and any other device takes",
          "[unit]") {
  struct Question {
    double rows;
    const char *path, *width;
  };
  // The same for all of them; the head of the rows says why.
  constexpr Question kQuestions[] = {{0.02, "*,*,*,path,0,planes", "*,*,*,planes,0,32"},
                                     {27.9, "*,*,*,path,0,planes", "*,*,*,planes,0,32"},
                                     {28, "*,*,*,path,28,f16", "*,*,*,f16,20,64"},
                                     {51, "*,*,*,path,28,f16", "*,*,*,f16,20,64"},
                                     {52, "*,*,*,path,28,f16", "*,*,*,f16,52,96"},
                                     {79, "*,*,*,path,28,f16", "*,*,*,f16,64,112"},
                                     {119, "*,*,*,path,28,f16", "*,*,*,f16,80,128"},
                                     {384, "*,*,*,path,28,f16", "*,*,*,f16,120,144"}};
  // Where the weights or the layer want another path.
  constexpr struct {
    Path path;
    double rows;
    const char* line;
  } kWidths[] = {{Path::kPlanesBig, 32, "*,*,*,planes_big,0,56"},
                 {Path::kPlanesBig, 42, "*,*,*,planes_big,42,64"},
                 {Path::kBf16, 19, "*,*,*,bf16,0,32"},
                 {Path::kBf16, 28, "*,*,*,bf16,20,64"},
                 {Path::kBf16, 52, "*,*,*,bf16,52,96"},
                 {Path::kBf16, 79, "*,*,*,bf16,64,112"},
                 {Path::kBf16, 119, "*,*,*,bf16,80,128"},
                 {Path::kBf16, 384, "*,*,*,bf16,120,144"},
                 {Path::kBf16Wide, 100, "*,*,*,wide,80,128"},
                 {Path::kF16, 19, "*,*,*,f16,0,32"}};
  const auto table = BuiltIn();
  const struct {
    const char* name;
    PlanDevice device;
  } devices[] = {{"H20", {78, 4000}},   {"H100 PCIe", {114, 2000}}, {"H100 SXM", {132, 3350}},
                 {"H200", {132, 4800}}, {"unknown", {60, 0}},       {"nothing known", {}}};
  for (const auto& d : devices) {
    const auto ask = [&](PlanShape shape, const Question& q) {
      INFO(d.name << ", " << q.rows << " rows an expert");
      const PlanRow* path = table->Find(PlanRule::kPath, d.device, shape, q.rows);
      CHECK(BuiltInLine(*path) == q.path);
      const PlanRule rule = WidthRule(static_cast<Path>(path->value));
      CHECK(BuiltInLine(*table->Find(rule, d.device, shape, q.rows)) == q.width);
    };
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      for (const Question& q : kQuestions) ask(shape, q);
      for (const auto& [path, average, line] : kWidths)
        CHECK(BuiltInLine(*table->Find(WidthRule(path), d.device, shape, average)) == line);
      CHECK(BuiltInLine(*table->Find(PlanRule::kChunk, d.device, shape, 0)) ==
            "*,*,*,chunk,0,16384");
      CHECK(BuiltInLine(*table->Find(PlanRule::kMixed, d.device, shape, 0)) ==
            "*,*,*,mixed,0,4000");
    }
    const auto beside = [&](PlanRule rule, PlanShape shape, double rows) {
      return BuiltInLine(*table->Find(rule, d.device, shape, rows));
    };
    CHECK(beside(PlanRule::kHot, PlanShape::kLarge, 15.9) == "*,*,*,hot,0,0");
    CHECK(beside(PlanRule::kHot, PlanShape::kLarge, 16) == "*,*,large,hot,16,64");
    CHECK(beside(PlanRule::kHot, PlanShape::kLarge, 32) == "*,*,large,hot,28,72");
    CHECK(beside(PlanRule::kHot, PlanShape::kSmall, 100) == "*,*,*,hot,0,0");
    CHECK(beside(PlanRule::kCold, PlanShape::kLarge, 27.9) == "*,*,*,cold,0,0");
    CHECK(beside(PlanRule::kCold, PlanShape::kLarge, 28) == "*,*,large,cold,28,24");
    CHECK(beside(PlanRule::kCold, PlanShape::kSmall, 100) == "*,*,*,cold,0,0");
    CHECK(beside(PlanRule::kLevel, PlanShape::kLarge, 4.9) == "*,*,large,level,0,0");
    CHECK(beside(PlanRule::kLevel, PlanShape::kLarge, 5) == "*,*,large,level,5,1");
    CHECK(beside(PlanRule::kLevel, PlanShape::kSmall, 7.9) == "*,*,*,level,0,0");
    CHECK(beside(PlanRule::kLevel, PlanShape::kSmall, 8) == "*,*,*,level,8,1");
  }
}

TEST_CASE("plan: rows of a file that are keyed by device meet that device alone", "[unit]") {
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse("dsv4mx-plan,1\n"
                           "*,*,*,planes,0,4\n"
                           "78,*,*,planes,0,8\n"
                           "114,2000,*,planes,0,12\n"
                           "132,3350,*,planes,0,16\n"
                           "132,4800,*,planes,0,24\n"
                           "*,4000,*,planes,0,28\n"
                           "132,*,small,planes,0,32\n",
                           "rows.csv", true, kSm90, &rows)
              .ok());
  const PlanTable table(rows);
  const auto width = [&](int32_t sms, int64_t gbps, PlanShape shape = PlanShape::kLarge) {
    return table.Find(PlanRule::kPlanes, {sms, BandwidthClass(gbps)}, shape, 1)->value;
  };
  CHECK(width(78, 4022) == 8);  // sms before gbps
  CHECK(width(114, 2039) == 12);
  CHECK(width(132, 3352) == 16);
  CHECK(width(132, 4917) == 24);
  CHECK(width(132, 4917, PlanShape::kSmall) == 24);  // gbps before shape
  CHECK(width(132, 2039, PlanShape::kSmall) == 32);
  CHECK(width(132, 2039) == 4);  // an unknown pair of the two
  CHECK(width(144, 4022) == 28);
  CHECK(width(60, 0) == 4);
}

TEST_CASE("plan: planes for few rows an expert, f16 for many, tiles that fit", "[unit]") {
  const auto table = BuiltIn();
  const LayerSpec spec = Spec();
  const Census good = MakeCensus(119, 126, 7);
  for (const PlanDevice& device : {kH200, kH100, kPcie, kH20, kUnknown}) {
    int32_t width = 0;
    Path path = Path::kPlanes;
    for (int64_t tokens = 1; tokens <= kMaxTokens; tokens += tokens < 300    ? 1
                                                             : tokens < 4000 ? 97
                                                                             : 997) {
      const Plan plan = MakePlan(*table, spec, &good, tokens, device);
      INFO(tokens << " tokens");
      REQUIRE(plan.chunk_tokens * plan.chunks >= tokens);
      REQUIRE(plan.chunk_tokens * (plan.chunks - 1) < tokens);
      REQUIRE(plan.chunk_tokens <= LargestChunk(*table, spec, tokens, device));
      if (plan.chunks > 1) continue;
      if (plan.path != path) {  // once
        REQUIRE(path == Path::kPlanes);
        REQUIRE(plan.path == Path::kF16);
        REQUIRE(tokens * 6.0 / 256 >= 20);
        path = plan.path;
        width = 0;
      }
      REQUIRE(plan.width >= width);
      width = plan.width;
    }
    CHECK(path == Path::kF16);
    CHECK(MakePlan(*table, spec, &good, 1, device).width == 4);
    CHECK(MakePlan(*table, spec, &good, 1, device).path == Path::kPlanes);
  }
}

TEST_CASE("plan: planes_big where hidden is whole blocks of 512, or a plan file asks for it",
          "[unit]") {
  // No built-in row of SM 9.0 names it now; those of another generation may.
  const std::string line = "*,*,*,path,0,planes_big\n";
  Generation other = kSm90;
  const std::string plan_text = std::string(kSm90.plan) + line;
  other.plan = plan_text.c_str();
  PlanDevice device = kH200;
  device.generation = &other;
  std::shared_ptr<const PlanTable> built_in, own;
  REQUIRE(PlanTable::Make(nullptr, device, &built_in).ok());
  const TempFile file("dsv4mx-plan,1\n" + line);
  REQUIRE(PlanTable::Make(file.path.c_str(), kH200, &own).ok());
  const LayerSpec whole = Spec(4096, 2048, 128, 4), ends = Spec(2880, 2880, 128, 4);
  const auto make = [&](const LayerSpec& spec, const Census* census) {
    return MakePlan(*built_in, spec, census, 512, device);
  };
  CHECK(make(whole, nullptr).path == Path::kPlanesBig);
  CHECK(make(whole, nullptr).why == Plan::Why::kRow);
  // What runs instead is of halves, of f16 where that holds the weights.
  const Census inside = MakeCensus(102, 111, 9), low = MakeCensus(101, 111, 10);
  const struct {
    const Census* census;
    Path path;
    const char* words;
  } cases[] = {{nullptr, Path::kF16, "cuda sm_90a f16:,hidden is no multiple of 512"},
               {&inside, Path::kF16, "cuda sm_90a f16:,hidden is no multiple of 512"},
               {&low, Path::kBf16, "cuda sm_90a bf16:,hidden is no multiple of 512"}};
  for (const auto& c : cases) {
    const Plan plan = make(ends, c.census);
    CHECK(plan.path == c.path);
    CHECK(plan.why == Plan::Why::kEnds);
    char text[512];
    PrintPlan(plan, c.census, 512, device, text, sizeof text);
    CHECK(test::MissingWords(text, c.words) == "");
    CHECK(MakePlan(*own, ends, c.census, 512, kH200).path == Path::kPlanesBig);
  }
}

TEST_CASE("plan: a tile is never wider than a call with few tokens fills", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec(4096, 2048, 1, 1);  // every token meets the one expert
  for (int64_t tokens = 1; tokens <= 56; ++tokens) {
    const Plan plan = MakePlan(*table, spec, nullptr, tokens, kH200);
    const Path path = tokens < 28 ? Path::kPlanes : Path::kF16;
    CHECK(plan.path == path);
    CHECK(plan.width >= tokens);
    CHECK(plan.width < tokens + WidthsOf(path).step);
  }
}

TEST_CASE("plan: the census decides what is allowed", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec();
  const Census exact = MakeCensus(110, 121, 11), span = MakeCensus(100, 120, 12),
               high = MakeCensus(120, 129, 9), top = MakeCensus(118, 128, 10),
               narrow = MakeCensus(104, 120, 12);
  const auto path = [&](const Census* census, int64_t tokens = 4) {
    return MakePlan(*table, spec, census, tokens, kH200).path;
  };
  const Census none;
  CHECK(path(nullptr) == Path::kPlanes);
  CHECK(path(&none) == Path::kPlanes);
  CHECK(path(&exact) == Path::kPlanes);
  CHECK(path(&top) == Path::kPlanes);
  CHECK(path(&span) == Path::kBf16);
  CHECK(path(&narrow) == Path::kBf16);
  CHECK(path(&narrow, 2048) == Path::kF16);
  CHECK(path(&high) == Path::kBf16Wide);
  CHECK(path(&high, 16384) == Path::kBf16Wide);
  CHECK(MakePlan(*table, spec, &high, 1, kH200).width == 8);
  CHECK(MakePlan(*table, spec, &high, 64, kH200).width == 32);
  CHECK(MakePlan(*table, spec, &high, 16384, kH200).width == 144);
  CHECK(CheckPlanCensus(spec, high).ok());

  // f16 where it holds every weight: the limits, and what is one beyond them. Span is looked at apart.
  const struct {
    Census census;
    Path path;
  } many[] = {{none, Path::kF16},
              {MakeCensus(102, 102, 0), Path::kF16},
              {MakeCensus(102, 113, 11), Path::kF16},
              {MakeCensus(117, 128, 11), Path::kF16},
              {MakeCensus(102, 128, 11), Path::kF16},  // of different blocks
              {MakeCensus(101, 112, 11), Path::kBf16},
              {MakeCensus(101, 128, 11), Path::kBf16},
              {MakeCensus(0, 0, 0), Path::kBf16},
              {MakeCensus(102, 128, 12), Path::kF16},
              {MakeCensus(118, 129, 11), Path::kBf16Wide},
              {MakeCensus(101, 129, 11), Path::kBf16Wide}};
  CHECK(path(nullptr, 2048) == Path::kF16);
  for (const auto& m : many) {
    INFO(m.census.scale_min << " " << m.census.scale_max << " " << m.census.span_max);
    CHECK(path(&m.census, 2048) == m.path);
    CHECK(path(&m.census, kMaxTokens) == m.path);
    CHECK(CheckPlanCensus(spec, m.census).ok());
  }
  spec.router_weight_position = DSV4MX_ROUTER_WEIGHT_BEFORE_W2;
  CHECK(path(&exact, 2048) == Path::kBf16);
  CHECK(path(nullptr, 2048) == Path::kBf16);
  spec.router_weight_position = DSV4MX_ROUTER_WEIGHT_AFTER_W2;
  // Limits are the generation's.
  Generation other = kSm90;
  other.f16_least_scale = 113, other.f16_most_scale = 120;
  PlanDevice device = kH200;
  device.generation = &other;
  for (const auto& [low, up, wanted] :
       {std::tuple(113, 120, Path::kF16), std::tuple(112, 120, Path::kBf16),
        std::tuple(113, 121, Path::kBf16)}) {
    const Census census = MakeCensus(low, up, up - low);
    CHECK(MakePlan(*table, spec, &census, 2048, device).path == wanted);
  }

  spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(path(&exact) == Path::kBf16);
  CHECK(path(&exact, 2048) == Path::kBf16);  // whose name says what it is
  CHECK(path(&high) == Path::kBf16Wide);
  CHECK(CheckPlanCensus(spec, high).ok());

  spec.number_path = DSV4MX_NUMBER_PATH_PLANES;
  CHECK(path(&exact, 1024) == Path::kPlanes);
  CHECK(path(&exact, 2048) == Path::kPlanesBig);
  CHECK(path(&exact, 16384) == Path::kPlanesBig);  // with the same bits
  CHECK(CheckPlanCensus(spec, exact).ok());
  CHECK(CheckPlanCensus(spec, none).ok());
  for (const Census& bad : {span, high}) {
    CHECK(CheckPlanCensus(spec, bad).code == DSV4MX_STATUS_UNSUPPORTED);
    CHECK(test::MissingWords(LastError(), "PLANES,scale bytes,span,wanted at most 128 and 11") ==
          "");
  }

  spec.number_path = DSV4MX_NUMBER_PATH_AUTO;
  spec.batch_invariant = true;
  for (int64_t tokens = 1; tokens <= kMaxTokens; tokens *= 2) {
    CHECK(path(&exact, tokens) == (tokens < 2048 ? Path::kPlanes : Path::kPlanesBig));
    CHECK(path(&span, tokens) == Path::kBf16);
    CHECK(path(&narrow, tokens) == Path::kBf16);
    CHECK(path(&high, tokens) == Path::kBf16Wide);
  }
}

TEST_CASE("plan: an expert that comes later must leave the path of prepared weights as it is",
          "[unit]") {
  const std::shared_ptr<const PlanTable> table = BuiltIn();
  const Census none, exact = MakeCensus(100, 128, 11), span = MakeCensus(100, 112, 12),
                     wide = MakeCensus(125, 129, 4), f16 = MakeCensus(102, 128, 11),
                     low = MakeCensus(101, 112, 11), low_span = MakeCensus(101, 113, 12),
                     all = MakeCensus(101, 129, 11), level = MakeCensus(112, 120, 8),
                     below = MakeCensus(109, 117, 8), late = MakeCensus(110, 122, 11),
                     far = MakeCensus(117, 125, 8), uneven = MakeCensus(110, 123, 11),
                     level_span = MakeCensus(112, 124, 12), level_wide = MakeCensus(118, 129, 11);
  const struct {
    const Census &prepared, &expert;
    const char* words;  // "" = allowed
  } cases[] = {
      {none, none, ""},
      {none, exact, "from 100 on,wanted 102 or more"},  // none may run as f16
      {none, f16, ""},
      {none, below, ""},
      {none, level, ""},
      {exact, none, ""},
      {none, span, "up to 112,span of 12,128 and 11"},
      {exact, span, "up to 112,span of 12,128 and 11"},
      {exact, wide, "up to 129,span of 4,128 and 11"},
      {span, exact, ""},
      {span, span, ""},
      {span, wide, "up to 129,span of 4,at most scale byte 128"},
      {wide, span, ""},
      {wide, exact, ""},
      {wide, wide, ""},
      {f16, none, ""},
      {f16, f16, ""},
      {f16, level, ""},
      {f16, below, ""},
      {f16, exact, "from 100 on,wanted 102 or more"},
      {f16, low, "from 101 on,wanted 102 or more"},
      // Of two reasons, the one that keeps it from planes.
      {f16, low_span, "up to 113,span of 12,128 and 11"},
      {f16, all, "up to 129,span of 11,128 and 11"},
      {exact, low, ""},  // bf16 runs where f16 could
      {low, exact, ""},
      {exact, f16, ""},
      {low, f16, ""},
      {level, none, ""},
      {level, level, ""},
      {level, late, ""},
      {level, far, "from 117 to 125,wanted 110 or more,within 12"},
      {level, below, "from 109 to 117,wanted 110 or more,within 12"},
      {level, f16, "from 102 to 128,wanted 110 or more,within 12"},
      {level, low, "from 101 on,wanted 102 or more"},
      {level, level_span, "up to 124,span of 12,128 and 11"},
      {level, level_wide, "up to 129,span of 11,128 and 11"},
      {below, level, ""},
      {below, f16, ""},
      // What is that uneven from the start is not levelled, nor is anything without planes.
      {late, level, ""},
      {late, f16, "from 102 to 128,wanted 110 or more,within 12"},
      {uneven, below, ""},
      {level_span, below, ""},
      {level_span, low, "from 101 on,wanted 102 or more"},
      {level_wide, low, ""}};
  for (const auto& c : cases) {
    INFO(c.prepared.scale_min << ".." << c.prepared.scale_max << ", " << c.expert.scale_min << ".."
                              << c.expert.scale_max << ": " << c.words);
    const Status status = CheckPlanNewcomer(kSm90, c.prepared, c.expert, "expert 7 of from");
    CHECK(status.code == (*c.words == 0 ? DSV4MX_STATUS_OK : DSV4MX_STATUS_UNSUPPORTED));
    if (*c.words != 0) {
      CHECK(test::MissingWords(LastError(), std::string("expert 7 of from,prepared,") + c.words) ==
            "");
    }
    // What is let in leaves every plan as it was. Without anything prepared none levels, whoever comes.
    Census both = c.prepared;
    both.Add(c.expert);
    bool same = true;
    for (const dsv4mx_compute compute : {DSV4MX_COMPUTE_W4A16, DSV4MX_COMPUTE_W4A8}) {
      LayerSpec spec = Spec();
      spec.compute = compute;
      for (const int64_t tokens : {1, 256, 1024, 2048, 16384}) {
        const Plan before = MakePlan(*table, spec, &c.prepared, tokens, kH200),
                   after = MakePlan(*table, spec, &both, tokens, kH200);
        same = same && before.path == after.path && before.part_count == after.part_count &&
               before.parts[0].path == after.parts[0].path &&
               (!c.prepared.any ||
                (before.levelled == after.levelled && before.launches == after.launches));
      }
    }
    CHECK(same == (*c.words == 0));
  }
}

TEST_CASE("plan: the largest chunk grows with tokens and keeps the slots below 4 GiB", "[unit]") {
  const auto table = BuiltIn();
  for (LayerSpec spec : {Spec(), Spec(7168, 3072, 384, 6), Spec(65536, 65536, 4, 16)}) {
    int64_t before = 0;
    for (int64_t tokens = 1; tokens <= kMaxTokens; tokens += tokens < 300 ? 1 : 511) {
      const int64_t chunk = LargestChunk(*table, spec, tokens, kH200);
      REQUIRE(chunk >= before);
      REQUIRE(chunk <= tokens);
      const Plan plan = MakePlan(*table, spec, nullptr, tokens, kH200);
      REQUIRE(plan.chunk_tokens <= chunk);
      if (tokens == chunk) REQUIRE(plan.chunk_tokens == chunk);  // so no smaller size would do
      REQUIRE((chunk <= 128 || chunk * spec.top_k * spec.hidden * 4 <= int64_t{4} << 30));
      before = chunk;
    }
  }
  CHECK(LargestChunk(*table, Spec(), 100000, kH200) == 16384);
}

TEST_CASE("plan: W4A8 takes its own paths, and a bf16 path where weights ask for one", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec();
  spec.compute = DSV4MX_COMPUTE_W4A8;
  const auto plan = [&](const Census* census, int64_t tokens) {
    return MakePlan(*table, spec, census, tokens, kH200);
  };
  CHECK(plan(nullptr, 1).path == Path::kE4m3);
  CHECK(plan(nullptr, 1).width == 8);
  CHECK(plan(nullptr, 4096).path == Path::kE4m3Big);
  CHECK(plan(nullptr, 16384).path == Path::kE4m3Wide);
  CHECK(plan(nullptr, 16384).quantised);
  CHECK(plan(nullptr, 1).few);
  CHECK(plan(nullptr, 1).launches == 2);
  CHECK(plan(nullptr, 64).launches == 4);
  CHECK(plan(nullptr, 256).launches == 5);  // one scale for each row of h
  spec.batch_invariant = true;              // on the same paths: all give the same bits then
  CHECK(plan(nullptr, 1).few);
  CHECK(plan(nullptr, 256).launches == 4);
  CHECK(plan(nullptr, 16384).path == Path::kE4m3Wide);
  char text[1024];
  PrintPlan(plan(nullptr, 64), nullptr, 64, kH200, text, sizeof text);
  CHECK(test::MissingWords(text, "W4A8,e4m3,because,line") == "");
  // One launch more, between the GEMMs.
  const Census wide = MakeCensus(100, 140, 40), spread = MakeCensus(100, 127, 27);
  CHECK(plan(&wide, 64).path == Path::kBf16Wide);
  CHECK(plan(&spread, 64).path == Path::kBf16);
  CHECK(plan(&spread, 64).launches == 5);
  CHECK(plan(&spread, 16385).launches == 12);
  PrintPlan(plan(&spread, 64), &spread, 64, kH200, text, sizeof text);
  CHECK(test::MissingWords(text, "bf16,W4A8,E4M3 weights are not exact,27 binades") == "");
  spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(plan(nullptr, 1).path == Path::kBf16);
  CHECK(plan(nullptr, 1).launches == 5);
}

TEST_CASE("plan: launches are counted chunk by chunk", "[unit]") {
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in", false, kSm90, &rows).ok());
  REQUIRE(
      PlanTable::Parse("dsv4mx-plan,1\n*,*,*,chunk,0,688", "rows.csv", true, kSm90, &rows).ok());
  const PlanTable small(rows);
  const auto table = BuiltIn();
  const LayerSpec spec = Spec();  // 6 pairs a token, counted in place up to 4096
  const auto launches = [&](const PlanTable& t, int64_t tokens) {
    return MakePlan(t, spec, nullptr, tokens, kH200).launches;
  };
  CHECK(launches(*table, 1) == 2);  // few pairs: GEMM1 and GEMM2, which combines up to 4 tokens
  CHECK(launches(*table, 4) == 2);
  CHECK(launches(*table, 5) == 3);
  CHECK(launches(*table, 8) == 3);
  CHECK(launches(*table, 9) == 4);
  CHECK(launches(*table, 213) == 4);
  CHECK(launches(*table, 214) == 4 + 1);  // one scale for each row of h
  CHECK(launches(*table, 682) == 4 + 1);
  // Hot experts by themselves, in both GEMMs, and both once more in case that f16 does not hold h.
  CHECK(launches(*table, 683) == 5 + 1 + 2 + 2);
  CHECK(launches(*table, 2048) == 5 + 4 + 2);  // cold ones, too
  CHECK(launches(*table, 16384) == 5 + 2 + 2);
  CHECK(launches(*table, 16385) == 2 * (5 + 2 + 2));
  CHECK(launches(*table, 131072) == 8 * (5 + 2 + 2));
  CHECK(launches(small, 689) == 2 * (4 + 1));              // 352 and 337 tokens
  CHECK(launches(small, 2 * 688) == 2 * (5 + 1 + 2 + 2));  // 688 and 688
  CHECK(launches(small, 1368) == 5 + 4 + 2);               // 688 and 680: one path alone in both
  CHECK(launches(small, 2056) == 5 + 5 + 4 + 3);           // 688, 688 and 680

  // Of weights that f16 does not hold nothing is launched again, nor where all experts are of f16 more than once.
  const Census low = MakeCensus(101, 110, 9);
  const auto of_low = [&](int64_t tokens) {
    return MakePlan(*table, spec, &low, tokens, kH200).launches;
  };
  CHECK(of_low(683) == 5 + 2);
  CHECK(of_low(2048) == 5 + 4);
  CHECK(of_low(16385) == 2 * (5 + 2));
  const LayerSpec slice = Spec(4096, 256);  // below `mixed`
  const Plan alone = MakePlan(*table, slice, nullptr, 4096, kH200);
  CHECK(alone.part_count == 1);
  CHECK(alone.has_f16());
  CHECK(alone.launches == 5 + 2);
  const Plan of_bf16 = MakePlan(*table, slice, &low, 4096, kH200);
  CHECK_FALSE(of_bf16.has_f16());
  CHECK(of_bf16.launches == 5);
}

namespace {

// The built-in rows and, before them, these lines without their first three columns.
PlanTable WithLines(const std::vector<std::string>& lines) {
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in plan", false, kSm90, &rows).ok());
  std::string text = "dsv4mx-plan,1\n";
  for (const std::string& line : lines) text += "*,*,*," + line + "\n";
  REQUIRE(PlanTable::Parse(text, "rows.csv", true, kSm90, &rows).ok());
  return PlanTable(std::move(rows));
}

std::string TextOf(const Plan& plan, const Census* census, int64_t tokens) {
  char text[1024];  // as long as the layer's own
  PrintPlan(plan, census, tokens, kH200, text, sizeof text);
  return text;
}

// What each part is: "bf16 81.. / planes_big 25..80 / planes 1..24".
std::string PartsOf(const Plan& plan) {
  std::string text;
  for (int32_t i = 0; i < plan.part_count; ++i) {
    const PlanPart& part = plan.parts[i];
    if (i != 0) text += " / ";
    text += std::string(PathName(part.path)) + " " + std::to_string(part.least) + "..";
    if (part.most != kAnyCount) text += std::to_string(part.most);
  }
  return text;
}

}  // namespace

TEST_CASE("plan: hot experts on f16 or bf16, cold ones on planes, beside the path of the others",
          "[unit]") {
  const LayerSpec spec = Spec();
  const Census inside = MakeCensus(102, 111, 9), low = MakeCensus(101, 111, 10);
  const auto parts_of = [&](const Census* census, const std::string& path, int hot, int cold) {
    const PlanTable table = WithLines(
        {"path,0," + path, "hot,0," + std::to_string(hot), "cold,0," + std::to_string(cold)});
    return PartsOf(MakePlan(table, spec, census, 1024, kH200));
  };
  // What f16 does not hold is bf16's, and nothing else is another.
  const auto parts = [&](const std::string& path, int hot, int cold) {
    const std::string text = parts_of(nullptr, path, hot, cold);
    CHECK(parts_of(&inside, path, hot, cold) == text);
    CHECK(parts_of(&low, path, hot, cold) ==
          std::regex_replace(text, std::regex("\\bf16"), "bf16"));
    return text;
  };
  CHECK(parts("planes", 0, 0) == "planes 1..");
  CHECK(parts("planes", 48, 0) == "f16 49.. / planes 1..48");
  CHECK(parts("planes", 48, 24) == "f16 49.. / planes 1..48");  // as cold experts are anyway
  CHECK(parts("planes_big", 0, 0) == "planes_big 1..");
  CHECK(parts("planes_big", 80, 0) == "f16 81.. / planes_big 1..80");
  CHECK(parts("planes_big", 0, 24) == "planes_big 25.. / planes 1..24");
  CHECK(parts("planes_big", 80, 24) == "f16 81.. / planes_big 25..80 / planes 1..24");
  CHECK(parts("bf16", 80, 0) == "bf16 81.. / bf16 1..80");
  CHECK(parts("bf16", 80, 24) == "bf16 81.. / bf16 25..80 / planes 1..24");
  // Tiles of hot ones would be no wider: they are no others, so nothing crosses.
  CHECK(parts("bf16", 8, 24) == "bf16 25.. / planes 1..24");
  CHECK(parts("f16", 80, 0) == "f16 81.. / f16 1..80");
  CHECK(parts("f16", 80, 24) == "f16 81.. / f16 25..80 / planes 1..24");
  CHECK(parts("f16", 8, 24) == "f16 25.. / planes 1..24");
  // Lines that cross.
  CHECK(parts("planes_big", 24, 24) == "f16 25.. / planes_big 24..24 / planes 1..23");
  CHECK(parts("planes_big", 24, 80) == "f16 25.. / planes_big 24..24 / planes 1..23");
  CHECK(parts("planes_big", 2, 131072) == "f16 3.. / planes_big 2..2 / planes 1..1");
  CHECK(parts("planes_big", 1, 131072) == "f16 2.. / planes_big 1..1");
  CHECK(parts("planes_big", 131072, 131072) ==
        "f16 131073.. / planes_big 131072..131072 / planes 1..131071");
  // Each line is the one of the rows that an expert has on average.
  const PlanTable by_rows = WithLines(
      {"path,0,planes_big", "hot,0,0", "hot,30,90", "hot,60,99", "cold,0,7", "cold,30,0"});
  const auto at = [&](int64_t tokens) {
    return PartsOf(MakePlan(by_rows, spec, nullptr, tokens, kH200));
  };
  CHECK(at(1024) == "planes_big 8.. / planes 1..7");
  CHECK(at(2048) == "f16 91.. / planes_big 1..90");
  CHECK(at(4096) == "f16 100.. / planes_big 1..99");

  const PlanTable table = WithLines({"path,0,planes_big", "hot,0,16", "cold,0,6", "planes_big,0,56",
                                     "bf16,0,32", "bf16,64,112", "bf16,65,144", "f16,0,24",
                                     "f16,64,104", "f16,65,136", "planes,0,32"});
  const Plan plan = MakePlan(table, spec, nullptr, 1024, kH200);
  REQUIRE(plan.part_count == 3);
  CHECK(plan.parts[0].width ==
        104);  // of four times as many rows as the fewest that a hot expert has
  CHECK(plan.parts[1].width == plan.width);
  CHECK(plan.parts[2].width == 8);  // no wider than a cold expert fills
  CHECK(plan.has_f16());
  const Plan of_low = MakePlan(table, spec, &low, 1024, kH200);
  REQUIRE(of_low.part_count == 3);
  CHECK(of_low.parts[0].path == Path::kBf16);
  CHECK(of_low.parts[0].width == 112);
  CHECK_FALSE(of_low.has_f16());
  CHECK(of_low.launches + 2 == plan.launches);
}

TEST_CASE("plan: a plan file that names f16 gets bf16 for weights that f16 does not hold",
          "[unit]") {
  const PlanTable table = WithLines({"path,0,f16", "f16,0,56", "bf16,0,72", "wide,0,88"});
  const LayerSpec spec = Spec();
  const Census inside = MakeCensus(110, 121, 11), low = MakeCensus(101, 112, 11),
               high = MakeCensus(120, 129, 9);
  const struct {
    const Census* census;
    Path path;
    int32_t width;
    Plan::Why why;
    int64_t launches;
    const char* words;
  } cases[] = {
      {nullptr, Path::kF16, 56, Plan::Why::kRow, 6,
       "cuda sm_90a f16: bf16 x fp4,up to 56 tokens,6 launches,of the plan file"},
      {&inside, Path::kF16, 56, Plan::Why::kRow, 6,
       "cuda sm_90a f16: bf16 x fp4,up to 56 tokens,6 launches,of the plan file"},
      {&low, Path::kBf16, 72, Plan::Why::kRow, 4,
       "cuda sm_90a bf16: bf16 x fp4,up to 72 tokens,4 launches,of the plan file"},
      {&high, Path::kBf16Wide, 88, Plan::Why::kCensus, 4, "wide bf16: bf16 x fp4,up to 88 tokens"}};
  for (const auto& c : cases) {
    const Plan plan = MakePlan(table, spec, c.census, 600, kH200);
    const std::string text = TextOf(plan, c.census, 600);
    INFO(text);
    CHECK(plan.path == c.path);
    CHECK(plan.width == c.width);
    CHECK(plan.why == c.why);
    CHECK(plan.launches == c.launches);
    CHECK(!plan.few);
    CHECK(test::MissingWords(text, c.words) == "");
  }
  CHECK(MakePlan(table, spec, nullptr, 1, kH200).width == 8);
  // Where a layer says what it wants, the line counts for nothing.
  LayerSpec other = spec;
  other.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(MakePlan(table, other, nullptr, 600, kH200).path == Path::kBf16);
  other.number_path = DSV4MX_NUMBER_PATH_PLANES;
  CHECK(MakePlan(table, other, nullptr, 600, kH200).path == Path::kPlanes);
  CHECK(MakePlan(table, other, nullptr, 2048, kH200).path == Path::kPlanesBig);
  other = spec;
  other.batch_invariant = true;
  CHECK(MakePlan(table, other, nullptr, 600, kH200).path == Path::kPlanes);
  other = spec;
  other.compute = DSV4MX_COMPUTE_W4A8;
  CHECK(IsE4m3(MakePlan(table, other, nullptr, 600, kH200).path));
  CHECK_FALSE(MakePlan(table, other, &low, 600, kH200).has_f16());
}

TEST_CASE("plan: one path alone where experts are not shared out", "[unit]") {
  const std::vector<std::string> lines = {"path,0,planes_big", "hot,0,80", "cold,0,24"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), lines.begin(), lines.end());
    return WithLines(more);
  };
  const PlanTable table = with({});
  const LayerSpec flash = Spec();
  const auto parts = [&](const PlanTable& t, const LayerSpec& spec, const Census* census,
                         int64_t tokens) {
    return MakePlan(t, spec, census, tokens, kH200).part_count;
  };
  const Census exact = MakeCensus(110, 121, 11), span = MakeCensus(100, 120, 12),
               high = MakeCensus(120, 129, 9);
  CHECK(parts(table, flash, nullptr, 2048) == 3);
  CHECK(parts(table, flash, &exact, 2048) == 3);
  CHECK(parts(table, flash, &span, 2048) == 1);
  CHECK(parts(table, flash, &high, 2048) == 1);

  LayerSpec spec = flash;
  spec.batch_invariant = true;
  CHECK(parts(table, spec, nullptr, 2048) == 1);
  for (const int32_t path : {DSV4MX_NUMBER_PATH_PLANES, DSV4MX_NUMBER_PATH_BF16}) {
    spec = flash;
    spec.number_path = path;
    CHECK(parts(table, spec, nullptr, 2048) == 1);
  }
  spec = flash;
  spec.compute = DSV4MX_COMPUTE_W4A8;
  for (const Census* census : {&exact, &span, &high}) CHECK(parts(table, spec, census, 2048) == 1);

  // 6 pairs a token, more than 4096 of them.
  CHECK(parts(table, flash, nullptr, 682) == 1);
  CHECK(parts(table, flash, nullptr, 683) == 3);
  // In the last chunk, too.
  const PlanTable small = with({"chunk,0,688"});
  CHECK(parts(small, flash, nullptr, 688) == 3);
  CHECK(parts(small, flash, nullptr, 689) == 1);      // 352 and 337
  CHECK(parts(small, flash, nullptr, 1368) == 1);     // 688 and 680
  CHECK(parts(small, flash, nullptr, 1371) == 3);     // 688 and 683
  CHECK(parts(small, flash, nullptr, 2 * 688) == 3);  // 688 and 688

  // 24 Mi weights an expert, of 256.
  CHECK(parts(with({"mixed,0,6144"}), flash, nullptr, 2048) == 3);
  CHECK(parts(with({"mixed,0,6145"}), flash, nullptr, 2048) == 1);
  CHECK(parts(with({"mixed,0,1000000"}), flash, nullptr, 2048) == 1);
  spec = flash;
  spec.experts = 32;  // of an expert-parallel rank
  CHECK(parts(with({"mixed,0,768"}), spec, nullptr, 2048) == 3);
  CHECK(parts(with({"mixed,0,769"}), spec, nullptr, 2048) == 1);
  CHECK(parts(with({"mixed,0,0"}), Spec(32, 32, 2, 6), nullptr, 2048) == 3);

  // The built-in rows leave slices alone, however many experts these have.
  const LayerSpec slices = Spec(4096, 256, 4096, 6);
  REQUIRE(ShapeOf(slices) == PlanShape::kSmall);
  const auto built_in = BuiltIn();
  for (int64_t tokens = 1; tokens <= kMaxTokens; tokens *= 2) {
    CHECK(parts(*built_in, slices, nullptr, tokens) == 1);
  }

  // The kernels for few pairs know no parts, should they ever take so many.
  Generation other = kSm90;
  other.few_fits = [](int64_t, int64_t, int64_t, int64_t, int64_t, bool) { return true; };
  PlanDevice device = kH200;
  device.generation = &other;
  const Plan few = MakePlan(with({"few,0,1000000"}), flash, nullptr, 2048, device);
  CHECK(few.few);
  CHECK(few.part_count == 1);
  const Plan many = MakePlan(with({"few,0,0"}), flash, nullptr, 2048, device);
  CHECK_FALSE(many.few);
  CHECK(many.part_count == 3);
}

TEST_CASE("plan: rows of h get one scale where the table says so and nothing stands against it",
          "[unit]") {
  const auto built_in = BuiltIn();
  LayerSpec flash = Spec(), slice = Spec(4096, 256);
  REQUIRE(ShapeOf(slice) == PlanShape::kSmall);
  const auto levelled = [](const PlanTable& table, const LayerSpec& spec, const Census* census,
                           int64_t tokens) {
    return MakePlan(table, spec, census, tokens, kH200).levelled;
  };
  // 6 of 256 experts a token: large layers from 5 rows an expert, small ones from 8.
  for (const dsv4mx_compute compute : {DSV4MX_COMPUTE_W4A16, DSV4MX_COMPUTE_W4A8}) {
    flash.compute = slice.compute = compute;
    CHECK_FALSE(levelled(*built_in, flash, nullptr, 1));
    CHECK_FALSE(levelled(*built_in, flash, nullptr, 213));
    CHECK(levelled(*built_in, flash, nullptr, 214));
    CHECK(levelled(*built_in, flash, nullptr, 1024));
    CHECK_FALSE(levelled(*built_in, slice, nullptr, 341));
    CHECK(levelled(*built_in, slice, nullptr, 342));
  }
  flash.compute = slice.compute = DSV4MX_COMPUTE_W4A16;
  CHECK(levelled(*built_in, flash, nullptr, 1192));
  CHECK_FALSE(levelled(*built_in, flash, nullptr, 1200));  // f16, from 28 rows

  // Each path that a table can name.
  const auto by = [&](const std::string& rule, const std::string& path, int32_t level,
                      int64_t tokens) {
    LayerSpec spec = Spec();
    if (rule == "w4a8") spec.compute = DSV4MX_COMPUTE_W4A8;
    const Plan plan =
        MakePlan(WithLines({"few,0,0", rule + ",0," + path, "level,0," + std::to_string(level)}),
                 spec, nullptr, tokens, kH200);
    CHECK(std::string(PathName(plan.path)) == path);
    return plan.levelled;
  };
  const struct {
    const char *rule, *path;
    bool levelled;
  } paths[] = {{"path", "planes", true},   {"path", "planes_big", false},
               {"path", "f16", false},     {"path", "bf16", false},
               {"w4a8", "e4m3", true},     {"w4a8", "e4m3_big", true},
               {"w4a8", "e4m3_wide", true}};
  for (const auto& p : paths) {
    INFO(p.rule << " " << p.path);
    for (const int64_t tokens : {1, 100, 4096, 100000}) {
      CHECK(by(p.rule, p.path, 1, tokens) == p.levelled);
      CHECK_FALSE(by(p.rule, p.path, 0, tokens));
    }
  }

  // By the path of the plan, whatever runs beside it.
  const auto shared_out = [&](const char* path) {
    return MakePlan(WithLines({std::string("path,0,") + path, "hot,0,80", "cold,0,24", "level,0,1",
                               "mixed,0,0"}),
                    Spec(), nullptr, 1024, kH200);
  };
  CHECK(PartsOf(shared_out("planes")) == "f16 81.. / planes 1..80");
  CHECK(shared_out("planes").levelled);
  CHECK(PartsOf(shared_out("planes_big")) == "f16 81.. / planes_big 25..80 / planes 1..24");
  CHECK_FALSE(shared_out("planes_big").levelled);
  CHECK(PartsOf(shared_out("f16")) == "f16 81.. / f16 25..80 / planes 1..24");
  CHECK_FALSE(shared_out("f16").levelled);

  // What stands against it, one by one.
  const PlanTable table = WithLines({"few,0,0", "level,0,1"});
  for (const dsv4mx_compute compute : {DSV4MX_COMPUTE_W4A16, DSV4MX_COMPUTE_W4A8}) {
    flash.compute = compute;
    const auto with = [&](const std::function<void(LayerSpec&)>& change) {
      LayerSpec spec = flash;
      change(spec);
      return levelled(table, spec, nullptr, 64);
    };
    CHECK(with([](LayerSpec&) {}));
    CHECK(with([](LayerSpec& s) { s.w13_bias = DSV4MX_DTYPE_F32; }));
    CHECK(with([](LayerSpec& s) { s.out_dtype = DSV4MX_DTYPE_F32; }));
    CHECK(with([](LayerSpec& s) { s.router_weight_position = DSV4MX_ROUTER_WEIGHT_BEFORE_W2; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.batch_invariant = true; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.plain_slots = true; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.w2_bias = DSV4MX_DTYPE_BF16; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.w2_bias = DSV4MX_DTYPE_F32; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.number_path = DSV4MX_NUMBER_PATH_PLANES; }));
    CHECK_FALSE(with([](LayerSpec& s) { s.number_path = DSV4MX_NUMBER_PATH_BF16; }));
    // Weights.
    const Census none;
    CHECK_FALSE(levelled(table, flash, &none, 64));  // any expert may come then
    for (const auto& [low, up, span, wanted] :
         {std::tuple(110, 122, 11, true), std::tuple(128, 128, 0, true),
          std::tuple(116, 128, 3, true), std::tuple(109, 121, 8, false),
          std::tuple(109, 110, 1, false), std::tuple(110, 123, 8, false),
          std::tuple(115, 128, 8, false), std::tuple(112, 124, 12, false),
          std::tuple(124, 129, 5, false)}) {
      const Census census = MakeCensus(low, up, span);
      INFO(low << ".." << up << " span " << span);
      CHECK(levelled(table, flash, &census, 64) == wanted);
    }
    Generation other = kSm90;
    other.level_least_scale = 113;
    PlanDevice device = kH200;
    device.generation = &other;
    for (const int32_t low : {112, 113}) {
      const Census census = MakeCensus(low, 118, 118 - low);
      CHECK(MakePlan(table, flash, &census, 64, device).levelled == (low == 113));
    }
    other.level_least_scale = kSm90.level_least_scale, other.level_most_spread = 3;
    for (const int32_t up : {123, 124}) {
      const Census census = MakeCensus(120, up, up - 120);
      CHECK(MakePlan(table, flash, &census, 64, device).levelled == (up == 123));
    }
    // The kernels for few pairs, and a layer of many pairs otherwise like it.
    const PlanTable always = WithLines({"level,0,1"});
    CHECK(MakePlan(always, flash, nullptr, 1, kH200).few);
    CHECK_FALSE(levelled(always, flash, nullptr, 1));
    CHECK(levelled(table, flash, nullptr, 1));
  }

  // One launch a chunk, which the text says too.
  flash.compute = DSV4MX_COMPUTE_W4A16;
  const PlanTable chunks = WithLines({"few,0,0", "level,0,1", "chunk,0,128", "path,0,planes"}),
                  plain = WithLines({"few,0,0", "level,0,0", "chunk,0,128", "path,0,planes"});
  for (const int64_t tokens : {64, 128, 129, 300}) {
    const Plan with = MakePlan(chunks, flash, nullptr, tokens, kH200),
               without = MakePlan(plain, flash, nullptr, tokens, kH200);
    CHECK(with.chunks == (tokens + 127) / 128);
    CHECK(with.launches == without.launches + with.chunks);
    CHECK(test::MissingWords(TextOf(with, nullptr, tokens),
                             "cuda sm_90a planes with one scale a row of h: bf16 x fp4") == "");
    CHECK(test::MissingWords(TextOf(without, nullptr, tokens), "cuda sm_90a planes: bf16 x fp4") ==
          "");
  }
  flash.compute = DSV4MX_COMPUTE_W4A8;
  CHECK(test::MissingWords(TextOf(MakePlan(chunks, flash, nullptr, 64, kH200), nullptr, 64),
                           "cuda sm_90a e4m3 with one scale a row of h: W4A8") == "");
}

TEST_CASE("plan: every number of tokens of an expert is in one part, whatever rows and layers say",
          "[unit]") {
  test::Rng rng(20);
  const auto one_of = [&](const auto& list) {
    return list[static_cast<size_t>(rng.Below(static_cast<int64_t>(std::size(list))))];
  };
  const Census exact = MakeCensus(112, 120, 8), span = MakeCensus(100, 120, 12),
               high = MakeCensus(120, 129, 9), low = MakeCensus(101, 112, 11);
  constexpr const char* kMain[] = {"planes", "planes_big", "bf16", "f16"};
  constexpr int32_t kLimits[] = {0, 0, 1, 2, 3, 8, 24, 25, 48, 80, 144, 5000, 131071, 131072};
  const LayerSpec specs[] = {Spec(),
                             Spec(7168, 3072, 384, 8),
                             Spec(2880, 2880, 128, 4),
                             Spec(4096, 256, 256, 6),
                             Spec(65536, 65536, 4, 16),
                             Spec(32, 32, 1, 1)};
  const auto last_of = [](const Plan& plan, int64_t tokens) {
    return tokens - (plan.chunks - 1) * plan.chunk_tokens;
  };
  std::set<std::string> seen;  // which kinds of parts
  size_t longest = 0;
  int of_levelled = 0;
  for (int turn = 0; turn < 6000; ++turn) {
    const int32_t hot = one_of(kLimits), cold = one_of(kLimits);
    const int32_t mixed = static_cast<int32_t>(rng.Below(3) == 0 ? 3000 : 0);
    std::vector<std::string> lines = {"hot,0," + std::to_string(hot),
                                      "cold,0," + std::to_string(cold),
                                      "mixed,0," + std::to_string(mixed)};
    if (rng.Below(8) != 0) lines.push_back(std::string("path,0,") + one_of(kMain));
    const int64_t level = rng.Below(3) - 1;  // -1: as the built-in rows say
    if (level >= 0) lines.push_back("level,0," + std::to_string(level));
    if (rng.Below(4) == 0) lines.push_back("chunk,0," + std::to_string(128 + rng.Below(2000)));
    for (const Path path : {Path::kPlanes, Path::kPlanesBig, Path::kBf16, Path::kF16}) {
      const TileWidths widths = WidthsOf(path);
      const int64_t width = widths.step * (1 + rng.Below(widths.widest / widths.step));
      if (rng.Below(3) == 0)
        lines.push_back(std::string(PathName(path)) + ",0," + std::to_string(width));
    }
    LayerSpec spec = one_of(specs);
    if (rng.Below(8) == 0) spec.batch_invariant = true;
    if (rng.Below(8) == 0) spec.compute = DSV4MX_COMPUTE_W4A8;
    if (rng.Below(8) == 0) spec.number_path = DSV4MX_NUMBER_PATH_BF16;
    if (rng.Below(8) == 0) spec.number_path = DSV4MX_NUMBER_PATH_PLANES;
    if (rng.Below(8) == 0) spec.plain_slots = true;
    if (rng.Below(8) == 0) spec.w2_bias = DSV4MX_DTYPE_BF16;
    const Census* census =
        rng.Below(2) == 0 ? nullptr : one_of(std::vector{&exact, &span, &high, &low});
    const int64_t tokens = 1 + rng.Below(rng.Below(2) == 0 ? 3000 : kMaxTokens);
    const PlanTable table = WithLines(lines);
    const Plan plan = MakePlan(table, spec, census, tokens, kH200);
    std::string said;
    for (const std::string& line : lines) said += line + " ";
    INFO(said << "hidden " << spec.hidden << ", " << tokens << " tokens: " << PartsOf(plan));

    // Which path each number of tokens should have.
    const bool shared_out =
        spec.compute != DSV4MX_COMPUTE_W4A8 && spec.number_path == DSV4MX_NUMBER_PATH_AUTO &&
        !spec.batch_invariant && census != &span && census != &high && !plan.few &&
        last_of(plan, tokens) * spec.top_k > kCountedInPlace &&
        3.0 * spec.hidden * spec.intermediate * spec.experts / (1 << 20) >= mixed;
    const Path halves = census == &low ? Path::kBf16 : Path::kF16;
    REQUIRE((plan.path != Path::kF16 || census == nullptr || census == &exact));
    // Beside the same path where its tiles are wider.
    const bool wider = plan.main_part == 1 && plan.parts[0].width > plan.width;
    const bool has_hot = shared_out && hot > 0 && (IsPlanes(plan.path) || wider);
    const auto wanted = [&](int64_t count) {
      if (has_hot && count > hot) return IsPlanes(plan.path) ? halves : plan.path;
      const bool is_cold = shared_out && count <= cold && (!has_hot || count < hot);
      return is_cold ? Path::kPlanes : plan.path;
    };
    REQUIRE(plan.part_count >= 1);
    REQUIRE(plan.part_count <= kMostParts);
    const PlanPart* const parts = plan.parts;
    REQUIRE(parts[0].most == kAnyCount);
    REQUIRE(parts[plan.part_count - 1].least == 1);
    int32_t of_plan = 0, of_f16 = 0;
    for (int32_t i = 0; i < plan.part_count; ++i) {
      const PlanPart& part = parts[i];
      REQUIRE(part.least <= part.most);
      if (i > 0) REQUIRE(part.most == parts[i - 1].least - 1);
      // Rows of planes and of f16 or bf16 lie in one panel: one number tells which experts have which.
      if (i > 0) REQUIRE((!IsPlanes(parts[i - 1].path) || IsPlanes(part.path)));
      const TileWidths widths = WidthsOf(part.path);
      REQUIRE(part.width > 0);
      REQUIRE(part.width <= widths.widest);
      REQUIRE(part.width % widths.step == 0);
      REQUIRE(part.width < plan.chunk_tokens + widths.step);
      REQUIRE(wanted(part.least) == part.path);
      REQUIRE(wanted(part.most) == part.path);
      of_plan += i == plan.main_part && part.path == plan.path && part.width == plan.width ? 1 : 0;
      of_f16 += part.path == Path::kF16 ? 1 : 0;
    }
    REQUIRE(of_f16 <= (has_hot && plan.path == Path::kF16 ? 2 : 1));
    REQUIRE(plan.has_f16() == (of_f16 > 0));
    // Those of f16 come first: one launch more has them all.
    for (int32_t i = 0; i < of_f16; ++i) REQUIRE(parts[i].path == Path::kF16);
    REQUIRE(of_plan == 1);
    for (const int64_t count : {1, 2, 3, 24, 25, 26, 48, 49, 80, 81, 131071, 131072, 131073}) {
      const auto holds = [&](const PlanPart& p) { return p.least <= count && count <= p.most; };
      const PlanPart* const part = std::find_if(parts, parts + plan.part_count, holds);
      REQUIRE(std::count_if(parts, parts + plan.part_count, holds) == 1);
      REQUIRE(part->path == wanted(count));
    }

    const bool large = ShapeOf(spec) == PlanShape::kLarge;
    const bool levelled = (plan.path == Path::kPlanes || IsE4m3(plan.path)) && !plan.few &&
                          !spec.batch_invariant && !spec.plain_slots && spec.w2_bias == 0 &&
                          spec.number_path == DSV4MX_NUMBER_PATH_AUTO &&
                          (census == nullptr || census == &exact) &&
                          (level >= 0 ? level == 1 : plan.rows >= (large ? 5 : 8));
    REQUIRE(plan.levelled == levelled);
    of_levelled += levelled ? 1 : 0;
    const auto launches = [&](int64_t of) -> int64_t {
      if (plan.few) return kSm90.few_launches(of);
      return kSm90.launches(of * spec.top_k) + (plan.quantised && !IsE4m3(plan.path) ? 1 : 0) +
             2 * (plan.part_count - 1) + (of_f16 > 0 ? 2 : 0) + (levelled ? 1 : 0);
    };
    REQUIRE(plan.launches ==
            (plan.chunks - 1) * launches(plan.chunk_tokens) + launches(last_of(plan, tokens)));

    const std::string text = TextOf(plan, census, tokens);
    longest = std::max(longest, text.size());
    REQUIRE(text.size() + 1 < 1024);
    size_t named = 0;
    for (size_t at = 0; (at = text.find("; experts with ", at)) != std::string::npos; ++at) named++;
    REQUIRE(named == static_cast<size_t>(plan.part_count) - 1);
    if (has_hot) {
      REQUIRE(text.find("; experts with more than " + std::to_string(hot) + " tokens by " +
                        PathName(parts[0].path) + ", tiles of up to " +
                        std::to_string(parts[0].width)) != std::string::npos);
    }
    const PlanPart& last = parts[plan.part_count - 1];
    if (last.most != kAnyCount && last.path != plan.path) {
      REQUIRE(text.find("; experts with up to " + std::to_string(last.most) +
                        " tokens by planes, tiles of up to " + std::to_string(last.width)) !=
              std::string::npos);
    }
    std::string kinds;
    for (int32_t i = 0; i < plan.part_count; ++i)
      kinds += std::string(PathName(parts[i].path)) + " ";
    seen.insert(kinds);
  }
  for (const char* kinds :
       {"planes ", "planes_big ", "bf16 ", "f16 ", "bf16 planes ", "f16 planes ",
        "bf16 planes_big ", "f16 planes_big ", "planes_big planes ", "bf16 planes_big planes ",
        "f16 planes_big planes ", "f16 f16 ", "f16 f16 planes "}) {
    INFO(kinds);
    CHECK(seen.count(kinds) == 1);
  }
  CHECK(of_levelled > 200);
  INFO("the longest text has " << longest << " characters");
  CHECK(longest < 512);  // what the benchmark has
}

TEST_CASE("plan: the longest text is whole", "[unit]") {
  // Every figure as long as it can be.
  LayerSpec spec = Spec(2880, 65536, 4096, 16);
  std::vector<PlanRow> rows = BuiltIn()->rows();
  for (PlanRow& row : rows) row.line = 1000000;
  const std::string lines =
      "dsv4mx-plan,1\n*,*,*,hot,0,131072\n*,*,*,cold,0,131072\n*,*,*,chunk,0,16384\n";
  REQUIRE(PlanTable::Parse(lines, "rows.csv", true, kSm90, &rows).ok());
  const Census low = MakeCensus(101, 112, 11);  // whose path has the longer name
  const auto text = [&](const char* path, const PlanDevice& device) {
    std::vector<PlanRow> with = rows;
    if (*path != 0) {
      REQUIRE(PlanTable::Parse(std::string("dsv4mx-plan,1\n*,*,*,path,0,") + path, "rows.csv", true,
                               kSm90, &with)
                  .ok());
      with.back().line = 1000000;
    }
    const PlanTable table(with);
    const Plan plan = MakePlan(table, spec, &low, kMaxTokens, device);
    char line[1024];
    PrintPlan(plan, &low, kMaxTokens, device, line, sizeof line);
    return std::string(line);
  };
  const PlanDevice device{1024, 4800};
  const std::string of_three = text("planes_big", device);
  INFO(of_three);
  CHECK(test::MissingWords(of_three,
                           "of the plan file,more than 131072 tokens by bf16, tiles of up to 144,"
                           "up to 131071 tokens by planes, tiles of up to 32") == "");
  CHECK(of_three.substr(of_three.size() - 2) == "32");
  CHECK(of_three.size() < 512);
}

TEST_CASE("plan: bandwidth classes and shapes", "[unit]") {
  CHECK(BandwidthClass(0) == 0);
  CHECK(BandwidthClass(-1) == 0);
  CHECK(BandwidthClass(2039) == 2000);
  CHECK(BandwidthClass(3352) == 3350);
  CHECK(BandwidthClass(4022) == 4000);
  CHECK(BandwidthClass(4917) == 4800);
  CHECK(ShapeOf(Spec(4096, 2048)) == PlanShape::kLarge);
  CHECK(ShapeOf(Spec(4096, 256)) == PlanShape::kSmall);
}

TEST_CASE("plan: a file's rows come first, the particular device first among them", "[unit]") {
  const TempFile file(
      "\n# mine\ndsv4mx-plan,1\r\n"
      "*,*,*,path,0,bf16\n"
      " 132 , 4800,*,path , 0 , planes # no\n");
  std::shared_ptr<const PlanTable> table;
  CHECK(PlanTable::Make(file.path.c_str(), kH20, &table).code == DSV4MX_STATUS_FORMAT_ERROR);
  const TempFile good(
      "\n# mine\ndsv4mx-plan,1\r\n"
      "*,*,*,path,0,bf16\n"
      " 132 , 4800,*,path , 0 , planes\n"
      "*,*,small,bf16,3.5,64\n"
      "*,*,*,chunk,0,4096");
  REQUIRE(PlanTable::Make(good.path.c_str(), kH20, &table).ok());
  const LayerSpec spec = Spec();
  Plan plan = MakePlan(*table, spec, nullptr, 1, kH20);
  CHECK(plan.path == Path::kBf16);
  CHECK(plan.path_row->own);
  CHECK(plan.path_row->line == 4);
  CHECK_FALSE(plan.width_row->own);
  std::shared_ptr<const PlanTable> particular;
  REQUIRE(PlanTable::Make(good.path.c_str(), kH200, &particular).ok());
  CHECK(MakePlan(*particular, spec, nullptr, 16384, kH200).path == Path::kPlanes);
  CHECK(MakePlan(*particular, spec, nullptr, 16384, kH200).chunks == 4);
  CHECK(particular->Hash() == table->Hash());
  const LayerSpec small = Spec(2048, 256, 8, 8);
  CHECK(MakePlan(*table, small, nullptr, 3, kH20).width_row->own == false);
  CHECK(MakePlan(*table, small, nullptr, 100, kH20).width == 64);
}

TEST_CASE("plan: the text says path, width, device and reason in one line", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec();
  char text[1024];
  const auto print = [&](const Census* census, int64_t tokens) {
    PrintPlan(MakePlan(*table, spec, census, tokens, kH200), census, tokens, kH200, text,
              sizeof text);
    return std::string(text);
  };
  CHECK(test::MissingWords(print(nullptr, 16),
                           "planes,up to 16 tokens,132 SMs,4800,because,0.38") == "");
  CHECK(test::MissingWords(print(nullptr, 100000),
                           "cuda sm_90a f16: bf16 x fp4,7 chunks,63 launches,because") == "");
  CHECK(test::MissingWords(print(nullptr, 1000),
                           "cuda sm_90a planes with one scale a row of h: bf16 x fp4,10 launches,"
                           "because,more than 64 tokens by f16,") == "");
  const Census low = MakeCensus(101, 110, 9);
  CHECK(test::MissingWords(print(&low, 100000),
                           "cuda sm_90a bf16: bf16 x fp4,7 chunks,49 launches,because") == "");
  CHECK(test::MissingWords(print(&low, 1000),
                           "cuda sm_90a planes:,7 launches,because,more than 64 tokens by bf16,") ==
        "");
  CHECK(test::MissingWords(print(nullptr, 1), "1 token in 1 chunk,at most 1,2 launches") == "");
  const Census high = MakeCensus(0, 254, 254);
  CHECK(test::MissingWords(print(&high, 4), "wide bf16,254,not exact,above 128") == "");
  spec.batch_invariant = true;
  CHECK(test::MissingWords(print(nullptr, 4), "planes,batch invariance") == "");
  spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(test::MissingWords(print(nullptr, 4), "bf16,forces") == "");
}

TEST_CASE(
    "[E7] plan: bad files and files of another version are refused with file, line, got and wanted",
    "[unit]") {
  struct Bad {
    const char* text;
    const char* words;
  };
  const Bad bad[] = {
      {"", "rows.csv:0,dsv4mx-plan"},
      {"# only\n", "rows.csv:1,dsv4mx-plan"},
      {"*,*,*,path,0,planes\n", "rows.csv:1,first line,dsv4mx-plan"},
      {"dsv4mx-plan,2\n", "rows.csv:1,version,dsv4mx-plan"},
      {"dsv4mx-plan,1\n*,*,*,path,0\n", "rows.csv:2,line,6 columns"},
      {"dsv4mx-plan,1\n*,*,*,path,0,planes,1\n", "rows.csv:2,6 columns"},
      {"dsv4mx-plan,1\n\n0,*,*,path,0,planes\n", "rows.csv:3,sms is \"0\",1..1024"},
      {"dsv4mx-plan,1\nx,*,*,path,0,planes\n", "sms,wanted"},
      {"dsv4mx-plan,1\n132,3000,*,path,0,planes\n", "gbps is \"3000\",3350"},
      {"dsv4mx-plan,1\n*,*,huge,path,0,planes\n", "shape,small"},
      {"dsv4mx-plan,1\n*,*,*,paths,0,planes\n", "rule,chunk"},
      {"dsv4mx-plan,1\n*,*,*,path,-1,planes\n", "rows_from,decimal"},
      {"dsv4mx-plan,1\n*,*,*,path,1e3,planes\n", "rows_from"},
      {"dsv4mx-plan,1\n*,*,*,path,1.,planes\n", "rows_from"},
      {"dsv4mx-plan,1\n*,*,*,path,0,fp8\n", "value is \"fp8\",planes, planes_big, bf16 or f16"},
      {"dsv4mx-plan,1\n*,*,*,path,0,wide\n", "value is \"wide\",planes, planes_big, bf16 or f16"},
      {"dsv4mx-plan,1\n*,*,*,w4a8,0,planes\n", "value is \"planes\",e4m3, e4m3_big or e4m3_wide"},
      {"dsv4mx-plan,1\n*,*,*,planes,0,18\n", "value is \"18\",4,8,32"},
      {"dsv4mx-plan,1\n*,*,*,bf16,0,12\n", "value is \"12\",8,16"},
      {"dsv4mx-plan,1\n*,*,*,wide,0,100\n", "value is \"100\",8,16"},
      {"dsv4mx-plan,1\n*,*,*,f16,0,152\n", "value is \"152\",8,16,144"},
      {"dsv4mx-plan,1\n*,*,*,f16,0,12\n", "value is \"12\",8,16,144"},
      {"dsv4mx-plan,1\n*,*,*,w4a8,0,f16\n", "value is \"f16\",e4m3, e4m3_big or e4m3_wide"},
      {"dsv4mx-plan,1\n*,*,*,chunk,1,4096\n", "rows_from,chunk"},
      {"dsv4mx-plan,1\n*,*,*,chunk,0,99999999999999999999\n", "value,131072"},
      {"dsv4mx-plan,1\n*,*,*,few,1,48\n", "rows_from,0 in a few line"},
      {"dsv4mx-plan,1\n*,*,*,few,0,1000001\n", "value,1000000"},
      {"dsv4mx-plan,1\n*,*,*,warm,0,1\n",
       "rule is \"warm\",few, hot, cold, level, mixed or a path's name"},
      {"dsv4mx-plan,1\n*,*,*,level,0,2\n", "rows.csv:2,value is \"2\",wanted 0 or 1"},
      {"dsv4mx-plan,1\n*,*,*,level,0,-1\n", "value is \"-1\",wanted 0 or 1"},
      {"dsv4mx-plan,1\n*,*,*,level,8,yes\n", "value is \"yes\",wanted 0 or 1"},
      {"dsv4mx-plan,1\n*,*,*,level,0,\n", "value is \"\",wanted 0 or 1"},
      {"dsv4mx-plan,1\n*,*,*,level,-1,1\n", "rows_from is \"-1\",decimal"},
      {"dsv4mx-plan,1\n*,*,*,hot,0,131073\n", "value is \"131073\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,hot,0,-1\n", "value is \"-1\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,hot,0,bf16\n", "value is \"bf16\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,hot,-1,8\n", "rows_from is \"-1\",decimal"},
      {"dsv4mx-plan,1\n*,*,*,cold,0,131073\n", "value is \"131073\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,cold,0,1.5\n", "value is \"1.5\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,cold,0,\n", "value is \"\",0..131072 tokens"},
      {"dsv4mx-plan,1\n*,*,*,mixed,1,3000\n", "rows_from is \"1\",0 in a mixed line"},
      {"dsv4mx-plan,1\n*,*,*,mixed,0,1000001\n", "value is \"1000001\",0..1000000"},
      {"dsv4mx-plan,1\n*,*,*,mixed,0,-3000\n", "value is \"-3000\",0..1000000"},
  };
  for (const Bad& b : bad) {
    INFO(b.text);
    std::vector<PlanRow> rows;
    CHECK(PlanTable::Parse(b.text, "rows.csv", true, kSm90, &rows).code ==
          DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(test::MissingWords(LastError(), b.words) == "");
  }
  std::shared_ptr<const PlanTable> table;
  CHECK(PlanTable::Make("no/such/file.csv", kUnknown, &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), "no/such/file.csv,wanted") == "");
  const test::TempFolder folder;
  CHECK(PlanTable::Make(folder.path().c_str(), kUnknown, &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), folder.path() + ",no regular file") == "");
  // A regular file that gives an error: address 0 of this process.
  CHECK(PlanTable::Make("/proc/self/mem", kUnknown, &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), "/proc/self/mem,cannot be read") == "");
  // A pipe that nobody writes into would make an open wait for ever.
  const std::string pipe = folder / "pipe.csv";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(PlanTable::Make(pipe.c_str(), kUnknown, &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), pipe + ",no regular file") == "");
  // Every apply looks through the rows.
  std::string many = "dsv4mx-plan,1\n";
  for (int i = 0; i < 257; ++i) many += "*,*,*,bf16,0,16\n";
  std::vector<PlanRow> rows;
  CHECK(PlanTable::Parse(many, "many.csv", true, kSm90, &rows).code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(test::MissingWords(LastError(), "many.csv:258,at most 256") == "");
  const std::string large = folder / "large.csv";
  test::WriteFile(large, std::string((size_t{1} << 20) + 1, '#'));
  CHECK(PlanTable::Make(large.c_str(), kUnknown, &table).code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(test::MissingWords(LastError(), large + ",more than 1048576 bytes") == "");
  CHECK(table == nullptr);
}
