// Streams and graphs of the tests, destroyed whatever happens.
#ifndef DSV4MX_TESTS_GPU_STREAMS_H_
#define DSV4MX_TESTS_GPU_STREAMS_H_

#include "tests/gpu/cuda_must.h"

namespace dsv4mx::test {

// Non-blocking, as an engine's streams are: nothing waits for the default stream or makes it wait.
class Stream {
 public:
  Stream() { CUDA_MUST(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void Wait() const { CUDA_MUST(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

class Graph {
 public:
  // Captures what enqueue(stream) does. An exception out of it ends the capture.
  template <class Enqueue>
  explicit Graph(Enqueue&& enqueue, cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal) {
    const Stream stream;
    cudaGraph_t graph = nullptr;
    CUDA_MUST(cudaStreamBeginCapture(stream.get(), mode));
    try {
      enqueue(stream.get());
    } catch (...) {
      cudaStreamEndCapture(stream.get(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    CUDA_MUST(cudaStreamEndCapture(stream.get(), &graph));
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph, 0);
    size_t nodes = 0;
    if (error == cudaSuccess && cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess)
      nodes_ = nodes;
    cudaGraphDestroy(graph);
    CUDA_MUST(error);
  }
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  size_t nodes() const { return nodes_; }
  void Launch(const Stream& stream) const { CUDA_MUST(cudaGraphLaunch(executable_, stream.get())); }

 private:
  cudaGraphExec_t executable_ = nullptr;
  size_t nodes_ = 0;
};

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_GPU_STREAMS_H_
