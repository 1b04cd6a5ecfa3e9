#include "tests/runner.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>

#include "tests/numbers.h"

namespace dsv4mx::test {
namespace {

template <typename T>
std::vector<uint8_t> Bytes(const std::vector<T>& v) {
  std::vector<uint8_t> bytes(v.size() * sizeof(T));
  if (!v.empty()) std::memcpy(bytes.data(), v.data(), bytes.size());
  return bytes;
}

std::vector<uint8_t> PackFloats(const std::vector<float>& v, dsv4mx_dtype type) {
  if (type != DSV4MX_DTYPE_BF16) return Bytes(v);
  std::vector<uint16_t> half(v.size());
  for (size_t i = 0; i < v.size(); ++i) half[i] = ToBf16(static_cast<double>(v[i]));
  return Bytes(half);
}

std::vector<uint8_t> InNibbleOrder(std::vector<uint8_t> codes, dsv4mx_nibble_order order) {
  if (order == DSV4MX_NIBBLE_ORDER_HIGH_FIRST) {
    for (uint8_t& b : codes) b = static_cast<uint8_t>((b << 4) | (b >> 4));
  }
  return codes;
}

// Rows of `columns` elements, `stride` apart; what lies between is `fill`. The last row ends where its elements do.
template <typename T>
std::vector<T> Spread(const std::vector<T>& rows, int64_t columns, int64_t stride, T fill) {
  if (rows.empty() || columns == stride) return rows;
  const size_t count = rows.size() / static_cast<size_t>(columns),
               step = static_cast<size_t>(stride);
  std::vector<T> all((count - 1) * step + static_cast<size_t>(columns), fill);
  for (size_t r = 0; r < count; ++r) {
    std::copy_n(rows.begin() + static_cast<int64_t>(r) * columns, columns,
                all.begin() + static_cast<int64_t>(r * step));
  }
  return all;
}

}  // namespace

void Must(dsv4mx_status status, const char* call) {
  if (status != DSV4MX_STATUS_OK) throw Refused(call, status);
}

dsv4mx_context* ContextOf(const Problem& p) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int, std::string>, ContextPtr> contexts;
  const std::lock_guard<std::mutex> lock(mutex);
  ContextPtr& context = contexts[{p.device, p.isa, p.threads, p.plan}];
  if (context == nullptr) {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = p.device;
    desc.cpu_isa = p.isa;
    desc.threads = p.threads;
    dsv4mx_context_experimental x = DSV4MX_CONTEXT_EXPERIMENTAL_INIT;
    x.plan_file = p.plan.empty() ? nullptr : p.plan.c_str();
    desc.experimental = &x;
    dsv4mx_context* made = nullptr;
    Must(dsv4mx_context_create(&desc, &made), "context_create");
    context.reset(made);
  }
  return context.get();
}

dsv4mx_context* CpuContext() {
  return ContextOf(Problem());
}

const dsv4mx_layer_experimental* Experimental(dsv4mx_number_path path, dsv4mx_oracle oracle) {
  static constexpr int kPaths = 3, kOracles = 3;
  static const auto all = [] {
    std::array<dsv4mx_layer_experimental, kPaths * kOracles> made;
    for (int i = 0; i < kPaths * kOracles; ++i) {
      made[static_cast<size_t>(i)] = {sizeof(dsv4mx_layer_experimental), i / kOracles,
                                      i % kOracles};
    }
    return made;
  }();
  return &all.at(static_cast<size_t>(path * kOracles + oracle));
}

size_t WorkspaceBytes(const dsv4mx_layer* layer, int64_t tokens) {
  dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
  Must(dsv4mx_layer_query_workspace(layer, tokens, nullptr, &info), "query_workspace");
  return info.bytes;
}

WeightsFacts FactsOf(const dsv4mx_weights* weights) {
  WeightsFacts facts{DSV4MX_WEIGHTS_INFO_INIT, DSV4MX_WEIGHTS_CENSUS_INIT};
  Must(dsv4mx_weights_query(weights, &facts.info), "weights_query");
  Must(dsv4mx_weights_query_census(weights, &facts.census), "weights_query_census");
  return facts;
}

