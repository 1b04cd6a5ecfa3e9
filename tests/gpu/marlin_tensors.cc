#include "tests/gpu/marlin_tensors.h"

#include <algorithm>
#include <cstring>

namespace dsv4mx::test {
namespace {

constexpr size_t kBand = 65;  // odd, as every address behind it then is
constexpr uint8_t kPattern = 0xC5;

}  // namespace

MarlinTensors::MarlinTensors(const GpuLayer& layer, dsv4mx_memory memory) {
  const Problem& p = layer.p();
  Must(dsv4mx_layer_query_marlin(layer.layer(), &desc_), "query_marlin");
  desc_.memory = memory;
  desc_.bias_dtype = p.w13_bias != 0 ? p.w13_bias : p.w2_bias;
  const size_t n = static_cast<size_t>(p.LocalExperts()),
               h = static_cast<size_t>(desc_.hidden_padded),
               i = static_cast<size_t>(desc_.intermediate_padded),
               element = desc_.bias_dtype == DSV4MX_DTYPE_F32 ? 4 : 2;
  const size_t bytes[] = {h / 16 * 4 * i * 4, h / 32 * 2 * i, p.w13_bias != 0 ? 2 * i * element : 0,
                          i / 16 * 2 * h * 4, i / 32 * h,     p.w2_bias != 0 ? h * element : 0};
  void** const fields[] = {&desc_.w13, &desc_.w13_scale, &desc_.w13_bias,
                           &desc_.w2,  &desc_.w2_scale,  &desc_.w2_bias};
  for (int t = 0; t < kTensors; ++t) {
    bytes_[t] = n * bytes[t];
    if (bytes_[t] == 0) continue;
    if (memory == DSV4MX_MEMORY_DEVICE)
      device_[t] = std::make_unique<DeviceBuffer>(bytes_[t], 4);
    else
      host_[t].assign(bytes_[t] + 2 * kBand, kPattern);
    *fields[t] = data(t);
  }
}

uint8_t* MarlinTensors::data(int t) const {
  if (device_[t] != nullptr) return device_[t]->data();
  return const_cast<uint8_t*>(host_[t].data()) + kBand;
}

void MarlinTensors::Fill(int value) {
  for (int t = 0; t < kTensors; ++t) {
    if (bytes_[t] == 0) continue;
    if (device_[t] != nullptr)
      device_[t]->Fill(value);
    else
      std::memset(data(t), value, bytes_[t]);
  }
}

void MarlinTensors::Write(const std::vector<std::vector<uint8_t>>& tensors) {
  for (int t = 0; t < kTensors; ++t) {
    const std::vector<uint8_t>& from = tensors[static_cast<size_t>(t)];
    if (from.size() != bytes_[t]) throw std::invalid_argument("MarlinTensors::Write: other sizes");
    if (from.empty()) continue;
    if (device_[t] != nullptr)
      device_[t]->Upload(from.data(), from.size());
    else
      std::memcpy(data(t), from.data(), from.size());
  }
}

std::vector<std::vector<uint8_t>> MarlinTensors::Read() const {
  std::vector<std::vector<uint8_t>> all(kTensors);
  for (int t = 0; t < kTensors; ++t) {
    if (bytes_[t] == 0) continue;
    std::vector<uint8_t>& to = all[static_cast<size_t>(t)];
    if (device_[t] != nullptr)
      to = device_[t]->Download();
    else
      to.assign(data(t), data(t) + bytes_[t]);
  }
  return all;
}

std::string MarlinTensors::Damage() const {
  for (int t = 0; t < kTensors; ++t) {
    std::string damage;
    if (device_[t] != nullptr) damage = device_[t]->Damage();
    if (!host_[t].empty()) {
      const auto kept = [](uint8_t b) { return b == kPattern; };
      const uint8_t *first = host_[t].data(), *last = first + host_[t].size();
      if (!std::all_of(first, first + kBand, kept) || !std::all_of(last - kBand, last, kept))
        damage = "a byte around the tensor was overwritten";
    }
    if (!damage.empty()) return "Marlin tensor " + std::to_string(t) + ": " + damage;
  }
  return "";
}

std::vector<std::vector<uint8_t>> ExportMarlin(const GpuLayer& layer,
                                               const dsv4mx_weights* weights) {
  MarlinTensors out(layer, DSV4MX_MEMORY_DEVICE);
  Must(dsv4mx_weights_export_marlin(weights, &out.desc(), nullptr, nullptr), "export_marlin");
  Must(dsv4mx_context_synchronize(layer.context(), nullptr), "synchronize");
  if (const std::string damage = out.Damage(); !damage.empty()) throw std::runtime_error(damage);
  return out.Read();
}

}  // namespace dsv4mx::test
