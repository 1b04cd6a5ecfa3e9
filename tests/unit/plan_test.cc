// The kernel plan without a device: the built-in rows, which of them a device finds, what the census decides, files that
// override, and files that are refused.
#include "lib/core/plan.h"

#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/safetensors_file.h"

using namespace dsv4mx;

namespace {

LayerSpec Spec(int32_t hidden = 4096, int32_t intermediate = 2048, int32_t experts = 256,
               int32_t top_k = 6) {
  LayerSpec spec;
  spec.hidden = hidden;
  spec.intermediate = intermediate;
  spec.experts = spec.experts_global = experts;
  spec.top_k = top_k;
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

std::shared_ptr<const PlanTable> BuiltIn() {
  std::shared_ptr<const PlanTable> table;
  REQUIRE(PlanTable::Make(nullptr, &table).ok());
  return table;
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

}  // namespace

TEST_CASE("[A25] plan: built-in rows parse, and every row is the answer to some question",
          "[unit]") {
  const auto table = BuiltIn();
  std::set<const PlanRow*> found;
  for (const PlanDevice& device : {kH200, kH100, kPcie, kH20, kUnknown}) {
    for (const PlanShape shape : {PlanShape::kSmall, PlanShape::kLarge}) {
      for (int i = 0; i < 40000; ++i) {
        const double rows = i / 16.0;
        for (const PlanRule rule :
             {PlanRule::kPath, PlanRule::kPlanes, PlanRule::kBf16, PlanRule::kChunk}) {
          const PlanRow* row = table->Find(rule, device, shape, rows);
          REQUIRE(row != nullptr);
          REQUIRE(row->rule == rule);
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

TEST_CASE("plan: planes for few rows an expert, bf16 for many, tiles that fit", "[unit]") {
  const auto table = BuiltIn();
  const LayerSpec spec = Spec();
  const Census good = MakeCensus(119, 126, 7);
  for (const PlanDevice& device : {kH200, kH100, kPcie, kH20, kUnknown}) {
    int32_t width = 0;
    NumberPath path = NumberPath::kPlanes;
    for (int64_t tokens = 1; tokens <= kMaxTokens; tokens += tokens < 300 ? 1 : 997) {
      const Plan plan = MakePlan(*table, spec, &good, tokens, device);
      INFO(tokens << " tokens");
      REQUIRE(plan.chunk_tokens * plan.chunks >= tokens);
      REQUIRE(plan.chunk_tokens * (plan.chunks - 1) < tokens);
      REQUIRE(plan.chunk_tokens <= LargestChunk(*table, spec, tokens, device));
      if (plan.chunks > 1) continue;
      if (plan.path != path) {  // once, from planes to bf16
        REQUIRE(path == NumberPath::kPlanes);
        REQUIRE(tokens * 6.0 / 256 >= 20);
        path = plan.path;
        width = 0;
      }
      REQUIRE(plan.width >= width);
      width = plan.width;
    }
    CHECK(path == NumberPath::kBf16);
    CHECK(MakePlan(*table, spec, &good, 1, device).width == 4);
    CHECK(MakePlan(*table, spec, &good, 1, device).path == NumberPath::kPlanes);
  }
}

TEST_CASE("plan: a tile is never wider than a call with few tokens fills", "[unit]") {
  const auto table = BuiltIn();
  LayerSpec spec = Spec(4096, 2048, 1, 1);  // every token meets the one expert
  for (int64_t tokens = 1; tokens <= 32; ++tokens) {
    const Plan plan = MakePlan(*table, spec, nullptr, tokens, kH200);
    CHECK(plan.path == NumberPath::kPlanes);
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
  CHECK(path(nullptr) == NumberPath::kPlanes);
  CHECK(path(&none) == NumberPath::kPlanes);
  CHECK(path(&exact) == NumberPath::kPlanes);
  CHECK(path(&top) == NumberPath::kPlanes);
  CHECK(path(&span) == NumberPath::kBf16);
  CHECK(path(&high) == NumberPath::kWide);
  CHECK(path(&high, 16384) == NumberPath::kWide);
  CHECK(MakePlan(*table, spec, &high, 16384, kH200).width == kWideWidth);
  CHECK(CheckPlanCensus(spec, high).ok());

  spec.number_path = DSV4MX_NUMBER_PATH_BF16;
  CHECK(path(&exact) == NumberPath::kBf16);
  CHECK(path(&high) == NumberPath::kWide);
  CHECK(CheckPlanCensus(spec, high).ok());

  spec.number_path = DSV4MX_NUMBER_PATH_PLANES;
  CHECK(path(&exact, 16384) == NumberPath::kPlanes);
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
    CHECK(path(&exact, tokens) == NumberPath::kPlanes);
    CHECK(path(&span, tokens) == NumberPath::kBf16);
    CHECK(path(&high, tokens) == NumberPath::kWide);
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
      REQUIRE((chunk <= 128 || chunk * spec.top_k * spec.hidden * 4 <= int64_t{4} << 30));
      before = chunk;
    }
  }
  CHECK(LargestChunk(*table, Spec(), 100000, kH200) == 16384);
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
  CHECK(PlanTable::Make(file.path.c_str(), &table).code == DSV4MX_STATUS_FORMAT_ERROR);
  const TempFile good(
      "\n# mine\ndsv4mx-plan,1\r\n"
      "*,*,*,path,0,bf16\n"
      " 132 , 4800,*,path , 0 , planes\n"
      "*,*,small,bf16,3.5,64\n"
      "*,*,*,chunk,0,4096");
  REQUIRE(PlanTable::Make(good.path.c_str(), &table).ok());
  const LayerSpec spec = Spec();
  Plan plan = MakePlan(*table, spec, nullptr, 1, kH20);
  CHECK(plan.path == NumberPath::kBf16);
  CHECK(plan.path_row->own);
  CHECK(plan.path_row->line == 4);
  CHECK_FALSE(plan.width_row->own);
  CHECK(MakePlan(*table, spec, nullptr, 16384, kH200).path == NumberPath::kPlanes);
  CHECK(MakePlan(*table, spec, nullptr, 16384, kH200).chunks == 4);
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
  CHECK(test::MissingWords(print(nullptr, 100000), "bf16,7 chunks,because") == "");
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
      {"dsv4mx-plan,1\n*,*,*,path,0,fp8\n", "value is \"fp8\",planes or bf16"},
      {"dsv4mx-plan,1\n*,*,*,planes,0,20\n", "value is \"20\",24"},
      {"dsv4mx-plan,1\n*,*,*,bf16,0,16\n", "value is \"16\",32"},
      {"dsv4mx-plan,1\n*,*,*,chunk,1,4096\n", "rows_from,chunk"},
      {"dsv4mx-plan,1\n*,*,*,chunk,0,99999999999999999999\n", "value,131072"},
  };
  for (const Bad& b : bad) {
    INFO(b.text);
    std::vector<PlanRow> rows;
    CHECK(PlanTable::Parse(b.text, "rows.csv", true, &rows).code == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(test::MissingWords(LastError(), b.words) == "");
  }
  std::shared_ptr<const PlanTable> table;
  CHECK(PlanTable::Make("no/such/file.csv", &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), "no/such/file.csv,wanted") == "");
  const test::TempFolder folder;
  CHECK(PlanTable::Make(folder.path().c_str(), &table).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(test::MissingWords(LastError(), folder.path() + ",cannot be read") == "");
  const std::string large = folder / "large.csv";
  test::WriteFile(large, std::string((size_t{1} << 20) + 1, '#'));
  CHECK(PlanTable::Make(large.c_str(), &table).code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(test::MissingWords(LastError(), large + ",more than 1048576 bytes") == "");
  CHECK(table == nullptr);
}
