// Contexts: what they run on, what they say about themselves, their log, and CUDA where there is none.
#include <thread>

#include "tests/catch.h"
#include "tests/check.h"

namespace dsv4mx::test {
namespace {

dsv4mx_context_info InfoOf(const dsv4mx_context* c) {
  dsv4mx_context_info info{};
  info.struct_size = sizeof info;
  Must(dsv4mx_context_query(c, &info), "context_query");
  return info;
}

TEST_CASE("[J16] version: number and text agree, and kernels are those of Hopper alone",
          "[context]") {
  CHECK(dsv4mx_version() ==
        (DSV4MX_VERSION_MAJOR << 16 | DSV4MX_VERSION_MINOR << 8 | DSV4MX_VERSION_PATCH));
  const std::string text = dsv4mx_version_string();
  CHECK(text.rfind(std::to_string(DSV4MX_VERSION_MAJOR) + "." +
                       std::to_string(DSV4MX_VERSION_MINOR) + "." +
                       std::to_string(DSV4MX_VERSION_PATCH),
                   0) == 0);
  CHECK(MissingWords(text, DSV4MX_HAVE_CUDA != 0 ? "cpu,cuda sm_90a" : "cpu") == "");
  CHECK(dsv4mx_version_string() == dsv4mx_version_string());
}

TEST_CASE("a CPU context says what it runs on", "[context]") {
  const dsv4mx_context_info info = InfoOf(CpuContext());
  CHECK(info.device == DSV4MX_DEVICE_CPU);
  CHECK(std::string(info.name) == "CPU");
  CHECK(info.threads >= 1);
  CHECK(info.threads <= static_cast<int>(std::thread::hardware_concurrency()));
  CHECK((info.cpu_isa >= DSV4MX_CPU_ISA_PORTABLE && info.cpu_isa <= 4));
  CHECK((info.device_ordinal == 0 && info.compute_capability == 0 && info.multiprocessors == 0 &&
         info.l2_bytes == 0));
  for (const int threads : {1, 3, 4096}) {
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CPU;
    d.threads = threads;
    d.cpu_isa = DSV4MX_CPU_ISA_PORTABLE;
    dsv4mx_context* c = nullptr;
    if (threads == 4096) continue;  // legal, but a machine may not give that many
    REQUIRE_OK(dsv4mx_context_create(&d, &c));
    const ContextPtr own(c);
    CHECK(InfoOf(c).threads == threads);
    CHECK(InfoOf(c).cpu_isa == DSV4MX_CPU_ISA_PORTABLE);
  }
}

TEST_CASE("NULL descriptor: AUTO, and the query says what it became", "[context]") {
  dsv4mx_context* c = nullptr;
  REQUIRE_OK(dsv4mx_context_create(nullptr, &c));
  const ContextPtr own(c);
  const bool cuda = WhyNoGpu().empty();
  CHECK(InfoOf(c).device == (cuda ? DSV4MX_DEVICE_CUDA : DSV4MX_DEVICE_CPU));
}

TEST_CASE("AUTO replaces the first device alone by the CPU", "[context]") {
  int32_t devices = 0;
  REQUIRE_OK(dsv4mx_device_get_count(DSV4MX_DEVICE_CUDA, &devices));
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device_ordinal = devices + 1;
  dsv4mx_context* c = reinterpret_cast<dsv4mx_context*>(0x10);
  const dsv4mx_status status = dsv4mx_context_create(&d, &c);
  INFO(dsv4mx_last_error());
  CHECK((status == DSV4MX_STATUS_NO_DEVICE || status == DSV4MX_STATUS_UNSUPPORTED ||
         status == DSV4MX_STATUS_UNSUPPORTED_DEVICE));
  CHECK(c == nullptr);
}

TEST_CASE("[F4] CUDA asked for where there is none: a clear status, and no context", "[context]") {
  if (WhyNoGpu().empty()) return Skip("this machine has a CUDA device");
  dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
  d.device = DSV4MX_DEVICE_CUDA;
  dsv4mx_context* c = reinterpret_cast<dsv4mx_context*>(0x10);
  const dsv4mx_status status = dsv4mx_context_create(&d, &c);
  const bool built = std::string(dsv4mx_version_string()).find("sm_90a") != std::string::npos;
  INFO(dsv4mx_version_string() << ": " << dsv4mx_last_error());
  if (!built) {
    CHECK(status == DSV4MX_STATUS_UNSUPPORTED);
    CHECK(MissingWords(dsv4mx_last_error(), "build,CUDA") == "");
  } else {
    CHECK((status == DSV4MX_STATUS_NO_DEVICE || status == DSV4MX_STATUS_UNSUPPORTED_DEVICE));
    CHECK(MissingWords(dsv4mx_last_error(), "") == "");
  }
  CHECK(c == nullptr);
}

struct LogLines {
  std::vector<std::string> lines;
  std::vector<int> levels;
  std::thread::id thread;
  static void Callback(void* user, dsv4mx_log_level level, const char* text) {
    auto* l = static_cast<LogLines*>(user);
    l->lines.emplace_back(text);
    l->levels.push_back(level);
    l->thread = std::this_thread::get_id();
  }
};

TEST_CASE("the log callback gets finished lines of the wanted levels on the calling thread",
          "[context]") {
  for (const int level : {0, int{DSV4MX_LOG_ERROR}, int{DSV4MX_LOG_INFO}, int{DSV4MX_LOG_DEBUG}}) {
    LogLines log;
    dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
    d.device = DSV4MX_DEVICE_CPU;
    d.log = LogLines::Callback;
    d.log_user = &log;
    d.log_level = level;
    dsv4mx_context* c = nullptr;
    REQUIRE_OK(dsv4mx_context_create(&d, &c));
    {
      const ContextPtr own(c);
      CHECK(Runner(MakeCase("h=64 i=32 e=2 k=1 m=2"), c).Apply().damage == "");
    }
    const int most = level == 0 ? DSV4MX_LOG_WARNING : level;
    for (size_t i = 0; i < log.lines.size(); ++i) {
      CHECK(log.levels[i] <= most);
      CHECK(!log.lines[i].empty());
      CHECK(log.lines[i].find('\n') == std::string::npos);
    }
    if (level >= DSV4MX_LOG_INFO) {
      CHECK(!log.lines.empty());
      CHECK(log.thread == std::this_thread::get_id());
    } else {
      CHECK(log.lines.empty());
    }
  }
}

TEST_CASE("the layer query answers before a weight is read", "[context]") {
  const Case c = MakeCase(Parse("flash m=0"), false);
  const LayerPtr layer = MakeLayer(CpuContext(), DescOf(c));
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  REQUIRE_OK(dsv4mx_layer_query(layer.get(), &info));
  CHECK(info.device == DSV4MX_DEVICE_CPU);
  CHECK(info.prepared_bytes >= 3422552064);  // 4.25 bits per weight
  CHECK(info.prepared_bytes <= 3422552064 + 256 * 4096);
  CHECK(info.max_tokens == 131072);
  CHECK(info.prepared_alignment >= 16);
  CHECK(info.peak_extra_bytes >= 0);
  CHECK(info.peak_extra_bytes < 1 << 28);
  CHECK(MissingWords(info.backend, "cpu,threads") == "");
}

}  // namespace
}  // namespace dsv4mx::test
