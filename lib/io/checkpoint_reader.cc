#include "lib/io/checkpoint_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "lib/base/names.h"
#include "lib/base/printable.h"
#include "lib/io/folder.h"
#include "lib/io/gguf.h"

namespace dsv4mx::io {
namespace {

// The index of DeepSeek-V4-Flash has 6 MB; one of the largest MXFP4 model would have 60.
constexpr size_t kMaxIndexBytes = size_t{128} << 20;

std::string FolderOf(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

std::string LastComponent(const std::string& path) {
  return path.substr(path.find_last_of('/') + 1);
}

}  // namespace

Status TensorPlace::Map(const std::byte** out) const {
  const std::lock_guard lock(shard->mutex);
  DSV4MX_TRY(shard->file.Map(out));
  if (*out != nullptr) *out += info.offset;
  return kOk;
}

Status Checkpoint::Open(const char* path, const Options& options,
                        std::unique_ptr<Checkpoint>* out) {
  out->reset();
  std::unique_ptr<Checkpoint> c(new Checkpoint);
  c->path_ = path;
  c->threads_ = options.threads;
  c->label_ = PrintablePath(path);
  const Control none;
  const Control& control = options.control == nullptr ? none : *options.control;
  struct stat info {};  // what cannot be looked at fails in open(), with the system's reason
  const bool is_folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
  DSV4MX_TRY(is_folder                     ? c->AddFolder(c->path_, control)
             : c->path_.ends_with(".json") ? c->AddIndex(c->path_)
                                           : c->AddFiles({c->path_}, false, control));
  c->KeepPrefix(options.prefix);
  c->FindStems();
  *out = std::move(c);
  return kOk;
}

Status Checkpoint::OpenShard(Shard* shard) {
  const std::string label = PrintablePath(shard->path);
  File file;
  DSV4MX_TRY(File::Open(shard->path, &file));
  char head[kHeadBytes];
  const size_t head_bytes = static_cast<size_t>(std::min<uint64_t>(file.size(), kHeadBytes));
  DSV4MX_TRY(file.Read(0, head_bytes, head));
  if (IsGguf({head, head_bytes})) {
    const auto read = [&](uint64_t offset, size_t bytes, void* to) {
      return file.Read(offset, bytes, to);
    };
    DSV4MX_TRY(ParseGguf(read, file.size(), label.c_str(), &shard->table, &shard->keys));
    shard->file = std::move(file);
    shard->opened = true;
    return kOk;
  }
  uint64_t header_bytes = 0;
  DSV4MX_TRY(ParseSafetensorsHead({head, head_bytes}, file.size(), label.c_str(), &header_bytes));
  std::string header(static_cast<size_t>(header_bytes), '\0');
  DSV4MX_TRY(file.Read(8, header.size(), header.data()));
  DSV4MX_TRY(ParseSafetensorsHeader(header, file.size(), label.c_str(), &shard->table));
  shard->file = std::move(file);
  shard->opened = true;
  return kOk;
}

// All tensors of some files. Of files of `ranks` a name may stand in several.
Status Checkpoint::AddFiles(const std::vector<std::string>& paths, bool ranks,
                            const Control& control) {
  const auto count = static_cast<int64_t>(paths.size());
  for (const std::string& path : paths) {
    DSV4MX_TRY(control.Report(DSV4MX_STAGE_OPEN, static_cast<int64_t>(shards_.size()), count));
    auto shard = std::make_unique<Shard>();
    shard->path = path;
    DSV4MX_TRY(OpenShard(shard.get()));
    const auto number = static_cast<uint32_t>(shards_.size());
    entries_.reserve(entries_.size() + shard->table.size());
    for (size_t i = 0; i < shard->table.size(); ++i) {
      entries_.push_back({shard->table.name(i), number});
    }
    shards_.push_back(std::move(shard));
  }
  DSV4MX_TRY(control.Report(DSV4MX_STAGE_OPEN, count, count));
  if (paths.size() == 1) return kOk;  // a table is in name order
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return a.name != b.name ? a.name < b.name : a.shard < b.shard;
  });
  size_t kept = 0;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (kept > 0 && entries_[kept - 1].name == entries_[i].name) {
      const uint32_t other = entries_[kept - 1].shard;
      DSV4MX_RETURN_IF(!ranks, DSV4MX_STATUS_FORMAT_ERROR,
                       "%s: tensor '%s' is in two shards, '%s' and '%s'", label_.c_str(),
                       Printable(entries_[i].name).c_str(),
                       Printable(LastComponent(paths[other])).c_str(),
                       Printable(LastComponent(paths[entries_[i].shard])).c_str());
      entries_[kept - 1].shard = kAmbiguous;
      continue;
    }
    entries_[kept++] = entries_[i];
  }
  entries_.resize(kept);
  return kOk;
}

