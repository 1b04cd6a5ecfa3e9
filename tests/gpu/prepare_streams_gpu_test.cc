// Preparation on the caller's streams: what is given in device memory is read in stream order and not looked at afterwards,
// exports are written in stream order, prepared weights are used at once on any stream, and exports run side by side.
// Where something has to be late, the stream is kept busy first, so that whoever does not wait meets 0xFF: scales that are
// refused, codes and biases that are wrong.
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/catch.h"
#include "tests/gpu/gpu_data.h"
#include "tests/gpu/gpu_judge.h"
#include "tests/gpu/marlin_tensors.h"
#include "tests/gpu/streams.h"

namespace dsv4mx::test {
namespace {

constexpr int64_t kLate = 3'000'000;  // clock cycles: between one and two milliseconds

const char* const kCases[] = {"h=160 i=96 e=4 k=3 m=40 bias=bf16",
                              "h=288 i=160 e=3 k=2 m=9 bias=f32 order=interleaved path=bf16",
                              "h=96 i=288 e=3 k=2 m=400 scales=120..140"};

// A tensor whose bytes come to their place on a stream, some time after they were asked for, and do not stay there.
class Passing {
 public:
  Passing(const void* bytes, size_t n, size_t alignment)
      : source_(n, alignment), place_(n, alignment) {
    source_.Upload(bytes, n);
    place_.Fill(0xFF);
  }
  void Arrive(const Stream& stream) const {
    KeepBusy(stream.get(), 1, kLate);
    CUDA_MUST(cudaMemcpyAsync(place_.data(), source_.data(), source_.bytes(),
                              cudaMemcpyDeviceToDevice, stream.get()));
  }
  void Leave(const Stream& stream) const {
    CUDA_MUST(cudaMemsetAsync(place_.data(), 0xFF, place_.bytes(), stream.get()));
  }
  uint8_t* place() const { return place_.data(); }
  std::string Damage() const { return source_.Damage() + place_.Damage(); }

 private:
  DeviceBuffer source_, place_;
};

// The tensors of all experts of a case, to be set one by one on streams taken by turns.
class Arrivals {
 public:
  explicit Arrivals(const Case& c) {
    for (int32_t e = 0; e < c.p.LocalExperts(); ++e) {
      for (NamedTensor& t : TensorsOf(c.p, e, *c.Expert(e))) {
        passing_.push_back(std::make_unique<Passing>(t.bytes.data(), t.bytes.size(), 4));
        tensors_.push_back(std::move(t));
      }
    }
  }
  void SetAll(dsv4mx_weights* weights, const std::vector<const Stream*>& streams) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const Stream& stream = *streams[i % streams.size()];
      const NamedTensor& t = tensors_[i];
      dsv4mx_tensor view = t.View();
      view.data = passing_[i]->place();
      view.memory = DSV4MX_MEMORY_DEVICE;
      passing_[i]->Arrive(stream);
      Must(dsv4mx_weights_set(weights, t.name.c_str(), t.expert, &view, nullptr, stream.get()),
           t.name.c_str());
      passing_[i]->Leave(stream);
    }
  }
  std::string Damage() const {
    std::string all;
    for (const auto& p : passing_) all += p->Damage();
    return all;
  }

 private:
  std::vector<NamedTensor> tensors_;
  std::vector<std::unique_ptr<Passing>> passing_;
};

void Apply(const GpuLayer& layer, const dsv4mx_weights* weights, GpuCall* call,
           const Stream& stream) {
  Must(dsv4mx_layer_apply(layer.layer(), weights, &call->args(), stream.get()), "layer_apply");
}

TEST_CASE("gpu streams: set, prepare and apply on one stream, without a wait of the host between",
          "[gpu][gpu-quick][streams]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    const Case c = MakeCase(GpuProblem(text));
    INFO(ProblemText(c.p));
    const GpuLayer layer(c);
    GpuCall want(layer, c.in), got(layer, c.in), elsewhere(layer, c.in);
    CHECK(RunAndJudge(&want) == "");
    const Arrivals arrivals(c);
    const Stream stream, other;
    const WeightsPtr weights = MakeWeights(layer.layer());
    arrivals.SetAll(weights.get(), {&stream});
    REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, stream.get()));
    Apply(layer, weights.get(), &got, stream);
    Apply(layer, weights.get(), &elsewhere, other);  // prepared weights are for any stream
    stream.Wait(), other.Wait();
    CHECK(SameRows(want, got) == "");
    CHECK(SameRows(want, elsewhere) == "");
    CHECK(got.Damage() + elsewhere.Damage() == "");
    CHECK(arrivals.Damage() == "");
    CHECK(ExportMarlin(layer, weights.get()) == ExportMarlin(layer, layer.weights()));
  }
}

TEST_CASE("gpu streams: tensors set on several streams, prepared on another",
          "[gpu][gpu-quick][streams]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    const Case c = MakeCase(GpuProblem(text));
    INFO(ProblemText(c.p));
    const GpuLayer layer(c);
    GpuCall want(layer, c.in), got(layer, c.in);
    CHECK(RunAndJudge(&want) == "");
    const Arrivals arrivals(c);
    const Stream streams[3], preparing, applying;
    const WeightsPtr weights = MakeWeights(layer.layer());
    arrivals.SetAll(weights.get(), {&streams[0], &streams[1], &streams[2]});
    REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, preparing.get()));
    Apply(layer, weights.get(), &got, applying);
    applying.Wait();
    CHECK(SameRows(want, got) == "");
    CHECK(ExportMarlin(layer, weights.get()) == ExportMarlin(layer, layer.weights()));
    for (const Stream& s : streams) s.Wait();
    CHECK(arrivals.Damage() == "");
  }
}

