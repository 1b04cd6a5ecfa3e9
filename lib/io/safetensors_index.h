// model.safetensors.index.json: which shard holds which tensor.
#ifndef DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_
#define DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/status.h"

namespace dsv4mx::io {

// Tensors in name order, in about as many bytes as their names have and 12 more each.
class WeightMap {
 public:
  size_t size() const { return rows_.size(); }
  // Followed by a NUL.
  std::string_view name(size_t index) const {
    return {names_.data() + rows_[index].name, rows_[index].length};
  }
  // An index into shards().
  uint32_t shard(size_t index) const { return rows_[index].shard; }
  // Plain file names: no folder, so an index cannot point outside its own.
  const std::vector<std::string>& shards() const { return shards_; }

 private:
  friend class IndexHandler;
  friend Status ParseSafetensorsIndex(std::string_view text, const char* label, WeightMap* out);
  struct Row {
    uint32_t name = 0, length = 0, shard = 0;
  };
  std::string names_;
  std::vector<Row> rows_;
  std::vector<std::string> shards_;
};

// Reads {"metadata": anything, "weight_map": {"tensor": "shard file"}}; `label` names the file in
// messages. On failure *out is left empty.
Status ParseSafetensorsIndex(std::string_view text, const char* label, WeightMap* out);

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_SAFETENSORS_INDEX_H_