Status Checkpoint::AddIndex(const std::string& path) {
  std::string text;
  DSV4MX_TRY(ReadWhole(path, kMaxIndexBytes, "index", &text));
  DSV4MX_TRY(ParseSafetensorsIndex(text, PrintablePath(path).c_str(), &index_));
  const std::string folder = FolderOf(path);
  for (const std::string& name : index_.shards()) {
    shards_.push_back(std::make_unique<Shard>());
    shards_.back()->path = folder + name;
  }
  // The index decides: a tensor that it does not name is not part of the checkpoint.
  entries_.reserve(index_.size());
  for (size_t i = 0; i < index_.size(); ++i) entries_.push_back({index_.name(i), index_.shard(i)});
  return kOk;
}

Status Checkpoint::AddFolder(const std::string& path, const Control& control) {
  FolderChoice choice;
  DSV4MX_TRY(ChooseFromFolder(path, &choice));
  if (choice.kind == FolderChoice::kIndex) return AddIndex(choice.paths[0]);
  return AddFiles(choice.paths, choice.kind == FolderChoice::kRanks, control);
}

void Checkpoint::KeepPrefix(std::string_view prefix) {
  if (prefix.empty()) return;
  const auto [first, last] = WithPrefix(prefix);
  entries_.resize(last);
  entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(first));
}

void Checkpoint::FindStems() {
  for (const Entry& entry : entries_) {
    std::string_view stem, rest;
    if (!FindExpertsStem(entry.name, &stem, &rest)) continue;
    if (stems_.empty() || stems_.back() != stem) stems_.emplace_back(stem);  // mostly the same
  }
  std::sort(stems_.begin(), stems_.end());
  stems_.erase(std::unique(stems_.begin(), stems_.end()), stems_.end());
}

size_t Checkpoint::Find(std::string_view name) const {
  const auto it =
      std::lower_bound(entries_.begin(), entries_.end(), name,
                       [](const Entry& entry, std::string_view want) { return entry.name < want; });
  return it != entries_.end() && it->name == name ? static_cast<size_t>(it - entries_.begin())
                                                  : entries_.size();
}

std::pair<size_t, size_t> Checkpoint::WithPrefix(std::string_view prefix) const {
  const auto first =
      std::lower_bound(entries_.begin(), entries_.end(), prefix,
                       [](const Entry& entry, std::string_view want) { return entry.name < want; });
  const auto last = std::partition_point(
      first, entries_.end(), [&](const Entry& entry) { return entry.name.starts_with(prefix); });
  return {static_cast<size_t>(first - entries_.begin()),
          static_cast<size_t>(last - entries_.begin())};
}

Status Checkpoint::Locate(size_t index, TensorPlace* out) const {
  const Entry& entry = entries_[index];
  DSV4MX_RETURN_IF(entry.shard == kAmbiguous, DSV4MX_STATUS_NOT_FOUND,
                   "%s: tensor '%s' is in the files of several ranks, each of which has its own "
                   "part or copy: open one rank's file",
                   label_.c_str(), Printable(entry.name).c_str());
  Shard* shard = shards_[entry.shard].get();
  {
    const std::lock_guard lock(shard->mutex);
    if (!shard->opened) DSV4MX_TRY(OpenShard(shard));
  }
  const size_t at = shard->table.Find(entry.name);
  DSV4MX_RETURN_IF(at == shard->table.size(), DSV4MX_STATUS_FORMAT_ERROR,
                   "%s: tensor '%s' is not in the shard that the index names, '%s'", label_.c_str(),
                   Printable(entry.name).c_str(), Printable(LastComponent(shard->path)).c_str());
  out->shard = shard;
  out->info = shard->table[at];
  return kOk;
}

// Files that no index names are open from the start.
const GgufKeys* Checkpoint::gguf_keys() const {
  for (const std::unique_ptr<Shard>& shard : shards_) {
    if (!shard->keys.architecture.empty()) return &shard->keys;
  }
  return nullptr;
}

std::string Checkpoint::ShardHint() const {
  std::string stem;
  int number = 0, total = 0;
  if (shards_.size() != 1 || !ParseShardName(LastComponent(path_), &stem, &number, &total) ||
      total == 1) {
    return "";
  }
  return "; this file is shard " + std::to_string(number) + " of " + std::to_string(total) +
         ": open their index or folder";
}

}  // namespace dsv4mx::io
