#include "lib/io/folder.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "lib/base/printable.h"
#include "lib/io/file.h"

namespace dsv4mx::io {
namespace {

constexpr std::string_view kFileEnds[] = {".safetensors", ".gguf"};
constexpr std::string_view kIndexEnd = ".safetensors.index.json";
// The index that every loader of the ecosystem reads, whatever other indices are beside it.
constexpr std::string_view kMainIndex = "model.safetensors.index.json";

// What downloaders append to a file that is not whole yet.
constexpr std::string_view kPartial[] = {".incomplete", ".part",     ".partial", ".crdownload",
                                         ".aria2",      ".download", ".tmp",     ".temp"};

// How the name of a checkpoint's file ends, or "".
std::string_view FileEnd(std::string_view name) {
  for (const std::string_view end : kFileEnds) {
    if (name.ends_with(end)) return end;
  }
  return "";
}

// A positive number of at most nine digits that fills `text`, leading zeros allowed.
bool Number(std::string_view text, int* out) {
  if (text.empty() || text.size() > 9 || text[0] == '-' || text[0] == '+') return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

// "model3-mp8.safetensors": rank 3 of 8.
bool ParseRankName(std::string_view name, int* rank, int* ranks) {
  const std::string_view end = FileEnd(name);
  if (!name.starts_with("model") || end.empty()) return false;
  name.remove_prefix(5);
  name.remove_suffix(end.size());
  const size_t mp = name.find("-mp");
  return mp != std::string_view::npos && Number(name.substr(0, mp), rank) &&
         Number(name.substr(mp + 3), ranks) && *rank < *ranks;
}

// Names of files that belong together, by their number.
struct Set {
  int total = 0;
  std::map<int, std::string> files;
  bool complete() const { return files.size() == static_cast<size_t>(total); }
};

struct Contents {
  std::vector<std::string> indices, files;    // files: neither shards nor ranks
  std::map<std::string, Set> shards;          // by "stem of total"
  std::map<int, Set> ranks;                   // by the number of ranks
  std::vector<std::string> skipped, partial;  // with reasons; unfinished downloads
};

std::string Listed(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  std::string text;
  size_t i = 0;
  for (; i < names.size() && i < 4 && text.size() + names[i].size() < 180; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (i < names.size()) {
    text +=
        (i == 0 ? "" : " and ") + std::to_string(names.size() - i) + (i == 0 ? " files" : " more");
  }
  return text;
}

void AddFile(const std::string& name, Contents* c) {
  std::string stem;
  int number = 0, total = 0;
  if (ParseShardName(name, &stem, &number, &total)) {
    Set& set = c->shards[stem + " of " + std::to_string(total) + std::string(FileEnd(name))];
    set.total = total;
    set.files.emplace(number, name);
  } else if (ParseRankName(name, &number, &total)) {
    Set& set = c->ranks[total];
    set.total = total;
    set.files.emplace(number, name);
  } else {
    c->files.push_back(name);
  }
}

void Add(const std::string& folder, const std::string& name, Contents* c) {
  const bool is_index = name.ends_with(kIndexEnd);
  if (!is_index && FileEnd(name).empty()) {
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };
    const auto has = [&](std::string_view end) { return name.find(end) != std::string::npos; };
    if (std::any_of(std::begin(kFileEnds), std::end(kFileEnds), has) &&
        std::any_of(std::begin(kPartial), std::end(kPartial), ends)) {
      c->partial.push_back(Printable(name));
    }
    return;
  }
  const auto skip = [&](const char* reason) {
    c->skipped.push_back(Printable(name) + " (" + reason + ")");
  };
  // macOS writes "._x" beside x on file systems of others.
  if (name[0] == '.') return skip(name.starts_with("._") ? "a sidecar" : "hidden");
  struct stat info {};
  if (stat((folder + "/" + name).c_str(), &info) != 0) {
    return skip(errno == ENOENT ? "a dangling link" : "cannot be looked at");
  }
  if (S_ISDIR(info.st_mode)) return skip("a folder");
  if (!S_ISREG(info.st_mode)) return skip("not a regular file");
  is_index ? c->indices.push_back(name) : AddFile(name, c);
}

Status List(const std::string& folder, Contents* out) {
  // Not a directory_iterator, which ends the process when memory runs out inside it (GCC 12).
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), closedir);
  if (dir == nullptr) return FailErrno(folder, "list the folder", errno);
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry != nullptr) {
      Add(folder, entry->d_name, out);
    } else {
      return errno == 0 ? kOk : FailErrno(folder, "list the folder", errno);
    }
  }
}

