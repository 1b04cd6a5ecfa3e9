// An open checkpoint: one safetensors file, or the shards that an index names.
#ifndef DSV4MX_LIB_IO_CHECKPOINT_READER_H_
#define DSV4MX_LIB_IO_CHECKPOINT_READER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"
#include "lib/io/mapped_file.h"
#include "lib/io/safetensors.h"

namespace dsv4mx::io {

// Immutable once open, so any number of threads may read it.
class Checkpoint {
 public:
  // `path` is a .safetensors file, an index (*.json), or a folder that holds an index or one file.
  // Every header is checked before this returns; tensor bytes are not touched.
  static Status Open(const char* path, std::unique_ptr<Checkpoint>* out);

  // The tensor of that name, or nullptr. Valid as long as the checkpoint.
  const TensorView* Find(std::string_view name) const;

  // All tensors in name order.
  size_t size() const { return tensors_.size(); }
  const TensorView& operator[](size_t index) const { return tensors_[index]; }
  std::vector<TensorView>::const_iterator begin() const { return tensors_.begin(); }
  std::vector<TensorView>::const_iterator end() const { return tensors_.end(); }
  // The tensors whose names start with `prefix`, as a range in name order.
  std::pair<const TensorView*, const TensorView*> WithPrefix(std::string_view prefix) const;

  // Path as given, made printable: for messages.
  const std::string& label() const { return label_; }

 private:
  struct Shard {
    MappedFile file;
    TensorTable table;  // owns the names
  };

  Checkpoint() = default;
  Status OpenShard(const std::string& path, Shard* out);
  Status OpenFile(const std::string& path);
  Status OpenIndex(const std::string& path);
  Status OpenFolder(const std::string& path);

  std::string label_;
  std::vector<Shard> shards_;
  std::vector<TensorView> tensors_;  // sorted by name
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_CHECKPOINT_READER_H_
