// Errors: a code that is stable, one line that says what, got, wanted, and a text that belongs to the thread.
#include <atomic>
#include <climits>
#include <cmath>
#include <iterator>
#include <set>
#include <string>
#include <thread>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

TEST_CASE("[F8] status codes have stable values and names", "[errors]") {
  const struct {
    int value;
    const char* name;
  } codes[] = {{0, "OK"},
               {10, "INVALID_ARGUMENT"},
               {11, "INVALID_STRUCT"},
               {12, "INVALID_STATE"},
               {13, "INVALID_TENSOR"},
               {14, "INVALID_SCALE"},
               {15, "NOT_FOUND"},
               {16, "INVALID_ID"},
               {20, "UNSUPPORTED"},
               {21, "UNSUPPORTED_SHAPE"},
               {22, "UNSUPPORTED_DTYPE"},
               {23, "UNSUPPORTED_DEVICE"},
               {30, "OUT_OF_MEMORY"},
               {31, "WORKSPACE_TOO_SMALL"},
               {32, "BUFFER_TOO_SMALL"},
               {33, "MISALIGNED"},
               {40, "CUDA_ERROR"},
               {41, "NO_DEVICE"},
               {42, "CUDA_STICKY"},
               {50, "COMM_ERROR"},
               {51, "COMM_TIMEOUT"},
               {52, "COMM_RANK_LOST"},
               {53, "COMM_MISMATCH"},
               {54, "NCCL_UNAVAILABLE"},
               {55, "NCCL_ERROR"},
               {60, "IO_ERROR"},
               {61, "FORMAT_ERROR"},
               {70, "CANCELLED"},
               {71, "DEADLINE_EXCEEDED"},
               {90, "INTERNAL"}};
  std::set<std::string> names;
  for (const auto& c : codes) {
    CHECK(std::string(dsv4mx_status_name(c.value)) == c.name);
    names.insert(c.name);
  }
  CHECK(names.size() == std::size(codes));
  for (const int other : {-1, 1, 9, 17, 24, 34, 43, 56, 62, 72, 91, INT32_MAX, INT32_MIN}) {
    CHECK(std::string(dsv4mx_status_name(other)) == "UNKNOWN");
  }
}

TEST_CASE("[A17][F1][F2] every refusal of a layer description: code, and what, got, wanted",
          "[errors]") {
  const struct {
    const char* words;
    dsv4mx_status code;
    void (*change)(dsv4mx_layer_desc&);
  } cases[] = {
      {"experts,0,4096", DSV4MX_STATUS_UNSUPPORTED_SHAPE,
       [](dsv4mx_layer_desc& d) { d.experts = 0; }},
      {"experts,4097,4096", DSV4MX_STATUS_UNSUPPORTED_SHAPE,
       [](dsv4mx_layer_desc& d) { d.experts = 4097; }},
      {"expert_first,-1", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.expert_first = -1; }},
      {"expert_first,2147483647", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.expert_first = INT32_MAX; }},
      {"experts_global,2,3", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.experts_global = 2; }},
      {"experts_global,-3", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.experts_global = -3; }},
      {"weight_format,5", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.weight_format = 5; }},
      {"group_size,16,32,NVFP4", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.group_size = 16; }},
      {"group_size,64,32", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.group_size = 64; }},
      {"w13_order,4", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.w13_order = 4; }},
      {"nibble_order,2", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.nibble_order = 2; }},
      {"activation,4", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.activation = 4; }},
      {"clamp_limit,-1", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.clamp_limit = -1; }},
      {"clamp_limit,inf", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.clamp_limit = INFINITY; }},
      {"clamp_limit,nan", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.clamp_limit = std::nanf(""); }},
      {"activation_alpha,SWIGLU", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.activation_alpha = 1.5f; }},
      {"activation_beta,SWIGLU", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.activation_beta = 1.5f; }},
      {"activation_alpha,nan", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.activation = 1, d.activation_alpha = std::nanf(""); }},
      {"w13_bias,BF16,F32", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.w13_bias = DSV4MX_DTYPE_F16; }},
      {"w2_bias,BF16,F32", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.w2_bias = DSV4MX_DTYPE_F64; }},
      {"router_weight_position,3", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.router_weight_position = 3; }},
      {"BEFORE_W2,bias", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.router_weight_position = 1, d.w2_bias = DSV4MX_DTYPE_F32; }},
      {"ON_INPUT,top_k,2", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.router_weight_position = 2; }},
      {"routed_scaling_factor,inf", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) { d.routed_scaling_factor = INFINITY; }},
      {"x_dtype,F16,BF16,range", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.x_dtype = DSV4MX_DTYPE_F16; }},
      {"x_dtype,BF16", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.x_dtype = DSV4MX_DTYPE_F32; }},
      {"out_dtype,BF16,F32", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.out_dtype = DSV4MX_DTYPE_F16; }},
      {"ids_dtype,I32,I64", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.ids_dtype = DSV4MX_DTYPE_F32; }},
      {"router_weight_dtype,F32,BF16", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.router_weight_dtype = DSV4MX_DTYPE_F16; }},
      {"slot_dtype,F32,BF16", DSV4MX_STATUS_UNSUPPORTED_DTYPE,
       [](dsv4mx_layer_desc& d) { d.slot_dtype = DSV4MX_DTYPE_I8; }},
      {"compute,55", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_layer_desc& d) { d.compute = 55; }},
      {"number_path,9", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_layer_desc& d) {
         static const dsv4mx_layer_experimental kPath = {sizeof kPath, 9, 0};
         d.experimental = &kPath;
       }},
      {"flags,0x80", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_layer_desc& d) { d.flags = 0x80; }},
  };
  for (const auto& bad : cases) {
    dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 e=3 k=2 m=0"));
    bad.change(d);
    dsv4mx_layer* layer = reinterpret_cast<dsv4mx_layer*>(0x10);

    REQUIRE_REFUSED(dsv4mx_layer_create(CpuContext(), &d, &layer), bad.code, bad.words);
    CHECK(layer == nullptr);
  }
}

