// An open checkpoint: one safetensors file, the shards that an index names, or a folder of them.
#ifndef DSV4MX_LIB_IO_CHECKPOINT_READER_H_
#define DSV4MX_LIB_IO_CHECKPOINT_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/control.h"
#include "lib/base/status.h"
#include "lib/io/file.h"
#include "lib/io/gguf.h"
#include "lib/io/safetensors.h"
#include "lib/io/safetensors_index.h"

namespace dsv4mx::io {

// One file of a checkpoint, opened when the first of its tensors is wanted.
struct Shard {
  std::string path;
  std::mutex mutex;  // guards the making of what follows; `opened` tells that it is done
  bool opened = false;
  File file;
  TensorTable table;  // owns names
  GgufKeys keys;      // of a GGUF file
};

// A tensor and the file that holds it. Valid as long as the checkpoint.
struct TensorPlace {
  Shard* shard = nullptr;
  TensorInfo info;

  // Copies bytes [offset, offset + bytes) of the tensor; the range is the caller's to check.
  Status Read(uint64_t offset, size_t bytes, void* to) const {
    return shard->file.Read(info.offset + offset, bytes, to);
  }
  void Prefetch(uint64_t offset, size_t bytes) const {
    shard->file.Prefetch(info.offset + offset, bytes);
  }
  // All of it where a mapping of the file has it.
  Status Map(const std::byte** out) const;
};

// Names do not change once it is open, and any number of threads may read.
class Checkpoint {
 public:
  struct Options {
    std::string_view prefix = {};      // only tensors whose names begin so are seen
    const Control* control = nullptr;  // told of files (OPEN); may end the call
    int threads = 0;                   // for threads()
  };
  // `path` is a .safetensors file, an index (*.json), or a folder (see ChooseFromFolder). Headers of
  // single files are checked in full before this returns; shards of an index are opened when a tensor
  // of theirs is wanted. Tensor bytes are not touched.
  static Status Open(const char* path, const Options& options, std::unique_ptr<Checkpoint>* out);

  // Names in order, each followed by a NUL.
  size_t size() const { return entries_.size(); }
  std::string_view name(size_t index) const { return entries_[index].name; }
  // The index of that name, or size().
  size_t Find(std::string_view name) const;
  // The indices of the names that start with `prefix`.
  std::pair<size_t, size_t> WithPrefix(std::string_view prefix) const;
  // Opens the tensor's file if no one has yet.
  Status Locate(size_t index, TensorPlace* out) const;

  // Prefixes under which experts stand ("model.layers.3.mlp."), in name order.
  const std::vector<std::string>& stems() const { return stems_; }

  // The keys of a GGUF file, of several the first file's; null for other formats.
  const GgufKeys* gguf_keys() const;

  // That read when layers are loaded; 0 = whoever reads chooses.
  int threads() const { return threads_; }

  // The path as given.
  const std::string& path() const { return path_; }
  // The same made printable: for messages.
  const std::string& label() const { return label_; }
  // "; it is one shard of 3 ..." where the path is a shard by itself, else "": for messages.
  std::string ShardHint() const;

 private:
  struct Entry {
    std::string_view name;
    uint32_t shard = 0;
  };
  // In several files: not the same tensor twice but parts of one, as ranks hold them.
  static constexpr uint32_t kAmbiguous = UINT32_MAX;

  Checkpoint() = default;
  static Status OpenShard(Shard* shard);
  Status AddFiles(const std::vector<std::string>& paths, bool ranks, const Control& control);
  Status AddIndex(const std::string& path);
  Status AddFolder(const std::string& path, const Control& control);
  void KeepPrefix(std::string_view prefix);
  void FindStems();

  std::string path_, label_;
  int threads_ = 0;
  WeightMap index_;                             // owns names where there is an index
  std::vector<std::unique_ptr<Shard>> shards_;  // the files' own state; the vector is fixed
  std::vector<Entry> entries_;                  // in name order
  std::vector<std::string> stems_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_CHECKPOINT_READER_H_