// "2 of 3 shards of 'model', without 00002"
Status FailIncomplete(const std::string& folder, const Set& set, const char* kind, int first,
                      const Contents& c) {
  std::vector<int64_t> missing;
  for (int i = 0; i < set.total && missing.size() < 1000; ++i) {
    if (set.files.count(i + first) == 0) missing.push_back(i + first);
  }
  const std::string partial =
      c.partial.empty() ? "" : "; unfinished downloads: " + Listed(c.partial);
  return Fail(DSV4MX_STATUS_IO_ERROR,
              "%s: %zu of %d %s like '%s' are here, missing: %s%s; add them, or an index, or name "
              "one file",
              PrintablePath(folder).c_str(), set.files.size(), set.total, kind,
              Printable(set.files.begin()->second).c_str(), Ranges(missing).c_str(),
              partial.c_str());
}

Status FailNothing(const std::string& folder, const Contents& c) {
  std::string text;
  if (!c.partial.empty()) text += "; unfinished downloads: " + Listed(c.partial);
  if (!c.skipped.empty()) text += "; left out: " + Listed(c.skipped);
  return Fail(DSV4MX_STATUS_IO_ERROR, "%s: no .safetensors or .gguf file in this folder%s",
              PrintablePath(folder).c_str(), text.c_str());
}

}  // namespace

bool ParseShardName(const std::string& name, std::string* stem, int* number, int* total) {
  std::string_view rest = name;
  const std::string_view end = FileEnd(rest);
  if (end.empty()) return false;
  rest.remove_suffix(end.size());
  const size_t of = rest.rfind("-of-");
  if (of == std::string_view::npos || !Number(rest.substr(of + 4), total)) return false;
  rest = rest.substr(0, of);
  const size_t dash = rest.rfind('-');
  if (dash == std::string_view::npos || !Number(rest.substr(dash + 1), number)) return false;
  *stem = std::string(rest.substr(0, dash));
  return *number >= 1 && *number <= *total;
}

Status ChooseFromFolder(const std::string& folder, FolderChoice* out) {
  Contents c;
  DSV4MX_TRY(List(folder, &c));
  const std::string inside = folder + "/";
  const auto choose = [&](FolderChoice::Kind kind, const std::vector<std::string>& names) {
    out->kind = kind;
    out->paths.clear();
    for (const std::string& name : names) out->paths.push_back(inside + name);
    return kOk;
  };
  const auto choose_set = [&](FolderChoice::Kind kind, const Set& set) {
    std::vector<std::string> names;
    names.reserve(set.files.size());
    for (const auto& [number, name] : set.files) names.push_back(name);
    return choose(kind, names);
  };

  // An index decides, whatever copies are beside it.
  if (c.indices.size() == 1) return choose(FolderChoice::kIndex, c.indices);
  if (std::find(c.indices.begin(), c.indices.end(), kMainIndex) != c.indices.end()) {
    return choose(FolderChoice::kIndex, {std::string(kMainIndex)});
  }
  DSV4MX_RETURN_IF(!c.indices.empty(), DSV4MX_STATUS_IO_ERROR,
                   "%s: %zu indices in this folder (%s): name the one to read",
                   PrintablePath(folder).c_str(), c.indices.size(), Listed(c.indices).c_str());

  const size_t sets = c.shards.size() + c.ranks.size();
  if (sets == 0 && c.files.empty()) return FailNothing(folder, c);
  if (sets == 0 && c.files.size() == 1) return choose(FolderChoice::kFile, c.files);
  // One set of shards; a copy in one piece beside it says the same again.
  const bool copies = std::all_of(c.files.begin(), c.files.end(), [](const std::string& name) {
    return name.starts_with("consolidated");
  });
  if (sets == 1 && copies) {
    if (!c.shards.empty()) {
      const Set& set = c.shards.begin()->second;
      if (set.complete()) return choose_set(FolderChoice::kShards, set);
      return FailIncomplete(folder, set, "shards", 1, c);
    }
    const Set& set = c.ranks.begin()->second;
    if (set.complete()) return choose_set(FolderChoice::kRanks, set);
    return FailIncomplete(folder, set, "ranks' files", 0, c);
  }
  std::vector<std::string> all = c.files;
  for (const auto& [key, set] : c.shards) all.push_back(set.files.begin()->second);
  for (const auto& [key, set] : c.ranks) all.push_back(set.files.begin()->second);
  return Fail(
      DSV4MX_STATUS_IO_ERROR,
      "%s: %zu checkpoints and no index in this folder (%s): name the file to read, or give "
      "each a folder",
      PrintablePath(folder).c_str(), all.size(), Listed(all).c_str());
}

}  // namespace dsv4mx::io
