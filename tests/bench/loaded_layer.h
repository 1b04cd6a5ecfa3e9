// A layer with prepared weights that outlives a problem: the next one that differs only in tokens or routing uses it
// again, because a real layer takes seconds to make.
#ifndef DSV4MX_TESTS_BENCH_LOADED_LAYER_H_
#define DSV4MX_TESTS_BENCH_LOADED_LAYER_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/runner.h"

namespace dsv4mx::bench {

class LoadedLayer {
 public:
  // Makes the problem's layer the current one: experts are made by all processors from the seed, as in the tests.
  void Use(const test::Problem& problem);

  const dsv4mx_context* context() const { return context_; }
  const dsv4mx_layer* layer() const { return layer_.get(); }
  const dsv4mx_weights* weights() const { return weights_.get(); }
  dsv4mx_layer_info info() const;
  std::string Plan(int64_t tokens) const;
  double load_seconds() const { return load_seconds_; }  // of the last real load

 private:
  std::string key_;
  const dsv4mx_context* context_ = nullptr;
  test::LayerPtr layer_;
  test::WeightsPtr weights_;
  double load_seconds_ = 0;
};

// What one apply has to do at least.
struct Work {
  double experts = 0;  // hit
  double bytes = 0;    // of their codes and scales
  double flop = 0;
};

// Inputs on the layer's device. The ids come in several rotations that hit other experts each time, so that what is
// read is not found in a cache; the last apply of a round has the problem's own ids, and leaves the output to judge.
class DeviceCase {
 public:
  DeviceCase(const LoadedLayer& loaded, const test::Case& c, int rotations);

  int rotations() const { return static_cast<int>(ids_.size()); }
  const Work& work() const { return work_; }  // mean over the rotations

  void Apply(int rotation, dsv4mx_stream stream) const;
  // The same from buffers that WriteInputs fills on the stream: ids and x that no earlier kernel can have read ahead.
  void WriteInputs(int rotation, dsv4mx_stream stream) const;
  void ApplyWritten(dsv4mx_stream stream) const;
  // What these two pass, for whoever runs the stages of an apply by themselves.
  dsv4mx_apply_args Args(int rotation) const;
  dsv4mx_apply_args WrittenArgs() const;
  test::Output Read() const;

 private:
  struct Free {
    const dsv4mx_context* context;
    void operator()(void* p) const;
  };
  void* Alloc(size_t bytes);
  void* Upload(const void* from, size_t bytes);

  const LoadedLayer& loaded_;
  const test::Problem p_;
  std::vector<void*> ids_;
  void* written_ids_ = nullptr;
  void* written_x_ = nullptr;
  size_t ids_bytes_ = 0, x_bytes_ = 0;
  std::vector<std::unique_ptr<void, Free>> memory_;
  dsv4mx_apply_args args_ = DSV4MX_APPLY_ARGS_INIT;
  size_t out_bytes_ = 0;
  Work work_;
};

Work WorkOf(const test::Case& c, const std::vector<int64_t>& ids);

// Ids that hit other experts in the same pattern.
std::vector<int64_t> Rotate(const test::Problem& p, const std::vector<int64_t>& ids, int rotation,
                            int rotations);

// Enough that a round reads far more than a cache holds.
int DefaultRotations(const test::Case& c);

}  // namespace dsv4mx::bench

#endif  // DSV4MX_TESTS_BENCH_LOADED_LAYER_H_
