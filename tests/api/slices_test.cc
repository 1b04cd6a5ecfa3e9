// Tensor-parallel slices of the models' true sizes, out of every form of a checkpoint, by set and by Marlin import: each slice
// is the same bytes whatever it came from, and the slices together are the layer.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/checkpoint_forms.h"
#include "tests/file_faults.h"
#include "tests/runner.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

struct Channels {
  int32_t first, count;
};

// The even cut, or where a rank's channels are no whole groups the nearest in units of 32.
std::vector<Channels> Cut(int32_t intermediate, int32_t ranks) {
  std::vector<Channels> cut;
  const int32_t units = intermediate / 32;
  for (int32_t r = 0; r < ranks; ++r) {
    const int32_t begin = units * r / ranks, end = units * (r + 1) / ranks;
    cut.push_back({begin * 32, (end - begin) * 32});
  }
  return cut;
}

// Prepared weights whose bytes can be looked at.
class Slice {
 public:
  Slice(const Case& c, int32_t rank, int32_t ranks, const Channels& channels) {
    dsv4mx_layer_desc desc = DescOf(c);
    desc.out_dtype = DSV4MX_DTYPE_F32;
    desc.tp_rank = rank;
    desc.tp_size = ranks;
    if (c.p.intermediate % (32 * ranks) != 0) {
      desc.intermediate_first = channels.first;
      desc.intermediate_count = channels.count;
    }
    layer_ = MakeLayer(ContextOf(c.p), desc);
    info_.struct_size = sizeof info_;
    Must(dsv4mx_layer_query(layer_.get(), &info_), "layer_query");
    bytes_.resize(static_cast<size_t>(info_.prepared_bytes + info_.prepared_alignment), 0xEE);
    const auto at = reinterpret_cast<uintptr_t>(bytes_.data());
    const auto a = static_cast<uintptr_t>(info_.prepared_alignment);
    offset_ = (a - at % a) % a;
    dsv4mx_weights_desc where = DSV4MX_WEIGHTS_DESC_INIT;
    where.memory = bytes_.data() + offset_;
    where.memory_bytes = static_cast<size_t>(info_.prepared_bytes);
    dsv4mx_weights* made = nullptr;
    Must(dsv4mx_weights_create(layer_.get(), &where, &made), "weights_create");
    weights_.reset(made);
  }
  dsv4mx_weights* weights() { return weights_.get(); }
  const dsv4mx_layer* layer() const { return layer_.get(); }
  const dsv4mx_layer_info& info() const { return info_; }
  Slice& Prepare() {
    Must(dsv4mx_weights_prepare(weights_.get(), nullptr, nullptr), "prepare");
    return *this;
  }
  bool SameBytes(const Slice& other) const {
    return info_.prepared_bytes == other.info_.prepared_bytes &&
           std::memcmp(bytes_.data() + offset_, other.bytes_.data() + other.offset_,
                       static_cast<size_t>(info_.prepared_bytes)) == 0;
  }

 private:
  std::vector<uint8_t> bytes_;
  size_t offset_ = 0;
  dsv4mx_layer_info info_{};
  LayerPtr layer_;
  WeightsPtr weights_;
};

void SetView(dsv4mx_weights* w, const char* name, int32_t e, const std::vector<uint8_t>& all,
             int64_t row_bytes, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  dsv4mx_tensor t = Tensor(all.data() + row * row_bytes + column, DSV4MX_DTYPE_U8, {rows, columns});
  t.stride[0] = row_bytes;
  t.stride[1] = 1;
  Must(dsv4mx_weights_set(w, name, e, &t, nullptr, nullptr), name);
}