dsv4mx_layer_desc DescOf(const Case& c) {
  const Problem& p = c.p;
  dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
  d.hidden = p.hidden;
  d.intermediate = p.intermediate;
  d.tp_size = p.tp;
  d.experts = p.LocalExperts();
  d.top_k = p.top_k;
  d.expert_first = c.placement.empty() ? p.ExpertFirst() : 0;
  d.experts_global = c.placement.empty() && p.ep == 1 ? 0 : p.experts;
  d.placement = c.placement.empty() ? nullptr : c.placement.data();
  d.w13_order = p.order;
  d.nibble_order = p.nibble;
  d.activation = p.activation;
  d.clamp_limit = p.clamp;
  d.activation_alpha = p.alpha;
  d.activation_beta = p.beta;
  d.w13_bias = p.w13_bias;
  d.w2_bias = p.w2_bias;
  d.router_weight_position = p.wpos;
  d.routed_scaling_factor = p.rsf;
  d.out_dtype = p.out;
  d.ids_dtype = p.ids;
  d.router_weight_dtype = p.rw;
  d.slot_dtype = p.slot;
  d.compute = p.compute;
  d.situ_beta = p.situ_beta;
  d.situ_linear_beta = p.situ_linear_beta;
  d.experimental = Experimental(p.path, p.oracle);
  d.flags = p.flags;
  return d;
}

LayerPtr MakeLayer(const dsv4mx_context* context, const dsv4mx_layer_desc& desc) {
  dsv4mx_layer* layer = nullptr;
  Must(dsv4mx_layer_create(context, &desc, &layer), "layer_create");
  return LayerPtr(layer);
}

WeightsPtr MakeWeights(const dsv4mx_layer* layer) {
  dsv4mx_weights* weights = nullptr;
  Must(dsv4mx_weights_create(layer, nullptr, &weights), "weights_create");
  return WeightsPtr(weights);
}

dsv4mx_tensor Tensor(const void* data, dsv4mx_dtype dtype, std::initializer_list<int64_t> shape) {
  dsv4mx_tensor t{};
  t.struct_size = sizeof t;
  t.data = data;
  t.dtype = dtype;
  t.rank = static_cast<int32_t>(shape.size());
  size_t i = 0;
  for (int64_t n : shape) t.shape[i++] = n;
  return t;
}

dsv4mx_tensor NamedTensor::View() const {
  dsv4mx_tensor t = Tensor(bytes.data(), dtype, {});
  t.rank = static_cast<int32_t>(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) t.shape[i] = shape[i];
  return t;
}

std::vector<NamedTensor> TensorsOf(const Problem& p, int32_t e, const ExpertData& d) {
  std::vector<NamedTensor> all;
  const auto codes = [&](const char* name, std::vector<uint8_t> bytes, int64_t rows, int64_t k) {
    all.push_back(
        {name, e, InNibbleOrder(std::move(bytes), p.nibble), DSV4MX_DTYPE_I8, {rows, k / 2}});
  };
  const auto scales = [&](const char* name, std::vector<uint8_t> bytes, int64_t rows, int64_t k) {
    all.push_back({name, e, std::move(bytes), DSV4MX_DTYPE_E8M0, {rows, k / 32}});
  };
  const int64_t i = d.rows[kGate], h = d.rows[kDown];
  if (p.order == DSV4MX_W13_ORDER_UNSET) {
    codes("w1.weight", d.codes[kGate], i, h);
    scales("w1.scale", d.scales[kGate], i, h);
    codes("w3.weight", d.codes[kUp], i, h);
    scales("w3.scale", d.scales[kUp], i, h);
    codes("w2.weight", d.codes[kDown], h, i);
    scales("w2.scale", d.scales[kDown], h, i);
  } else {
    codes("w13_weight", FuseRows(d.codes[kGate], d.codes[kUp], h / 2, p.order), 2 * i, h);
    scales("w13_weight_scale", FuseRows(d.scales[kGate], d.scales[kUp], h / 32, p.order), 2 * i, h);
    codes("w2_weight", d.codes[kDown], h, i);
    scales("w2_weight_scale", d.scales[kDown], h, i);
  }
  if (p.w13_bias != 0) {
    const std::vector<uint8_t> gate = PackFloats(d.bias[kGate], p.w13_bias),
                               up = PackFloats(d.bias[kUp], p.w13_bias);
    all.push_back({"w13_bias",
                   e,
                   FuseRows(gate, up, p.w13_bias == DSV4MX_DTYPE_BF16 ? 2 : 4, p.order),
                   p.w13_bias,
                   {2 * i}});
  }
  if (p.w2_bias != 0)
    all.push_back({"w2_bias", e, PackFloats(d.bias[kDown], p.w2_bias), p.w2_bias, {h}});
  return all;
}

