// The kernel plan without a device: the built-in rows, which of them a device finds, what the census decides, files that
// override, and files that are refused.
#include "lib/base/plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/layer_spec.h"
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
                                   std::pair(Path::kE4m3Wide, "#            e4m3_wide ")}) {
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
  other.few_fits = [](int64_t, int64_t, int64_t, int64_t, bool) { return false; };
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
        std::pair(Path::kE4m3Wide, "e4m3_wide")}) {
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
  constexpr Question kQuestions[] = {{0.02, "*,*,*,path,0,planes", "*,*,*,planes,0,4"},
                                     {0.5, "*,*,*,path,0,planes", "*,*,*,planes,0.5,8"},
                                     {4.9, "*,*,*,path,0,planes", "*,*,*,planes,2,16"},
                                     {7, "*,*,*,path,0,planes", "*,*,*,planes,5,24"},
                                     {31.9, "*,*,*,path,0,planes", "*,*,*,planes,8,32"},
                                     {32, "*,*,large,path,32,planes_big", "*,*,*,planes_big,0,56"},
                                     {51, "*,*,large,path,32,planes_big", "*,*,*,planes_big,42,64"},
                                     {52, "*,*,large,path,52,bf16", "*,*,*,bf16,52,96"},
                                     {79, "*,*,large,path,52,bf16", "*,*,*,bf16,64,112"},
                                     {119, "*,*,large,path,52,bf16", "*,*,*,bf16,80,128"},
                                     {384, "*,*,large,path,52,bf16", "*,*,*,bf16,120,144"}};
  constexpr Question kOfSlices[] = {{31.9, "*,*,*,path,0,planes", "*,*,*,planes,8,32"},
                                    {32, "*,*,*,path,32,bf16", "*,*,*,bf16,20,64"},
                                    {52, "*,*,*,path,32,bf16", "*,*,*,bf16,52,96"}};
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
    for (const Question& q : kQuestions) ask(PlanShape::kLarge, q);
    for (const Question& q : kOfSlices) ask(PlanShape::kSmall, q);
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      CHECK(BuiltInLine(*table->Find(PlanRule::kChunk, d.device, shape, 0)) ==
            "*,*,*,chunk,0,16384");
      CHECK(BuiltInLine(*table->Find(PlanRule::kBf16Wide, d.device, shape, 100)) ==
            "*,*,*,wide,80,128");
    }
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

TEST_CASE("plan: planes for few rows an expert, bf16 for many, tiles that fit", "[unit]") {
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
      if (plan.path != path) {  // from planes to bf16, by way of planes_big
        REQUIRE(path == (plan.path == Path::kBf16 ? Path::kPlanesBig : Path::kPlanes));
        REQUIRE(tokens * 6.0 / 256 >= 20);
        path = plan.path;
        width = 0;
      }
      REQUIRE(plan.width >= width);
      width = plan.width;
    }
    CHECK(path == Path::kBf16);
    CHECK(MakePlan(*table, spec, &good, 1, device).width == 4);
    CHECK(MakePlan(*table, spec, &good, 1, device).path == Path::kPlanes);
  }
}

TEST_CASE("plan: planes_big where hidden is whole blocks of 512, or a plan file asks for it",
          "[unit]") {
  const auto built_in = BuiltIn();
  std::vector<PlanRow> rows;
  REQUIRE(PlanTable::Parse(kSm90.plan, "built-in plan", false, kSm90, &rows).ok());
  REQUIRE(
      PlanTable::Parse("dsv4mx-plan,1\n*,*,*,path,0,planes_big\n", "rows.csv", true, kSm90, &rows)
          .ok());
  const PlanTable own(rows);
  const LayerSpec whole = Spec(4096, 2048, 128, 4), ends = Spec(2880, 2880, 128, 4);
  CHECK(MakePlan(*built_in, whole, nullptr, 1024, kH200).path == Path::kPlanesBig);
  const Plan plan = MakePlan(*built_in, ends, nullptr, 1024, kH200);
  CHECK(plan.path == Path::kBf16);
  char text[512];
  PrintPlan(plan, nullptr, 1024, kH200, text, sizeof text);
  CHECK(test::MissingWords(text, "bf16,hidden is no multiple of 512") == "");
  CHECK(MakePlan(own, ends, nullptr, 1024, kH200).path == Path::kPlanesBig);
}

TEST_CASE("plan: a tile is never wider than a call with few tokens fills", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec(4096, 2048, 1, 1);  // every token meets the one expert
  for (int64_t tokens = 1; tokens <= 30; ++tokens) {
    const Plan plan = MakePlan(*table, spec, nullptr, tokens, kH200);
    CHECK(plan.path == Path::kPlanes);
    CHECK(plan.width >= tokens);
    CHECK(plan.width < tokens + 8);
  }
}