// By strided views of the caller's memory, in the case's nibble order.
void SetSlice(const Case& c, const Channels& at, dsv4mx_weights* w) {
  const int64_t h = c.p.hidden, i = c.p.intermediate, first = at.first, n = at.count;
  for (int32_t e = 0; e < c.p.experts; ++e) {
    ExpertData d = *c.Expert(e);
    for (std::vector<uint8_t>& codes : d.codes) {
      if (c.p.nibble == DSV4MX_NIBBLE_ORDER_LOW_FIRST) continue;
      for (uint8_t& b : codes) b = static_cast<uint8_t>(b << 4 | b >> 4);
    }
    SetView(w, "w1.weight", e, d.codes[kGate], h / 2, first, n, 0, h / 2);
    SetView(w, "w1.scale", e, d.scales[kGate], h / 32, first, n, 0, h / 32);
    SetView(w, "w3.weight", e, d.codes[kUp], h / 2, first, n, 0, h / 2);
    SetView(w, "w3.scale", e, d.scales[kUp], h / 32, first, n, 0, h / 32);
    SetView(w, "w2.weight", e, d.codes[kDown], i / 2, 0, h, first / 2, n / 2);
    SetView(w, "w2.scale", e, d.scales[kDown], i / 32, 0, h, first / 32, n / 32);
    const auto bias = [&](const char* name, const std::vector<float>& values, int64_t rows) {
      const dsv4mx_tensor t = Tensor(values.data(), DSV4MX_DTYPE_F32, {rows});
      Must(dsv4mx_weights_set(w, name, e, &t, nullptr, nullptr), name);
    };
    if (c.p.w13_bias != 0) {
      bias("gate_proj.bias", {d.bias[kGate].begin() + first, d.bias[kGate].begin() + first + n}, n);
      bias("up_proj.bias", {d.bias[kUp].begin() + first, d.bias[kUp].begin() + first + n}, n);
    }
    if (c.p.w2_bias != 0) bias("w2_bias", d.bias[kDown], h);
  }
}

// Out of a rank's own Marlin tensors, as an engine holds them.
void ImportSlice(const Slice& from, const Case& c, dsv4mx_weights* to) {
  dsv4mx_marlin m = DSV4MX_MARLIN_INIT;
  Must(dsv4mx_layer_query_marlin(from.layer(), &m), "query_marlin");
  const auto e = static_cast<size_t>(c.p.experts), h = static_cast<size_t>(m.hidden_padded),
             i = static_cast<size_t>(m.intermediate_padded);
  std::vector<uint8_t> w13(e * i * h), s13(e * 2 * i * h / 32), w2(e * i * h / 2),
      s2(e * i * h / 32), b13(e * 2 * i * 4), b2(e * h * 4);
  m.w13 = w13.data(), m.w13_scale = s13.data(), m.w2 = w2.data(), m.w2_scale = s2.data();
  m.bias_dtype = DSV4MX_DTYPE_F32;
  if (c.p.w13_bias != 0) m.w13_bias = b13.data();
  if (c.p.w2_bias != 0 && from.info().intermediate_first == 0) m.w2_bias = b2.data();
  Must(dsv4mx_weights_export_marlin(const_cast<Slice&>(from).weights(), &m, nullptr, nullptr),
       "export");
  Must(dsv4mx_weights_import_marlin(to, &m, nullptr, nullptr), "import");
}

void LoadSlice(const std::string& path, dsv4mx_weights* to) {
  dsv4mx_checkpoint* checkpoint = nullptr;
  Must(dsv4mx_checkpoint_create(path.c_str(), nullptr, &checkpoint), "checkpoint_create");
  const dsv4mx_status status = dsv4mx_weights_load(to, checkpoint, Block(0), nullptr, nullptr);
  dsv4mx_checkpoint_destroy(checkpoint);
  Must(status, "load");
}

double Distance(const std::vector<double>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / norm);
}