void SetExpert(dsv4mx_weights* weights, const Problem& p, int32_t e, const ExpertData& data) {
  for (const NamedTensor& t : TensorsOf(p, e, data)) {
    const dsv4mx_tensor view = t.View();
    Must(dsv4mx_weights_set(weights, t.name.c_str(), e, &view, nullptr, nullptr), t.name.c_str());
  }
}

Runner::Runner(const Case& c, const dsv4mx_context* context)
    : case_(c), context_(context == nullptr ? ContextOf(c.p) : context) {
  layer_ = MakeLayer(context_, DescOf(case_));
  weights_ = MakeWeights(layer_.get());
  for (int32_t e = 0; e < c.p.LocalExperts(); ++e) SetExpert(weights_.get(), c.p, e, *c.Expert(e));
  Must(dsv4mx_weights_prepare(weights_.get(), nullptr, nullptr), "weights_prepare");
}

dsv4mx_layer_info Runner::info() const {
  dsv4mx_layer_info info{};
  info.struct_size = sizeof info;
  Must(dsv4mx_layer_query(layer_.get(), &info), "layer_query");
  return info;
}

std::vector<uint8_t> PackIds(const Problem& p, const std::vector<int64_t>& ids) {
  if (p.ids == DSV4MX_DTYPE_I64) return Bytes(ids);
  std::vector<int32_t> narrow(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) narrow[i] = static_cast<int32_t>(ids[i]);
  return Bytes(narrow);
}

std::vector<uint8_t> PackRouterWeights(const Problem& p, const std::vector<float>& weights) {
  return PackFloats(weights, p.rw);
}

Inputs TakeRows(const Problem& p, const Inputs& in, const std::vector<int64_t>& tokens) {
  Inputs out;
  for (int64_t t : tokens) {
    out.x.insert(out.x.end(), in.x.begin() + t * p.hidden, in.x.begin() + (t + 1) * p.hidden);
    out.ids.insert(out.ids.end(), in.ids.begin() + t * p.top_k, in.ids.begin() + (t + 1) * p.top_k);
    out.weights.insert(out.weights.end(), in.weights.begin() + t * p.top_k,
                       in.weights.begin() + (t + 1) * p.top_k);
  }
  return out;
}