TEST_CASE("plan: the census decides what is allowed", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec();
  const Census exact = MakeCensus(110, 121, 11), span = MakeCensus(100, 120, 12),
               high = MakeCensus(120, 129, 9), top = MakeCensus(118, 128, 10);
  const auto path = [&](const Census* census, int64_t tokens = 4) {
    return MakePlan(*table, spec, census, tokens, kH200).path;
  };
  const Census none;
  CHECK(path(nullptr) == Path::kPlanes);
  CHECK(path(&none) == Path::kPlanes);
  CHECK(path(&exact) == Path::kPlanes);
  CHECK(path(&top) == Path::kPlanes);
  CHECK(path(&span) == Path::kBf16);
  CHECK(path(&high) == Path::kBf16Wide);
  CHECK(path(&high, 16384) == Path::kBf16Wide);
  CHECK(MakePlan(*table, spec, &high, 1, kH200).width == 8);
  CHECK(MakePlan(*table, spec, &high, 64, kH200).width == 32);
  CHECK(MakePlan(*table, spec, &high, 16384, kH200).width == 144);
  CHECK(CheckPlanCensus(spec, high).ok());

  spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(path(&exact) == Path::kBf16);
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
    CHECK(path(&high, tokens) == Path::kBf16Wide);
  }
}

TEST_CASE("plan: an expert that comes later must leave the path of prepared weights as it is",
          "[unit]") {
  const std::shared_ptr<const PlanTable> table = BuiltIn();
  const Census none, exact = MakeCensus(100, 128, 11), span = MakeCensus(100, 112, 12),
                     wide = MakeCensus(125, 129, 4);
  const struct {
    const Census &prepared, &expert;
    const char* words;  // "" = allowed
  } cases[] = {{none, none, ""},
               {none, exact, ""},
               {exact, none, ""},
               {none, span, "up to 112,span of 12,128 and 11"},
               {exact, span, "up to 112,span of 12,128 and 11"},
               {exact, wide, "up to 129,span of 4,128 and 11"},
               {span, exact, ""},
               {span, span, ""},
               {span, wide, "up to 129,span of 4,at most scale byte 128"},
               {wide, span, ""},
               {wide, exact, ""},
               {wide, wide, ""}};
  for (const auto& c : cases) {
    INFO(c.words);
    const Status status = CheckPlanNewcomer(kSm90, c.prepared, c.expert, "expert 7 of from");
    CHECK(status.code == (*c.words == 0 ? DSV4MX_STATUS_OK : DSV4MX_STATUS_UNSUPPORTED));
    if (*c.words != 0) {
      CHECK(test::MissingWords(LastError(),
                               std::string("expert 7 of from,prepared weights,") + c.words) == "");
    }
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
  spec.batch_invariant = true;  // at no cost: all of its kernels give the same bits
  CHECK(plan(nullptr, 1).few);
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
  CHECK(launches(*table, 682) == 4);
  CHECK(launches(*table, 683) == 5);
  CHECK(launches(*table, 16384) == 5);
  CHECK(launches(*table, 16385) == 10);
  CHECK(launches(*table, 131072) == 8 * 5);
  CHECK(launches(small, 689) == 2 * 4);       // 352 and 337 tokens
  CHECK(launches(small, 2 * 688) == 2 * 5);   // 688 and 688
  CHECK(launches(small, 1368) == 5 + 4);      // 688 and 680
  CHECK(launches(small, 2056) == 5 + 5 + 4);  // 688, 688 and 680
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
  CHECK(test::MissingWords(print(nullptr, 16), "planes,up to 4 tokens,132 SMs,4800,because,0.38") ==
        "");
  CHECK(test::MissingWords(print(nullptr, 100000), "bf16,7 chunks,35 launches,because") == "");
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
      {"dsv4mx-plan,1\n*,*,*,path,0,fp8\n", "value is \"fp8\",planes, planes_big or bf16"},
      {"dsv4mx-plan,1\n*,*,*,w4a8,0,planes\n", "value is \"planes\",e4m3, e4m3_big or e4m3_wide"},
      {"dsv4mx-plan,1\n*,*,*,planes,0,18\n", "value is \"18\",4,8,32"},
      {"dsv4mx-plan,1\n*,*,*,bf16,0,12\n", "value is \"12\",8,16"},
      {"dsv4mx-plan,1\n*,*,*,wide,0,100\n", "value is \"100\",8,16"},
      {"dsv4mx-plan,1\n*,*,*,chunk,1,4096\n", "rows_from,chunk"},
      {"dsv4mx-plan,1\n*,*,*,chunk,0,99999999999999999999\n", "value,131072"},
      {"dsv4mx-plan,1\n*,*,*,few,1,48\n", "rows_from,few"},
      {"dsv4mx-plan,1\n*,*,*,few,0,1000001\n", "value,1000000"},
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
