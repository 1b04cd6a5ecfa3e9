// Figures of snapshots: what zstd makes of codes and scales, in both layouts, at several levels; and how fast a layer is saved and
// restored beside a plain copy of as many bytes into and out of a file of the same folder.
//
//   snapshot-figures compression > FILE.json
//   snapshot-figures speed FOLDER [EXPERTS [THREADS]] > FILE.json
//
// Weights are of DeepSeek-V4-Flash's size (4096 x 2048), from Gaussian and from Student's t values with three degrees of freedom,
// quantised to MXFP4 by the rule of amax: the scale is the smallest power of two with which no value of 32 passes 6.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "lib/api/handles.h"
#include "lib/base/host_layout.h"
#include "lib/base/slab.h"
#include "lib/io/xxh64.h"
#include "tests/raw_expert.h"

namespace {

using dsv4mx::kMatrices;
using dsv4mx::LayerSpec;
using dsv4mx::Matrix;
using dsv4mx::SlabPart;
using dsv4mx::test::RawExpert;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kHidden = 4096, kIntermediate = 2048;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

void Must(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return;
  std::fprintf(stderr, "%s: %s\n", dsv4mx_status_name(status), dsv4mx_last_error());
  std::exit(1);
}

dsv4mx_layer_desc DescOf(int experts) {
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = kHidden;
  d.intermediate = kIntermediate;
  d.experts = experts;
  d.top_k = 1;
  return d;
}

// Nearest E2M1 code, ties to even codes.
uint8_t CodeOf(float x) {
  constexpr float kMiddles[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const float a = std::fabs(x);
  int code = 0;
  while (code < 7 && (a > kMiddles[code] || (a == kMiddles[code] && code % 2 == 1))) ++code;
  return static_cast<uint8_t>(code | (x < 0 ? 8 : 0));
}

template <class Draw>
void Quantise(const LayerSpec& spec, RawExpert* raw, Draw&& draw) {
  for (const Matrix m : kMatrices) {
    std::vector<uint8_t>&codes = raw->codes(m), &scales = raw->scales(m);
    for (size_t g = 0; g < scales.size(); ++g) {
      float x[32], amax = 0;
      for (float& v : x) v = draw(), amax = std::max(amax, std::fabs(v));
      const int e = amax == 0 ? 0 : static_cast<int>(std::ceil(std::log2(amax / 6)));
      scales[g] = static_cast<uint8_t>(127 + e);
      for (int i = 0; i < 16; ++i) {
        codes[g * 16 + static_cast<size_t>(i)] = static_cast<uint8_t>(
            CodeOf(std::ldexp(x[2 * i], -e)) | CodeOf(std::ldexp(x[2 * i + 1], -e)) << 4);
      }
    }
  }
  (void)spec;
}

void MakeExpert(const LayerSpec& spec, bool heavy, uint32_t seed, RawExpert* raw) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::student_t_distribution<float> student(3);
  Quantise(spec, raw, [&] { return heavy ? 0.02f * student(random) : normal(random); });
}

void SetExpert(dsv4mx_weights* weights, const LayerSpec& spec, int32_t e, RawExpert* raw) {
  constexpr const char* kNames[] = {"w1", "w3", "w2"};
  for (const Matrix m : kMatrices) {
    for (const bool codes : {true, false}) {
      dsv4mx_tensor t = DSV4MX_TENSOR_INIT;
      t.data = codes ? raw->codes(m).data() : raw->scales(m).data();
      t.dtype = codes ? DSV4MX_DTYPE_U8 : DSV4MX_DTYPE_E8M0;
      t.rank = 2;
      t.shape[0] = spec.Rows(m);
      t.shape[1] = spec.K(m) / (codes ? 2 : 32);
      const std::string name =
          std::string(kNames[static_cast<int>(m)]) + (codes ? ".weight" : ".scale");
      Must(dsv4mx_weights_set(weights, name.c_str(), e, &t, nullptr, nullptr));
    }
  }
}

double EntropyBits(const std::vector<uint8_t>& data) {
  double counts[256] = {}, bits = 0;
  for (const uint8_t b : data) ++counts[b];
  for (const double n : counts) {
    if (n > 0)
      bits -=
          n / static_cast<double>(data.size()) * std::log2(n / static_cast<double>(data.size()));
  }
  return bits;
}

// Seconds that this thread worked: what else runs on the machine does not count.
double Worked() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// In pieces of 2 MiB of the slab, as snapshots have them: what is in the section is the share of `part`.
void Compression(const char* layout, const char* values, const char* kind,
                 const std::vector<uint8_t>& data, size_t piece, Json* rows) {
  for (const int level : {-5, 1, 3, 9, 19}) {
    std::vector<uint8_t> frame(ZSTD_compressBound(piece)), back(piece);
    ZSTD_CCtx* encoder = ZSTD_createCCtx();
    ZSTD_DCtx* decoder = ZSTD_createDCtx();
    size_t stored = 0, raw = 0;
    double encode = 1e30, decode = 1e30;
    for (int round = 0; round < (level < 19 ? 3 : 1); ++round) {
      double e = 0, d = 0;
      stored = raw = 0;
      for (size_t at = 0; at < data.size(); at += piece) {
        const size_t bytes = std::min(piece, data.size() - at);
        const double begin = Worked();
        const size_t length =
            ZSTD_compressCCtx(encoder, frame.data(), frame.size(), data.data() + at, bytes, level);
        e += Worked() - begin;
        const double middle = Worked();
        if (ZSTD_decompressDCtx(decoder, back.data(), bytes, frame.data(), length) != bytes)
          std::exit(1);
        d += Worked() - middle;
        stored += length;
        raw += bytes;
        if (level == 19 && raw > (size_t{4} << 20)) break;
      }
      encode = std::min(encode, e);
      decode = std::min(decode, d);
    }
    ZSTD_freeCCtx(encoder);
    ZSTD_freeDCtx(decoder);
    const auto mb = static_cast<double>(raw) / 1e6;
    rows->push_back(
        {{"layout", layout},
         {"values", values},
         {"kind", kind},
         {"level", level},
         {"entropy_bits_a_byte", std::round(EntropyBits(data) * 1e3) / 1e3},
         {"stored_share",
          std::round(static_cast<double>(stored) / static_cast<double>(raw) * 1e4) / 1e4},
         {"compress_mb_s_a_core", std::round(mb / encode)},
         {"decompress_mb_s_a_core", std::round(mb / decode)}});
    std::fprintf(
        stderr, "%s %s %s level %d: %.4f of %.2f MB, %.0f MB/s, back %.0f MB/s, entropy %.3f\n",
        layout, values, kind, level, static_cast<double>(stored) / static_cast<double>(raw), mb,
        mb / encode, mb / decode, EntropyBits(data));
  }
}

Json AllCompression() {
  Json rows = Json::array();
  LayerSpec spec;
  const dsv4mx_layer_experimental x = DSV4MX_LAYER_EXPERIMENTAL_INIT;
  Must(MakeSpec(DescOf(1), x, &spec).code);
  for (const bool heavy : {false, true}) {
    RawExpert raw(spec);
    MakeExpert(spec, heavy, 1, &raw);
    const char* values = heavy ? "student t, 3 degrees" : "gaussian";
    const auto measure = [&](const char* layout, const uint8_t* slab, auto&& walk) {
      std::vector<uint8_t> codes, scales;
      walk(spec, [&](SlabPart part, int64_t offset, int64_t bytes) {
        if (part != SlabPart::kCodes && part != SlabPart::kScales) return;
        std::vector<uint8_t>& to = part == SlabPart::kCodes ? codes : scales;
        to.insert(to.end(), slab + offset, slab + offset + bytes);
      });
      const bool apart = std::string(layout) == "cpu 1";
      constexpr size_t kPiece = size_t{2} << 20;
      Compression(layout, values, "codes", codes, apart ? kPiece : kPiece * 16 / 17, &rows);
      Compression(layout, values, "scales", scales, apart ? kPiece : kPiece / 17, &rows);
    };
    dsv4mx_context* context = nullptr;
    dsv4mx_layer* layer = nullptr;
    dsv4mx_weights* weights = nullptr;
    dsv4mx_context_desc cpu = DSV4MX_CONTEXT_DESC_INIT;
    cpu.device = DSV4MX_DEVICE_CPU;
    Must(dsv4mx_context_create(&cpu, &context));
    const dsv4mx_layer_desc desc = DescOf(1);
    Must(dsv4mx_layer_create(context, &desc, &layer));
    Must(dsv4mx_weights_create(layer, nullptr, &weights));
    SetExpert(weights, spec, 0, &raw);
    Must(dsv4mx_weights_prepare(weights, nullptr, nullptr));
    measure("cpu 1", weights->impl->store().Slab(0), dsv4mx::ForCpuSlab);
    std::vector<uint8_t> slab(static_cast<size_t>(dsv4mx::Sm90SlabForm(spec).bytes));
    dsv4mx::Sm90PackExpert(spec, raw, slab.data());
    measure("sm90 1", slab.data(), dsv4mx::ForSm90Slab);
    dsv4mx_weights_destroy(weights);
    dsv4mx_layer_destroy(layer);
    dsv4mx_context_destroy(context);
  }
  return rows;
}

// A plain copy: all bytes of memory to a new file that is on disk at the end, and back into memory that was touched.
double PlainWrite(const std::string& path, const uint8_t* from, size_t bytes) {
  const auto begin = Clock::now();
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  for (size_t at = 0; at < bytes;) {
    const ssize_t n = write(fd, from + at, std::min(bytes - at, size_t{4} << 20));
    if (n <= 0) std::exit(1);
    at += static_cast<size_t>(n);
  }
  if (fsync(fd) != 0 || close(fd) != 0) std::exit(1);
  return Since(begin);
}

double PlainRead(const std::string& path, uint8_t* to, size_t bytes) {
  const auto begin = Clock::now();
  const int fd = open(path.c_str(), O_RDONLY);
  for (size_t at = 0; at < bytes;) {
    const ssize_t n = read(fd, to + at, std::min(bytes - at, size_t{4} << 20));
    if (n <= 0) std::exit(1);
    at += static_cast<size_t>(n);
  }
  close(fd);
  return Since(begin);
}

Json Speed(const std::string& folder, int experts, int threads) {
  LayerSpec spec;
  const dsv4mx_layer_experimental x = DSV4MX_LAYER_EXPERIMENTAL_INIT;
  Must(MakeSpec(DescOf(1), x, &spec).code);
  RawExpert raw(spec);
  MakeExpert(spec, true, 1, &raw);
  dsv4mx_context* context = nullptr;
  dsv4mx_layer* layer = nullptr;
  dsv4mx_weights *weights = nullptr, *back = nullptr;
  dsv4mx_context_desc cpu = DSV4MX_CONTEXT_DESC_INIT;
  cpu.device = DSV4MX_DEVICE_CPU;
  cpu.threads = threads;
  Must(dsv4mx_context_create(&cpu, &context));
  const dsv4mx_layer_desc desc = DescOf(experts);
  Must(dsv4mx_layer_create(context, &desc, &layer));
  Must(dsv4mx_weights_create(layer, nullptr, &weights));
  for (int e = 0; e < experts; ++e) SetExpert(weights, spec, e, &raw);
  Must(dsv4mx_weights_prepare(weights, nullptr, nullptr));
  const auto bytes =
      static_cast<size_t>(weights->impl->store().Form().bytes) * static_cast<size_t>(experts);
  const std::string path = folder + "/speed.snapshot", plain = folder + "/speed.plain";
  Json rows = Json::array();
  const auto add = [&](const char* what, int level, std::vector<double> seconds,
                       size_t file_bytes) {
    const double first = seconds.front();
    std::sort(seconds.begin(), seconds.end());
    const double gb = static_cast<double>(bytes) / 1e9;
    rows.push_back({{"what", what},
                    {"level", level},
                    {"median_gb_s", std::round(gb / seconds[seconds.size() / 2] * 1e3) / 1e3},
                    {"best_gb_s", std::round(gb / seconds.front() * 1e3) / 1e3},
                    {"first_gb_s", std::round(gb / first * 1e3) / 1e3},
                    {"file_bytes", file_bytes}});
    std::fprintf(stderr, "%s (level %d): median %.3f GB/s, best %.3f, first %.3f; file %.3f GB\n",
                 what, level, gb / seconds[seconds.size() / 2], gb / seconds.front(), gb / first,
                 static_cast<double>(file_bytes) / 1e9);
  };
  constexpr int kRounds = 5;
  std::unique_ptr<uint8_t[]> memory(new uint8_t[bytes]);
  std::vector<double> seconds;
  for (int i = 0; i < kRounds; ++i)
    seconds.push_back(PlainWrite(plain, weights->impl->store().Slab(0), bytes));
  add("plain write and fsync", 0, seconds, bytes);
  seconds.clear();
  for (int i = 0; i < kRounds; ++i) seconds.push_back(PlainRead(plain, memory.get(), bytes));
  add("plain read from page cache", 0, seconds, bytes);
  for (const int level : {-1, 3}) {
    seconds.clear();
    dsv4mx_snapshot_args args = DSV4MX_SNAPSHOT_ARGS_INIT;
    args.threads = threads;
    args.level = level;
    for (int i = 0; i < kRounds; ++i) {
      const auto begin = Clock::now();
      Must(dsv4mx_weights_save(weights, path.c_str(), &args, nullptr));
      seconds.push_back(Since(begin));
    }
    struct stat info {};
    stat(path.c_str(), &info);
    add("save", level, seconds, static_cast<size_t>(info.st_size));
    seconds.clear();
    Must(dsv4mx_weights_create(layer, nullptr, &back));
    for (int i = 0; i < kRounds; ++i) {
      const auto begin = Clock::now();
      Must(dsv4mx_weights_restore(back, path.c_str(), &args, nullptr));
      seconds.push_back(Since(begin));
      dsv4mx_weights_destroy(back);
      Must(dsv4mx_weights_create(layer, nullptr, &back));
    }
    add("restore, with first touch of memory and prepare", level, seconds,
        static_cast<size_t>(info.st_size));
    dsv4mx_weights_destroy(back);
  }
  const auto begin = Clock::now();
  volatile uint64_t sum = dsv4mx::io::Xxh64Of(memory.get(), bytes);
  (void)sum;
  add("XXH64 alone, one thread", 0, {Since(begin)}, bytes);
  unlink(path.c_str());
  unlink(plain.c_str());
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
  dsv4mx_context_destroy(context);
  return rows;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  Json out = {{"command", ""}, {"zstd", ZSTD_versionString()}, {"rows", nullptr}};
  std::string command = "snapshot-figures";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  out["command"] = command;
  if (mode == "compression" && argc == 2) {
    out["rows"] = AllCompression();
  } else if (mode == "speed" && argc >= 3 && argc <= 5) {
    const int experts = argc > 3 ? std::atoi(argv[3]) : 32,
              threads = argc > 4 ? std::atoi(argv[4]) : 2;
    out["experts"] = experts;
    out["threads"] = threads;
    out["rows"] = Speed(argv[2], experts, threads);
  } else {
    std::fprintf(stderr,
                 "usage: snapshot-figures compression | speed FOLDER [EXPERTS [THREADS]]\n");
    return 2;
  }
  std::printf("%s\n", out.dump(1).c_str());
  return 0;
}