TEST_CASE("gpu streams: Marlin tensors are read and written in stream order",
          "[gpu][gpu-quick][streams]") {
  REQUIRE_GPU();
  for (const char* text : kCases) {
    const Case c = MakeCase(GpuProblem(text));
    INFO(ProblemText(c.p));
    const GpuLayer layer(c);
    GpuCall want(layer, c.in), got(layer, c.in);
    CHECK(RunAndJudge(&want) == "");
    const std::vector<std::vector<uint8_t>> tensors = ExportMarlin(layer, layer.weights());
    const Stream stream;

    // Written late, copied away on the stream, and overwritten there.
    MarlinTensors out(layer, DSV4MX_MEMORY_DEVICE), kept(layer, DSV4MX_MEMORY_DEVICE);
    out.Fill(0xEE), kept.Fill(0xEE);
    KeepBusy(stream.get(), 1, kLate);
    REQUIRE_OK(dsv4mx_weights_export_marlin(layer.weights(), &out.desc(), nullptr, stream.get()));
    for (int t = 0; t < MarlinTensors::kTensors; ++t) {
      if (out.bytes(t) == 0) continue;
      CUDA_MUST(cudaMemcpyAsync(kept.data(t), out.data(t), out.bytes(t), cudaMemcpyDeviceToDevice,
                                stream.get()));
      CUDA_MUST(cudaMemsetAsync(out.data(t), 0xEE, out.bytes(t), stream.get()));
    }
    stream.Wait();
    CHECK(kept.Read() == tensors);
    CHECK(out.Damage() == "");

    // Read late, and gone as soon as the stream has passed.
    std::vector<std::unique_ptr<Passing>> passing;
    dsv4mx_marlin marlin = kept.desc();
    void** const fields[] = {&marlin.w13, &marlin.w13_scale, &marlin.w13_bias,
                             &marlin.w2,  &marlin.w2_scale,  &marlin.w2_bias};
    for (size_t t = 0; t < tensors.size(); ++t) {
      if (tensors[t].empty()) continue;
      passing.push_back(std::make_unique<Passing>(tensors[t].data(), tensors[t].size(), 4));
      *fields[t] = passing.back()->place();
    }
    const WeightsPtr weights = MakeWeights(layer.layer());
    for (const auto& p : passing) p->Arrive(stream);
    REQUIRE_OK(dsv4mx_weights_import_marlin(weights.get(), &marlin, nullptr, stream.get()));
    for (const auto& p : passing) p->Leave(stream);
    REQUIRE_OK(dsv4mx_weights_prepare(weights.get(), nullptr, stream.get()));
    Apply(layer, weights.get(), &got, stream);
    stream.Wait();
    CHECK(SameRows(want, got) == "");
    CHECK(ExportMarlin(layer, weights.get()) == tensors);
    for (const auto& p : passing) CHECK(p->Damage() == "");
  }
}

TEST_CASE("gpu streams: exports of four threads and applies at once on one weights object",
          "[gpu][gpu-quick][streams]") {
  REQUIRE_GPU();
  // A tensor in host memory is staged in several pieces here.
  for (const char* text :
       {"h=2880 i=288 e=2 k=2 m=33 bias=bf16", "h=160 i=96 e=4 k=3 m=40 bias=f32"}) {
    const Case c = GpuCase(text);
    INFO(ProblemText(c.p));
    const GpuLayer layer(c);
    GpuCall want(layer, c.in), got(layer, c.in);
    CHECK(RunAndJudge(&want) == "");
    const std::vector<std::vector<uint8_t>> tensors = ExportMarlin(layer, layer.weights());
    constexpr size_t kThreads = 4;
    std::string result[kThreads];
    std::vector<std::thread> threads;
    for (size_t n = 0; n < kThreads; ++n) {
      threads.emplace_back([&, n] {
        try {
          const Stream stream;
          MarlinTensors out(layer, n % 2 == 0 ? DSV4MX_MEMORY_HOST : DSV4MX_MEMORY_DEVICE);
          for (int i = 0; i < 10 && result[n].empty(); ++i) {
            out.Fill(0xEE);
            // Threads 0 and 1 on the default stream, as a caller without streams.
            Must(dsv4mx_weights_export_marlin(layer.weights(), &out.desc(), nullptr,
                                              n < 2 ? nullptr : stream.get()),
                 "export_marlin");
            if (n < 2)
              Must(dsv4mx_context_synchronize(layer.context(), nullptr), "synchronize");
            else
              stream.Wait();
            if (out.Read() != tensors) result[n] = "export " + std::to_string(i) + " differs";
          }
          if (result[n].empty()) result[n] = out.Damage();
        } catch (const std::exception& e) {
          result[n] = e.what();
        }
      });
    }
    std::string applied;
    try {
      const Stream stream;
      for (int i = 0; i < 50 && applied.empty(); ++i) {
        Apply(layer, layer.weights(), &got, stream);
        stream.Wait();
        applied = SameRows(want, got);
      }
    } catch (const std::exception& e) {
      applied = e.what();
    }
    for (std::thread& t : threads) t.join();
    for (const std::string& r : result) CHECK(r == "");
    CHECK(applied == "");
  }
}

}  // namespace
}  // namespace dsv4mx::test
