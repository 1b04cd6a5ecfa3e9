#include "tests/bench/loaded_layer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <deque>
#include <future>
#include <set>
#include <stdexcept>
#include <thread>

#include "tests/bench/gpu_kernels.h"
#include "tests/numbers.h"

namespace dsv4mx::bench {
namespace {

using test::Must;
using test::Problem;

constexpr double kRoundBytes = 1e9;
constexpr int kMostRotations = 16;

// Everything of a problem that the layer and its weights depend on.
std::string KeyOf(Problem p) {
  p.tokens = 0;
  p.dist = test::Dist::kUniform;
  p.x_stride = p.out_stride = 0;
  p.amp = 0;
  return test::ProblemText(p);
}

// Experts are made ahead by all processors and set in order: at most one per processor is held.
void SetExperts(const Problem& p, dsv4mx_weights* weights) {
  const auto make = [&p](int32_t e) { return test::TensorsOf(p, e, test::MakeExpert(p, e)); };
  const int32_t ahead = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  std::deque<std::future<std::vector<test::NamedTensor>>> queue;
  int32_t next = 0;
  for (int32_t e = 0; e < p.LocalExperts(); ++e) {
    for (; next < p.LocalExperts() && next < e + ahead; ++next)
      queue.push_back(std::async(std::launch::async, make, next));
    for (const test::NamedTensor& t : queue.front().get()) {
      const dsv4mx_tensor view = t.View();
      Must(dsv4mx_weights_set(weights, t.name.c_str(), e, &view, nullptr, nullptr), t.name.c_str());
    }
    queue.pop_front();
  }
}

}  // namespace

void LoadedLayer::Use(const Problem& p) {
  const std::string key = KeyOf(p);
  if (key == key_) return;
  key_.clear();
  weights_.reset();  // two layers need not fit
  layer_.reset();
  const auto begin = std::chrono::steady_clock::now();
  context_ = test::ContextOf(p);
  test::Case description{p, {}, {}, {}};
  layer_ = test::MakeLayer(context_, test::DescOf(description));
  weights_ = test::MakeWeights(layer_.get());
  SetExperts(p, weights_.get());
  Must(dsv4mx_weights_prepare(weights_.get(), nullptr, nullptr), "weights_prepare");
  Must(dsv4mx_context_synchronize(context_, nullptr), "synchronize");
  load_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  key_ = key;
}

dsv4mx_layer_info LoadedLayer::info() const {
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  Must(dsv4mx_layer_query(layer_.get(), &info), "layer_query");
  return info;
}

std::string LoadedLayer::Plan(int64_t tokens) const {
  char text[512];
  Must(dsv4mx_layer_query_plan(layer_.get(), weights_.get(), tokens, text, sizeof text),
       "layer_query_plan");
  return text;
}

Work WorkOf(const test::Case& c, const std::vector<int64_t>& ids) {
  std::set<int32_t> hit;
  double pairs = 0;
  for (int64_t id : ids) {
    const int32_t e = c.LocalExpert(id);
    if (e < 0) continue;
    hit.insert(e);
    ++pairs;
  }
  // Gate, up and down; half a byte a code, a byte for every 32.
  const double values = 3.0 * c.p.hidden * c.p.LocalIntermediate();
  Work w;
  w.experts = static_cast<double>(hit.size());
  w.bytes = w.experts * values * (0.5 + 1.0 / 32);
  w.flop = pairs * values * 2;
  return w;
}

std::vector<int64_t> Rotate(const Problem& p, const std::vector<int64_t>& ids, int rotation,
                            int rotations) {
  std::vector<int64_t> rotated = ids;
  const int64_t step = std::max(1, p.experts / rotations);
  for (int64_t& id : rotated) {
    if (id >= 0) id = (id + rotation * step) % p.experts;
  }
  return rotated;
}

int DefaultRotations(const test::Case& c) {
  const double bytes = WorkOf(c, c.in.ids).bytes;
  if (bytes <= 0) return 1;
  return static_cast<int>(
      std::clamp(std::ceil(kRoundBytes / bytes), 1.0, static_cast<double>(kMostRotations)));
}

DeviceCase::DeviceCase(const LoadedLayer& loaded, const test::Case& c, int rotations)
    : loaded_(loaded), p_(c.p) {
  const int64_t h = p_.hidden, tokens = p_.tokens;
  const int64_t xs = p_.x_stride == 0 ? h : p_.x_stride,
                os = p_.out_stride == 0 ? h : p_.out_stride;
  const auto span = [&](int64_t stride) {
    return static_cast<size_t>(tokens == 0 ? 0 : (tokens - 1) * stride + h);
  };
  std::vector<uint16_t> rows(span(xs), 0xFFFF);
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(&rows[static_cast<size_t>(t * xs)], &c.in.x[static_cast<size_t>(t * h)],
                static_cast<size_t>(h) * 2);
  }
  x_bytes_ = rows.size() * 2;
  args_.x = Upload(rows.data(), x_bytes_);
  args_.x_stride = p_.x_stride;
  const std::vector<uint8_t> weights = test::PackRouterWeights(p_, c.in.weights);
  args_.topk_weights = Upload(weights.data(), weights.size());
  for (int r = 0; r < rotations; ++r) {
    const std::vector<int64_t> ids = Rotate(p_, c.in.ids, r, rotations);
    const Work w = WorkOf(c, ids);
    work_.experts += w.experts / rotations;
    work_.bytes += w.bytes / rotations;
    work_.flop += w.flop / rotations;
    const std::vector<uint8_t> packed = test::PackIds(p_, ids);
    ids_.push_back(Upload(packed.data(), packed.size()));
    ids_bytes_ = packed.size();
  }
#if DSV4MX_HAVE_CUDA
  written_ids_ = Alloc(ids_bytes_);
  written_x_ = Alloc(x_bytes_);
#endif
  out_bytes_ = span(os) * (p_.out == DSV4MX_DTYPE_F32 ? 4 : 2);
  const std::vector<uint8_t> poison(out_bytes_, 0xFF);  // NaN: what is not written shows
  args_.out = Upload(poison.data(), poison.size());
  args_.out_stride = p_.out_stride;
  args_.tokens = tokens;
  args_.workspace_bytes = test::WorkspaceBytes(loaded.layer(), tokens);
  args_.workspace = Alloc(args_.workspace_bytes);
}