// Slices of one layer for these numbers of ranks; the first of them is 1, whose slice is the layer.
void CheckSlices(const std::string& problem, const std::vector<Form>& forms,
                 const std::vector<int32_t>& sizes) {
  const Case c = MakeCase(problem + " out=f32");
  Case truth = c;
  truth.p.oracle = DSV4MX_ORACLE_TRUTH;
  const Output want = Runner(truth).Apply();
  Output whole;
  std::vector<std::unique_ptr<TempFolder>> folders;
  std::vector<std::string> paths;
  std::vector<int64_t> file_bytes(forms.size());
  for (size_t f = 0; f < forms.size(); ++f) {
    folders.push_back(std::make_unique<TempFolder>());
    paths.push_back(WriteForm(folders.back()->path(), forms[f], c, &file_bytes[f]));
  }
  for (const int32_t ranks : sizes) {
    const std::vector<Channels> cut = Cut(c.p.intermediate, ranks);
    std::vector<double> sum;
    std::vector<int64_t> read(forms.size());
    for (int32_t rank = 0; rank < ranks; ++rank) {
      INFO(problem << ", rank " << rank << " of " << ranks);
      const Channels& at = cut[static_cast<size_t>(rank)];
      Slice given(c, rank, ranks, at);
      CHECK(given.info().intermediate_first == at.first);
      CHECK(given.info().intermediate_count == at.count);
      SetSlice(c, at, given.weights());
      given.Prepare();
      const Output y = ApplyGuarded(ContextOf(c.p), given.layer(), given.weights(), c.p, c.in);
      REQUIRE(y.damage == "");
      sum.resize(y.y.size());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += y.y[i];
      if (ranks == 1) whole = y;
      Slice imported(c, rank, ranks, at);
      ImportSlice(given, c, imported.weights());
      CHECK(imported.Prepare().SameBytes(given));
      for (size_t f = 0; f < forms.size(); ++f) {
        INFO(NameOf(forms[f]));
        if (c.p.w13_bias != 0 && !HasBiases(forms[f])) continue;
        Slice loaded(c, rank, ranks, at);
        const int64_t before = ReadsSoFar().bytes;
        LoadSlice(paths[f], loaded.weights());
        read[f] += ReadsSoFar().bytes - before;
        CHECK(loaded.Prepare().SameBytes(given));
      }
    }
    INFO(problem << ", " << ranks << " ranks");
    CHECK(Distance(sum, want.y) < 3e-3);
    CHECK(Distance(sum, whole.y) < 3e-6);  // fp32 sums in another order
    for (size_t f = 0; f < forms.size(); ++f) {
      if (c.p.w13_bias != 0 && !HasBiases(forms[f])) continue;
      INFO(NameOf(forms[f]) << ": read " << read[f] << " of " << file_bytes[f]);
      // All ranks together: gate and up once, of down each rank every row at most once. Beside it the headers.
      const double all = static_cast<double>(file_bytes[f]);
      CHECK(static_cast<double>(read[f]) <= all * (2.0 + ranks) / 3 + 70000 * ranks);
      // Of very long rows each rank reads its columns alone.
      const double least = c.p.intermediate == 65536 ? all : all * (2.0 + ranks) / 3;
      CHECK(static_cast<double>(read[f]) >= 0.9 * least);
    }
  }
}

const std::vector<Form> kAllForms(std::begin(kForms), std::end(kForms));

TEST_CASE("slices of small layers with every form, every rank", "[slices][checkpoint]") {
  CheckSlices("h=96 i=320 e=3 k=2 m=5 clamp=1", kAllForms, {1, 2, 5, 10, 4, 3});
  CheckSlices("h=160 i=288 e=3 k=2 m=5 act=gptoss bias=1", kAllForms, {1, 3, 9, 2});
  CheckSlices("h=64 i=64 e=2 k=1 m=3 nibble=high", {Form::kGguf, Form::kGgufFused}, {1, 2});
  // Rows of blocks that are longer than what is read of them at once.
  CheckSlices("h=32 i=65536 e=1 k=1 m=2", {Form::kGguf}, {1, 2});
}

TEST_CASE("slices of the models' true sizes", "[slices][checkpoint]") {
  CheckSlices("h=5120 i=2304 e=1 k=1 m=2 clamp=10", {Form::kDeepSeek}, {1, 16});
  CheckSlices("h=2880 i=2880 e=1 k=1 m=2 act=gptoss clamp=7 bias=1", {Form::kGptOss}, {1, 8});
  CheckSlices("h=3584 i=3072 e=1 k=1 m=2", {Form::kCompressedTensors}, {1, 8});
}

TEST_CASE("slices of the models' true sizes, all forms and ranks", "[.][slices-full]") {
  for (const char* model :
       {"h=4096 i=2048 e=2 k=2 m=4 clamp=10", "h=7168 i=3072 e=2 k=2 m=4 clamp=10",
        "h=5120 i=2304 e=2 k=2 m=4 clamp=10", "h=2880 i=2880 e=2 k=2 m=4 act=gptoss clamp=7 bias=1",
        "h=3584 i=3072 e=2 k=2 m=4 act=situ situb=4 situl=25"}) {
    CheckSlices(model, kAllForms, {1, 2, 4, 8, 16});
  }
}

TEST_CASE("V4.1 over 16 ranks is refused as an even cut, and the text says what is legal",
          "[slices]") {
  dsv4mx_layer_desc desc = DescOf(MakeCase("h=5120 i=2304 e=1 k=1 m=1"));
  desc.tp_size = 16;
  dsv4mx_layer* layer = nullptr;
  REQUIRE_REFUSED(dsv4mx_layer_create(CpuContext(), &desc, &layer), DSV4MX_STATUS_UNSUPPORTED_SHAPE,
                  "2304,16,32");
}

}  // namespace
}  // namespace dsv4mx::test
