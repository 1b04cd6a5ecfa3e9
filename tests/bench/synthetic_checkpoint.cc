#include "tests/bench/synthetic_checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/random.h"

namespace dsv4mx::bench {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void Fail(const std::string& path, const char* what) {
  throw std::runtime_error(path + ": cannot be " + what);
}

struct TensorOf {
  const char* name;
  bool codes;
  int64_t rows, k;
  int64_t columns() const { return codes ? k / 2 : k / 32; }
};

// Calls f(name, tensor) for what an expert has.
template <class F>
void ForTensors(const test::Problem& p, int layer, int32_t expert, F&& f) {
  const int64_t h = p.hidden, i = p.intermediate;
  const TensorOf tensors[] = {{"w1.weight", true, i, h}, {"w1.scale", false, i, h},
                              {"w3.weight", true, i, h}, {"w3.scale", false, i, h},
                              {"w2.weight", true, h, i}, {"w2.scale", false, h, i}};
  for (const TensorOf& t : tensors) {
    f("layers." + std::to_string(layer) + ".ffn.experts." + std::to_string(expert) + "." + t.name,
      t);
  }
}

void WriteText(const std::string& path, const std::string& text) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  if (file == nullptr || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    Fail(path, "written");
  }
}

}  // namespace

LayerFile::LayerFile(const std::string& path, const test::Problem& p, int layer) : path_(path) {
  Json header;
  for (int32_t e = 0; e < p.experts; ++e) {
    ForTensors(p, layer, e, [&](const std::string& name, const TensorOf& t) {
      const int64_t end = bytes_ + t.rows * t.columns();
      header[name] = {{"dtype", t.codes ? "I8" : "F8_E8M0"},
                      {"shape", {t.rows, t.columns()}},
                      {"data_offsets", {bytes_, end}}};
      bytes_ = end;
    });
  }
  const std::string text = header.dump();
  data_ = 8 + static_cast<int64_t>(text.size());
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  if (file == nullptr) Fail(path, "written");
  const auto put = [&](const void* data, size_t n) {
    if (std::fwrite(data, 1, n, file.get()) != n) Fail(path, "written");
  };
  const uint64_t length = text.size();
  put(&length, 8);
  put(text.data(), text.size());
  std::vector<uint8_t> codes(size_t{1} << 22), scales(size_t{1} << 20);
  test::Rng rng(static_cast<uint64_t>(layer) + 1);
  rng.Bytes(codes.data(), codes.size());
  for (uint8_t& b : scales) b = static_cast<uint8_t>(119 + rng.Below(9));
  for (int32_t e = 0; e < p.experts; ++e) {
    ForTensors(p, layer, e, [&](const std::string&, const TensorOf& t) {
      const std::vector<uint8_t>& from = t.codes ? codes : scales;
      auto left = static_cast<size_t>(t.rows * t.columns());
      for (size_t n; left > 0; left -= n) put(from.data(), n = std::min(left, from.size()));
    });
  }
  if (std::fflush(file.get()) != 0) Fail(path, "written");
}

double LayerFile::PlainCopy(uint8_t* to, int threads) const {
  const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Fail(path_, "opened");
  std::atomic<int64_t> next{0};
  std::atomic<bool> good{true};
  const auto work = [&] {
    constexpr int64_t kBlock = 4 << 20;
    for (int64_t at; (at = next.fetch_add(kBlock)) < bytes_;) {
      const auto n = static_cast<size_t>(std::min(kBlock, bytes_ - at));
      for (size_t done = 0; done < n;) {
        const auto byte = at + static_cast<int64_t>(done);
        const ssize_t got = pread(fd, to + byte, n - done, data_ + byte);
        if (got <= 0) {
          good = false;
          return;
        }
        done += static_cast<size_t>(got);
      }
    }
  };
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  close(fd);
  if (!good) Fail(path_, "read");
  return seconds;
}

int64_t WriteModel(const std::string& folder, const test::Problem& p, int layers) {
  std::filesystem::create_directories(folder);
  Json map;
  int64_t bytes = 0;
  char name[64];
  for (int layer = 0; layer < layers; ++layer) {
    std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", layer + 1, layers);
    const LayerFile file(folder + "/" + name, p, layer);
    bytes += file.bytes();
    for (int32_t e = 0; e < p.experts; ++e) {
      ForTensors(p, layer, e, [&](const std::string& t, const TensorOf&) { map[t] = name; });
    }
  }
  const Json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", map}};
  WriteText(folder + "/model.safetensors.index.json", index.dump(1) + "\n");
  const Json config = {{"model_type", "deepseek_v4"},
                       {"hidden_size", p.hidden},
                       {"moe_intermediate_size", p.intermediate},
                       {"n_routed_experts", p.experts},
                       {"num_experts_per_tok", p.top_k},
                       {"num_hidden_layers", layers}};
  WriteText(folder + "/config.json", config.dump(1) + "\n");
  return bytes;
}

std::string OwnFile(const std::string& folder, const std::string& name) {
  return folder + "/dsv4mx-bench-" + std::to_string(getpid()) + "-" + name;
}

}  // namespace dsv4mx::bench