TEST_CASE("[F2] every refusal of a context description", "[errors]") {
  const struct {
    const char* words;
    dsv4mx_status code;
    void (*change)(dsv4mx_context_desc&);
  } cases[] = {
      {"device,3", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_context_desc& d) { d.device = 3; }},
      {"device,-1", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_context_desc& d) { d.device = -1; }},
      {"device_ordinal,-1", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) { d.device_ordinal = -1; }},
      {"threads,-1", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) { d.threads = -1; }},
      {"threads,4097,4096", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) { d.threads = 4097; }},
      {"cpu_isa,5", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_context_desc& d) { d.cpu_isa = 5; }},
      {"alloc,free", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) {
         d.alloc = [](void*, size_t, size_t, dsv4mx_memory, dsv4mx_stream) -> void* {
           return nullptr;
         };
       }},
      {"alloc,free", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) {
         d.free = [](void*, void*, size_t, dsv4mx_memory, dsv4mx_stream) {};
       }},
      {"log_level,9", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) { d.log_level = 9; }},
      {"flags,1", DSV4MX_STATUS_INVALID_ARGUMENT, [](dsv4mx_context_desc& d) { d.flags = 1; }},
      {"plan_file,CPU", DSV4MX_STATUS_INVALID_ARGUMENT,
       [](dsv4mx_context_desc& d) {
         static const dsv4mx_context_experimental kPlan = {sizeof kPlan, "plan.csv"};
         d.experimental = &kPlan;
       }},
  };
  for (const auto& bad : cases) {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CPU;
    bad.change(d);
    dsv4mx_context* context = reinterpret_cast<dsv4mx_context*>(0x10);
    REQUIRE_REFUSED(dsv4mx_context_create(&d, &context), bad.code, bad.words);
    CHECK(context == nullptr);
  }
}

TEST_CASE("[A17] what only CUDA can do is refused on the CPU, never silently replaced",
          "[errors]") {
  for (const int path : {DSV4MX_NUMBER_PATH_PLANES, DSV4MX_NUMBER_PATH_BF16}) {
    dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=32 e=3 k=2 m=0"));
    d.experimental = Experimental(path, 0);
    dsv4mx_layer* layer = nullptr;
    const dsv4mx_status status = dsv4mx_layer_create(CpuContext(), &d, &layer);
    const LayerPtr own(layer);
    INFO(path << " " << dsv4mx_last_error());
    if (path == DSV4MX_NUMBER_PATH_PLANES) {
      CHECK(status == DSV4MX_STATUS_UNSUPPORTED);
      CHECK(MissingWords(dsv4mx_last_error(), "planes,CPU") == "");
    } else {
      CHECK((status == DSV4MX_STATUS_OK || status == DSV4MX_STATUS_UNSUPPORTED));
    }
  }
}

