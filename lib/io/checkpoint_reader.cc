#include "lib/io/checkpoint_reader.h"

#include <dirent.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "dsv4mx.h"
#include "lib/io/safetensors_index.h"

namespace dsv4mx::io {
namespace {

// The index of DeepSeek-V4-Flash has about 6 MB.
constexpr size_t kMaxIndexBytes = size_t{256} << 20;

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool NameLess(const TensorView& a, const TensorView& b) {
  return a.name < b.name;
}

// Binary search in tensors sorted by name.
const TensorView* FindSorted(const std::vector<TensorView>& tensors, std::string_view name) {
  const auto it = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const TensorView& tensor, std::string_view want) { return tensor.name < want; });
  return it != tensors.end() && it->name == name ? &*it : nullptr;
}

}  // namespace

Status Checkpoint::Open(const char* path, std::unique_ptr<Checkpoint>* out) {
  out->reset();
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->label_ = Printable(path);
  std::error_code ignored;  // what cannot be looked at fails in open(), with the system's reason
  const Status status = std::filesystem::is_directory(path, ignored) ? checkpoint->OpenFolder(path)
                        : EndsWith(path, ".json")                    ? checkpoint->OpenIndex(path)
                                                                     : checkpoint->OpenFile(path);
  if (status.ok()) *out = std::move(checkpoint);
  return status;
}

Status Checkpoint::OpenShard(const std::string& path, Shard* out) {
  DSV4MX_TRY(MappedFile::Open(path.c_str(), &out->file));
  return ParseSafetensors(out->file.data(), out->file.size(), Printable(path).c_str(), &out->table);
}

Status Checkpoint::OpenFile(const std::string& path) {
  Shard shard;
  DSV4MX_TRY(OpenShard(path, &shard));
  tensors_ = std::move(shard.table.tensors);
  std::sort(tensors_.begin(), tensors_.end(), NameLess);
  shards_.push_back(std::move(shard));
  return Status{};
}

Status Checkpoint::OpenIndex(const std::string& path) {
  const std::string label = Printable(path);
  MappedFile file;
  DSV4MX_TRY(MappedFile::Open(path.c_str(), &file));
  if (file.size() > kMaxIndexBytes) {
    return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: index of %zu bytes, at most %zu are read",
                label.c_str(), file.size(), kMaxIndexBytes);
  }
  std::vector<IndexEntry> entries;
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  DSV4MX_TRY(ParseSafetensorsIndex(text, label.c_str(), &entries));
  // The index decides: a tensor that it does not name is not part of the checkpoint.
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::map<std::string_view, size_t> opened;
  tensors_.reserve(entries.size());
  for (const IndexEntry& entry : entries) {
    const auto [it, is_new] = opened.emplace(entry.shard, shards_.size());
    if (is_new) {
      Shard shard;
      DSV4MX_TRY(OpenShard((folder / entry.shard).string(), &shard));
      std::sort(shard.table.tensors.begin(), shard.table.tensors.end(), NameLess);
      shards_.push_back(std::move(shard));
    }
    const TensorView* tensor = FindSorted(shards_[it->second].table.tensors, entry.tensor);
    if (tensor == nullptr) {
      return Fail(DSV4MX_STATUS_FORMAT_ERROR, "%s: tensor '%s' is not in its shard '%s'",
                  label.c_str(), Printable(entry.tensor).c_str(), Printable(entry.shard).c_str());
    }
    tensors_.push_back(*tensor);
  }
  return Status{};  // entries came sorted by name, so tensors_ is too
}

Status Checkpoint::OpenFolder(const std::string& path) {
  std::vector<std::string> indices;
  std::vector<std::string> files;
  // Not a directory_iterator, which ends the process when memory runs out inside it (GCC 12).
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(path.c_str()), closedir);
  int error = folder == nullptr ? errno : 0;
  while (folder != nullptr) {
    errno = 0;
    const dirent* entry = readdir(folder.get());
    if (entry == nullptr) {
      error = errno;
      break;
    }
    const std::string_view name = entry->d_name;
    const bool is_index = EndsWith(name, ".safetensors.index.json");
    if (!is_index && !EndsWith(name, ".safetensors")) continue;
    (is_index ? indices : files).push_back((std::filesystem::path(path) / name).string());
  }
  if (error != 0) {
    return Fail(DSV4MX_STATUS_IO_ERROR, "%s: cannot list the folder: %s", label_.c_str(),
                std::system_category().message(error).c_str());
  }
  if (indices.size() == 1) return OpenIndex(indices[0]);
  if (indices.empty() && files.size() == 1) return OpenFile(files[0]);
  if (indices.empty() && files.empty()) {
    return Fail(DSV4MX_STATUS_IO_ERROR, "%s: no .safetensors file in this folder", label_.c_str());
  }
  return Fail(DSV4MX_STATUS_IO_ERROR,
              "%s: %zu .safetensors files and %zu indices in this folder, expected one index or "
              "one file: name the one to read",
              label_.c_str(), files.size(), indices.size());
}

const TensorView* Checkpoint::Find(std::string_view name) const {
  return FindSorted(tensors_, name);
}

std::pair<const TensorView*, const TensorView*> Checkpoint::WithPrefix(
    std::string_view prefix) const {
  const auto first = std::lower_bound(
      tensors_.begin(), tensors_.end(), prefix,
      [](const TensorView& tensor, std::string_view want) { return tensor.name < want; });
  const auto last = std::partition_point(first, tensors_.end(), [&](const TensorView& tensor) {
    return tensor.name.substr(0, prefix.size()) == prefix;
  });
  const TensorView* base = tensors_.data();
  return {base + (first - tensors_.begin()), base + (last - tensors_.begin())};
}

}  // namespace dsv4mx::io
