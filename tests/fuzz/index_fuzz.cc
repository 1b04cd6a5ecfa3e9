// model.safetensors.index.json.
#include "lib/io/safetensors_index.h"

#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using dsv4mx::fuzz::Require;
  dsv4mx::io::WeightMap map;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const dsv4mx::Status status = dsv4mx::io::ParseSafetensorsIndex(text, "i", &map);
  if (!status.ok()) {
    dsv4mx::fuzz::CheckRefusal(status, {DSV4MX_STATUS_FORMAT_ERROR});
    Require(map.size() == 0 && map.shards().empty(), "a refused index leaves nothing");
    return 0;
  }
  for (size_t i = 0; i < map.size(); ++i) {
    const std::string_view name = map.name(i);
    Require(name.data()[name.size()] == '\0', "a name ends with a NUL");
    Require(i == 0 || map.name(i - 1) < name, "names are in order, each once");
    Require(map.shard(i) < map.shards().size(), "a shard is one of the list");
  }
  for (const std::string& shard : map.shards()) {
    Require(!shard.empty() && shard.find('/') == std::string::npos && shard != "." && shard != "..",
            "a shard is a file of the index's own folder");
    Require(shard.find('\0') == std::string::npos, "a shard's name has no NUL");
  }
  return 0;
}
