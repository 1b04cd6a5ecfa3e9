// Checkpoint folders through the public functions. The input is a row of files, each a byte for its name and form, two for its
// length, and that many bytes; in the form of a header they are two bytes for the length of the data, and a safetensors
// header, whose own length is put before it. What opens is asked for everything, and small layers are loaded.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <string>
#include <system_error>

#include "dsv4mx.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using dsv4mx::fuzz::Require;
namespace fs = std::filesystem;

constexpr const char* kNames[] = {
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model0-mp2.safetensors",
    "model1-mp2.safetensors",
    "m.gguf",
    "m-00001-of-00002.gguf",
    "m-00002-of-00002.gguf",
    "other.safetensors.index.json",
    "pytorch_model.bin",
    "model.safetensors.part",
    "1",
    ".hidden.safetensors",
    "consolidated.safetensors",
};
constexpr uint8_t kHeaderForm = 0x80;

// A folder in memory where there is one, empty at the begin of every run.
class Folder {
 public:
  Folder() {
    std::string pattern =
        (fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string());
    pattern += "/dsv4mx-fuzz-XXXXXX";
    Require(mkdtemp(pattern.data()) != nullptr, "a folder can be made");
    path_ = pattern;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  void Clear() const {
    for (const char* name : kNames) unlink((path_ + "/" + name).c_str());
  }
  void Write(const char* name, std::string_view bytes) const {
    const int fd =
        open((path_ + "/" + name).c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    Require(fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()),
            "a file can be written");
    close(fd);
  }

 private:
  std::string path_;
};

void WriteFiles(const Folder& folder, const uint8_t* data, size_t size) {
  while (size >= 3) {
    const uint8_t form = data[0];
    const size_t length = std::min<size_t>(data[1] | data[2] << 8, size - 3);
    std::string_view bytes(reinterpret_cast<const char*>(data + 3), length);
    data += 3 + length;
    size -= 3 + length;
    const char* name = kNames[form % std::size(kNames)];
    if ((form & kHeaderForm) == 0 || length < 2) {
      folder.Write(name, bytes);
      continue;
    }
    const size_t behind = static_cast<uint8_t>(bytes[0]) | static_cast<uint8_t>(bytes[1]) << 8;
    bytes.remove_prefix(2);
    std::string file;
    for (int i = 0; i < 8; ++i) file += static_cast<char>(bytes.size() >> 8 * i & 0xff);
    folder.Write(name, file.append(bytes).append(behind, '\x70'));
  }
}

bool Good(dsv4mx_status status) {
  if (status == DSV4MX_STATUS_OK) return true;
  const std::string_view text = dsv4mx_last_error();
  Require(status != DSV4MX_STATUS_INTERNAL, "no input is a bug of the library");
  Require(!text.empty() && text.find('\n') == std::string_view::npos, "an error is one line");
  return false;
}

const dsv4mx_context* Cpu() {
  static dsv4mx_context* const context = [] {
    dsv4mx_context_desc desc = DSV4MX_CONTEXT_DESC_INIT;
    desc.device = DSV4MX_DEVICE_CPU;
    desc.threads = 1;
    dsv4mx_context* made = nullptr;
    Require(dsv4mx_context_create(&desc, &made) == DSV4MX_STATUS_OK, "a context can be made");
    return made;
  }();
  return context;
}

void Load(const dsv4mx_checkpoint* checkpoint, const dsv4mx_block& block, dsv4mx_layer_desc desc) {
  constexpr int64_t kMostValues = 1 << 16;
  if (int64_t{desc.hidden} * desc.intermediate > kMostValues / desc.experts) return;
  if (desc.top_k == 0) desc.top_k = 1;
  dsv4mx_layer* layer = nullptr;
  if (!Good(dsv4mx_layer_create(Cpu(), &desc, &layer))) return;
  dsv4mx_weights* weights = nullptr;
  if (Good(dsv4mx_weights_create(layer, nullptr, &weights)) &&
      Good(dsv4mx_weights_load(weights, checkpoint, &block, nullptr, nullptr))) {
    (void)Good(dsv4mx_weights_prepare(weights, nullptr, nullptr));
  }
  dsv4mx_weights_destroy(weights);
  dsv4mx_layer_destroy(layer);
}

void AskBlocks(const dsv4mx_checkpoint* checkpoint) {
  const int64_t blocks = dsv4mx_checkpoint_get_block_count(checkpoint);
  for (int64_t i = 0; i < blocks; ++i) {
    dsv4mx_block block = DSV4MX_BLOCK_INIT;
    Require(Good(dsv4mx_checkpoint_get_block(checkpoint, i, &block)),
            "a block of the count is there");
    dsv4mx_layer_desc desc = DSV4MX_LAYER_DESC_INIT;
    uint32_t filled = 0;
    (void)Good(dsv4mx_checkpoint_query_config(checkpoint, &block, 0x1f, &desc, &filled));
    desc = DSV4MX_LAYER_DESC_INIT;
    if (!Good(dsv4mx_checkpoint_query_layer(checkpoint, &block, &desc))) continue;
    Require(desc.hidden > 0 && desc.intermediate > 0 && desc.experts > 0, "a layer has sizes");
    Load(checkpoint, block, desc);
  }
  dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
  if (Good(dsv4mx_checkpoint_query_model(checkpoint, Cpu(), nullptr, &info))) {
    Require(info.blocks == blocks && info.prepared_bytes >= info.largest_block_bytes,
            "a model is the sum of its blocks");
  }
}

// Every tensor's last byte is there, or refused.
void AskTensors(const dsv4mx_checkpoint* checkpoint) {
  for (int64_t i = 0; i < dsv4mx_checkpoint_get_count(checkpoint); ++i) {
    const char* name = dsv4mx_checkpoint_get_name(checkpoint, i);
    Require(name != nullptr, "a name of the count is there");
    dsv4mx_tensor tensor = DSV4MX_TENSOR_INIT;
    if (std::strlen(name) > 0) (void)Good(dsv4mx_checkpoint_get_tensor(checkpoint, name, &tensor));
    char byte;
    (void)Good(dsv4mx_checkpoint_read(checkpoint, name, 0, &byte, 1));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  folder.Clear();
  WriteFiles(folder, data, size);
  dsv4mx_checkpoint* checkpoint = nullptr;
  if (!Good(dsv4mx_checkpoint_create(folder.path().c_str(), nullptr, &checkpoint))) {
    Require(checkpoint == nullptr, "a refused checkpoint leaves nothing");
    return 0;
  }
  AskTensors(checkpoint);
  AskBlocks(checkpoint);
  dsv4mx_checkpoint_destroy(checkpoint);
  return 0;
}