void DeviceCase::Free::operator()(void* p) const {
  dsv4mx_context_free(context, p);
}

void* DeviceCase::Alloc(size_t bytes) {
  void* p = nullptr;
  Must(dsv4mx_context_alloc(loaded_.context(), bytes, &p), "context_alloc");
  memory_.emplace_back(p, Free{loaded_.context()});
  return p;
}

void* DeviceCase::Upload(const void* from, size_t bytes) {
  void* to = Alloc(bytes);
  if (bytes > 0) {
    Must(dsv4mx_context_copy(loaded_.context(), to, from, bytes, nullptr), "context_copy");
    Must(dsv4mx_context_synchronize(loaded_.context(), nullptr), "synchronize");
  }
  return to;
}

dsv4mx_apply_args DeviceCase::Args(int rotation) const {
  dsv4mx_apply_args args = args_;
  args.topk_ids = ids_[static_cast<size_t>(rotation)];
  return args;
}

dsv4mx_apply_args DeviceCase::WrittenArgs() const {
  dsv4mx_apply_args args = args_;
  args.topk_ids = written_ids_;
  args.x = written_x_;
  return args;
}

void DeviceCase::Apply(int rotation, dsv4mx_stream stream) const {
  const dsv4mx_apply_args args = Args(rotation);
  Must(dsv4mx_layer_apply(loaded_.layer(), loaded_.weights(), &args, stream), "layer_apply");
}

#if DSV4MX_HAVE_CUDA
void DeviceCase::WriteInputs(int rotation, dsv4mx_stream stream) const {
  const int status = LaunchCopies(written_ids_, ids_[static_cast<size_t>(rotation)], ids_bytes_,
                                  written_x_, args_.x, x_bytes_, static_cast<Stream>(stream));
  if (status != 0) throw std::runtime_error("copy kernel gave status " + std::to_string(status));
}

void DeviceCase::ApplyWritten(dsv4mx_stream stream) const {
  const dsv4mx_apply_args args = WrittenArgs();
  Must(dsv4mx_layer_apply(loaded_.layer(), loaded_.weights(), &args, stream), "layer_apply");
}
#endif

test::Output DeviceCase::Read() const {
  std::vector<uint8_t> written(out_bytes_);
  if (out_bytes_ > 0) {
    Must(dsv4mx_context_copy(loaded_.context(), written.data(), args_.out, out_bytes_, nullptr),
         "context_copy");
    Must(dsv4mx_context_synchronize(loaded_.context(), nullptr), "synchronize");
  }
  const size_t h = static_cast<size_t>(p_.hidden), tokens = static_cast<size_t>(p_.tokens),
               stride = p_.out_stride == 0 ? h : static_cast<size_t>(p_.out_stride);
  test::Output out{p_.tokens, p_.hidden, {}, std::vector<float>(tokens * h), ""};
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t j = 0; j < h; ++j) {
      float* to = &out.y[t * h + j];
      if (p_.out == DSV4MX_DTYPE_F32) {
        std::memcpy(to, &written[4 * (t * stride + j)], 4);
      } else {
        uint16_t half;
        std::memcpy(&half, &written[2 * (t * stride + j)], 2);
        *to = test::FromBf16(half);
      }
    }
  }
  return out;
}

}  // namespace dsv4mx::bench