DEVICE_TEST_CASE(
    "[G5] activations of 8 bits are in a plan where they were asked for, and in no other",
    "[errors]") {
  Case c = MakeCase("h=64 i=32 e=3 k=2 m=1");
  c.p.device = device;
  const Runner run(c);
  for (const int64_t tokens : {1, 64, 131072}) {
    char text[1024];
    REQUIRE_OK(dsv4mx_layer_query_plan(run.layer(), run.weights(), tokens, text, sizeof text));
    INFO(text);
    CHECK(MissingWords(text, "bf16") == "");
    CHECK(MissingWords(text, "W4A8") == "W4A8");
    CHECK(MissingWords(text, "e4m3") == "e4m3");
  }
  // Asked for, the plan says so.
  Case quantised = c;
  quantised.p.compute = DSV4MX_COMPUTE_W4A8;
  const Runner other(quantised);
  char text[1024];
  REQUIRE_OK(dsv4mx_layer_query_plan(other.layer(), other.weights(), 4, text, sizeof text));
  CHECK(MissingWords(text, "W4A8") == "");
}

TEST_CASE("[F2] a plan needs room for its text", "[errors]") {
  const Runner run(MakeCase("h=64 i=32 e=3 k=2 m=1"));
  char text[1024];
  REQUIRE_OK(dsv4mx_layer_query_plan(run.layer(), nullptr, 64, text, sizeof text));
  const size_t need = std::string(text).size() + 1;
  CHECK(need > 10);
  CHECK(std::string(text).find('\n') == std::string::npos);
  REQUIRE_OK(dsv4mx_layer_query_plan(run.layer(), run.weights(), 64, text, sizeof text));
  REQUIRE_OK(dsv4mx_layer_query_plan(run.layer(), nullptr, 64, text, need));
  REQUIRE_REFUSED(dsv4mx_layer_query_plan(run.layer(), nullptr, 64, text, need - 1),
                  DSV4MX_STATUS_BUFFER_TOO_SMALL, std::to_string(need));
  REQUIRE_REFUSED(dsv4mx_layer_query_plan(run.layer(), nullptr, 64, text, 0),
                  DSV4MX_STATUS_BUFFER_TOO_SMALL, "0");
  REQUIRE_REFUSED(dsv4mx_layer_query_plan(run.layer(), nullptr, -1, text, sizeof text),
                  DSV4MX_STATUS_INVALID_ARGUMENT, "tokens,-1");
}

TEST_CASE("checkpoint: what cannot be opened gives one clear line", "[errors]") {
  dsv4mx_checkpoint* c = reinterpret_cast<dsv4mx_checkpoint*>(0x10);
  REQUIRE_REFUSED(dsv4mx_checkpoint_create("/nonexistent/model.safetensors", nullptr, &c),
                  DSV4MX_STATUS_IO_ERROR, "/nonexistent/model.safetensors");
  CHECK(c == nullptr);
}

TEST_CASE("a successful call leaves the text of the last failure alone", "[errors]") {
  dsv4mx_layer* layer = nullptr;
  dsv4mx_layer_desc d = DescOf(MakeCase("h=64 i=33 e=3 k=2 m=0"));
  REQUIRE(dsv4mx_layer_create(CpuContext(), &d, &layer) == DSV4MX_STATUS_UNSUPPORTED_SHAPE);
  const std::string text = dsv4mx_last_error();
  CHECK(Runner(MakeCase("h=64 i=32 e=3 k=2 m=1")).Apply().damage == "");
  CHECK(text == dsv4mx_last_error());
}

TEST_CASE("[F3] the last error belongs to the thread", "[errors]") {
  std::atomic<int> wrong{0}, fresh{0}, ready{0};
  const auto fail = [&](int size) {
    if (std::string(dsv4mx_last_error()).empty()) ++fresh;
    dsv4mx_layer_desc d = DescOf(Case{Parse("h=64 i=32 m=0"), {}, {}, {}});
    d.intermediate = size;
    ++ready;
    while (ready < 2) std::this_thread::yield();
    for (int i = 0; i < 2000; ++i) {
      dsv4mx_layer* layer = nullptr;
      const dsv4mx_status status = dsv4mx_layer_create(CpuContext(), &d, &layer);
      const std::string text = dsv4mx_last_error();
      if (status != DSV4MX_STATUS_UNSUPPORTED_SHAPE ||
          text.find(std::to_string(size)) == std::string::npos)
        ++wrong;
    }
  };
  CpuContext();
  std::thread a(fail, 1001), b(fail, 2003);
  a.join();
  b.join();
  CHECK(wrong == 0);
  CHECK(fresh == 2);
}

}  // namespace
}  // namespace dsv4mx::test