Output ApplyGuarded(const dsv4mx_context* context, const dsv4mx_layer* layer,
                    const dsv4mx_weights* weights_object, const Problem& p, const Inputs& in,
                    const ApplyOptions& options) {
  const int64_t tokens = static_cast<int64_t>(in.ids.size()) / p.top_k, h = p.hidden;
  const int64_t xs = p.x_stride == 0 ? h : p.x_stride, os = p.out_stride == 0 ? h : p.out_stride;
  const size_t element = p.out == DSV4MX_DTYPE_F32 ? 4 : 2;
  const auto span = [&](int64_t stride) {
    return static_cast<size_t>(tokens == 0 ? 0 : (tokens - 1) * stride + h);
  };

  // Gaps between rows hold NaN: a kernel that reads past a row's end shows it.
  std::vector<uint16_t> rows(span(xs), 0xFFFF);
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(&rows[static_cast<size_t>(t * xs)], &in.x[static_cast<size_t>(t * h)],
                static_cast<size_t>(h) * 2);
  }
  // Columns beyond top_k hold what would be seen: ids of no expert, NaN.
  const int64_t is = p.ids_stride == 0 ? p.top_k : p.ids_stride,
                ws = p.weights_stride == 0 ? p.top_k : p.weights_stride;
  const std::vector<uint8_t> ids = PackIds(p, Spread(in.ids, p.top_k, is, int64_t{0x7fffffff})),
                             weights = PackRouterWeights(
                                 p, Spread(in.weights, p.top_k, ws,
                                           std::numeric_limits<float>::quiet_NaN()));
  const Guarded x_buffer(context, rows.data(), rows.size() * 2, 16, options.edge);
  const Guarded ids_buffer(context, ids.data(), ids.size(), p.ids == DSV4MX_DTYPE_I64 ? 8 : 4,
                           options.edge);
  const Guarded weights_buffer(context, weights.data(), weights.size(),
                               p.rw == DSV4MX_DTYPE_BF16 ? 2 : 4, options.edge);
  Guarded out_buffer(context, span(os) * element, 16, options.edge);
  dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
  Must(dsv4mx_layer_query_workspace(layer, tokens, nullptr, &info), "query_workspace");
  const size_t need = options.minimum_workspace ? info.minimum_bytes : info.bytes;
  Guarded workspace(context, need, 256, options.edge);
  out_buffer.Fill(options.poison);
  if (options.accumulate != nullptr) {
    std::vector<uint8_t> before(span(os) * element, static_cast<uint8_t>(options.poison));
    const auto row = static_cast<size_t>(h) * element;
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      std::memcpy(&before[t * static_cast<size_t>(os) * element], &(*options.accumulate)[t * row],
                  row);
    }
    out_buffer.Write(before.data(), before.size());
  }
  workspace.Fill(options.poison);
  const int32_t count = static_cast<int32_t>(options.tokens_device);
  const Guarded count_buffer(context, &count, sizeof count, 4, options.edge);

  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  args.x = x_buffer.data();
  args.x_stride = p.x_stride;
  args.topk_ids = ids_buffer.data();
  args.topk_ids_stride = p.ids_stride;
  args.topk_weights = weights_buffer.data();
  args.topk_weights_stride = p.weights_stride;
  args.multiprocessors = options.multiprocessors;
  if (options.accumulate != nullptr) args.flags |= DSV4MX_APPLY_ACCUMULATE;
  const bool counts = options.expert_counts != nullptr;
  const std::vector<int64_t> none(1);
  const std::vector<int64_t>& start = counts ? *options.expert_counts : none;
  const Guarded counts_buffer(context, start.data(), start.size() * sizeof(int64_t), 8,
                              options.edge);
  if (counts) args.expert_counts = reinterpret_cast<int64_t*>(counts_buffer.data());
  args.out = out_buffer.data();
  args.out_stride = p.out_stride;
  args.tokens = tokens;
  if (options.tokens_device >= 0)
    args.tokens_device = reinterpret_cast<const int32_t*>(count_buffer.data());
  args.workspace = workspace.data();
  args.workspace_bytes = need;
  Must(dsv4mx_layer_apply(layer, weights_object, &args, nullptr), "layer_apply");
  Must(dsv4mx_context_synchronize(context, nullptr), "synchronize");

  Output out{tokens, h, {}, {}, ""};
  if (counts) {
    const std::vector<uint8_t> bytes = counts_buffer.Read();
    std::memcpy(options.expert_counts->data(), bytes.data(), bytes.size());
  }
  for (const Guarded* g :
       {&x_buffer, &ids_buffer, &weights_buffer, static_cast<const Guarded*>(&out_buffer),
        static_cast<const Guarded*>(&workspace), &count_buffer}) {
    if (out.damage.empty()) out.damage = g->Damage();
  }
  const std::vector<uint8_t> written = out_buffer.Read();
  const int64_t live = options.tokens_device < 0 ? tokens : std::min(options.tokens_device, tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto row = written.begin() + t * os * static_cast<int64_t>(element);
    const auto end = row + h * static_cast<int64_t>(element);
    out.raw.insert(out.raw.end(), row, end);
    const auto gap_from = t < live ? end : row;
    const auto gap_to = t + 1 < tokens ? row + os * static_cast<int64_t>(element) : end;
    for (auto at = gap_from; at < gap_to && out.damage.empty(); ++at) {
      if (*at != options.poison) {
        out.damage = "output row " + std::to_string(t) + ": byte " + std::to_string(at - row) +
                     " was overwritten";
      }
    }
  }
  out.y = NumbersOf(out.raw, element);
  return out;
}

}  // namespace dsv4mx::test
