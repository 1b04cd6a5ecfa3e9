// Writes small safetensors files for tests, by other means than lib/io: a folder that goes away
// with the test, and tensors one after the other behind a header of the wanted names.
#ifndef DSV4MX_TESTS_SAFETENSORS_FILE_H_
#define DSV4MX_TESTS_SAFETENSORS_FILE_H_

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace dsv4mx::test {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dsv4mx-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    path_ = pattern;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const char* name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

// A header and data behind its length.
inline std::string WithHeader(const std::string& header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + data;
}

struct FileTensor {
  std::string name;
  std::string dtype;  // tag of the format
  std::vector<int64_t> shape;
  std::string bytes = {};  // empty: byte i of the data is i
};

inline std::string SafetensorsFile(const std::vector<FileTensor>& tensors) {
  std::string header = "{";
  std::string data;
  for (const FileTensor& tensor : tensors) {
    size_t bits = 8;
    if (tensor.dtype == "F4") bits = 4;
    if (tensor.dtype == "BF16" || tensor.dtype == "F16") bits = 16;
    if (tensor.dtype == "F32" || tensor.dtype == "I32" || tensor.dtype == "U32") bits = 32;
    if (tensor.dtype == "C64" || tensor.dtype == "I64") bits = 64;
    std::string shape;
    for (const int64_t n : tensor.shape) {
      bits *= static_cast<size_t>(n);
      shape += (shape.empty() ? "" : ",") + std::to_string(n);
    }
    const size_t begin = data.size();
    const size_t end = begin + bits / 8;
    if (tensor.bytes.empty()) {
      while (data.size() < end) data += static_cast<char>(data.size());
    } else {
      data += tensor.bytes;
    }
    if (data.size() != end) throw std::logic_error(tensor.name + ": bytes and shape differ");
    header += (header.size() > 1 ? ",\"" : "\"") + tensor.name + "\":{\"dtype\":\"" + tensor.dtype +
              "\",\"shape\":[" + shape + "],\"data_offsets\":[" + std::to_string(begin) + "," +
              std::to_string(end) + "]}";
  }
  header += "}";
  if (header.size() % 2 == 0) header += ' ';  // tensors begin at odd addresses
  return WithHeader(header, data);
}

// Experts 0, 1, ... of layer 0 under DeepSeek's names, with codes that count and scales of one byte.
inline std::vector<FileTensor> DeepSeekExperts(int experts, int64_t hidden, int64_t intermediate,
                                               char scale) {
  std::vector<FileTensor> tensors;
  for (int e = 0; e < experts; ++e) {
    for (const char* w : {"w1", "w3", "w2"}) {
      const bool down = w[1] == '2';
      const int64_t rows = down ? hidden : intermediate, k = down ? intermediate : hidden;
      const std::string stem = "layers.0.ffn.experts." + std::to_string(e) + "." + w;
      tensors.push_back({stem + ".weight", "I8", {rows, k / 2}});
      tensors.push_back({stem + ".scale",
                         "F8_E8M0",
                         {rows, k / 32},
                         std::string(static_cast<size_t>(rows * k / 32), scale)});
    }
  }
  return tensors;
}

}  // namespace dsv4mx::test

#endif  // DSV4MX_TESTS_SAFETENSORS_FILE_H_
