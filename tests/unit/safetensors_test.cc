// The safetensors reader: what is valid is read exactly, what is damaged or hostile is refused with
// one line. The fuzz loop at the end mutates a valid file with a fixed seed; run it under ASan.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "lib/io/safetensors.h"
#include "lib/io/safetensors_index.h"
#include "tests/catch.h"

namespace {

using dsv4mx::DType;
using dsv4mx::io::TensorInfo;
using dsv4mx::io::TensorTable;

std::string File(const std::string& header, size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> (8 * i) & 0xff);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

// Parses copies of exactly the size of each part, so that ASan sees a read past its end.
dsv4mx::Status Parse(const std::string& file, TensorTable* table) {
  const std::vector<char> head(
      file.begin(),
      file.begin() + static_cast<std::ptrdiff_t>(std::min(file.size(), dsv4mx::io::kHeadBytes)));
  uint64_t bytes = 0;
  DSV4MX_TRY(dsv4mx::io::ParseSafetensorsHead({head.data(), head.size()}, file.size(),
                                              "t.safetensors", &bytes));
  const std::vector<char> header(file.begin() + 8,
                                 file.begin() + 8 + static_cast<std::ptrdiff_t>(bytes));
  return dsv4mx::io::ParseSafetensorsHeader({header.data(), header.size()}, file.size(),
                                            "t.safetensors", table);
}

std::string ErrorOf(const std::string& file) {
  TensorTable table;
  const dsv4mx::Status status = Parse(file, &table);
  if (status.ok()) return "";
  CHECK(status.code == DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(table.size() == 0);
  const std::string text = dsv4mx::LastError();
  CHECK(text.find('\n') == std::string::npos);
  CHECK(text.find("t.safetensors: ") == 0);
  return text;
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

const char kValid[] = R"({"__metadata__":{"format":"pt"},)"
                      R"("b.scale":{"dtype":"F8_E8M0","shape":[2,1],"data_offsets":[35,37]},)"
                      R"("b.weight":{"dtype":"I8","shape":[2,16],"data_offsets":[3,35]},)"
                      R"("a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                      R"("empty":{"dtype":"F32","shape":[0,7],"data_offsets":[37,37]},)"
                      R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[37,41]},)"
                      R"("f4":{"dtype":"F4","shape":[1,6],"data_offsets":[41,44]}}   )";
constexpr size_t kValidData = 44;

TEST_CASE("safetensors: a valid file is read exactly", "[io]") {
  TensorTable table;
  const std::string file = File(kValid, kValidData);
  REQUIRE(Parse(file, &table).ok());
  REQUIRE(table.size() == 6);
  const char* order[] = {"a", "b.scale", "b.weight", "empty", "f4", "scalar"};  // by name
  for (size_t i = 0; i < 6; ++i) {
    CHECK(table.name(i) == order[i]);
    CHECK(std::strlen(table.name(i).data()) == table.name(i).size());
    CHECK(table.Find(order[i]) == i);
    CHECK(table[i].name == order[i]);
  }
  CHECK(table.Find("b") == 6);
  CHECK(table.Find("z") == 6);
  CHECK(table.Find("") == 6);
  const auto byte = [&](uint64_t offset) {
    return static_cast<int>(static_cast<uint8_t>(file[static_cast<size_t>(offset)]));
  };
  const TensorInfo weight = table[2];
  CHECK(weight.dtype == DType::kI8);
  CHECK(weight.HasShape({2, 16}));
  CHECK(weight.bytes == 32);
  CHECK(byte(weight.offset) == 3);
  CHECK(byte(weight.offset + 31) == 34);
  CHECK(table[1].dtype == DType::kF8E8M0);
  CHECK(byte(table[1].offset + 1) == 36);
  CHECK(table[3].bytes == 0);
  CHECK(table[5].rank == 0);
  CHECK(table[5].bytes == 4);
  CHECK(table[4].dtype == DType::kF4);  // shape counts values: 6 values in 3 bytes
  CHECK(table[4].bytes == 3);

  const TensorTable moved = std::move(table);
  CHECK(moved.name(2) == "b.weight");
}

TEST_CASE("safetensors: every dtype tag and its spellings", "[io]") {
  struct Row {
    const char* tag;
    DType dtype;
    int bits;
  };
  const Row rows[] = {{"BOOL", DType::kBool, 8},
                      {"F4", DType::kF4, 4},
                      {"F6_E2M3", DType::kF6E2M3, 6},
                      {"F6_E3M2", DType::kF6E3M2, 6},
                      {"U8", DType::kU8, 8},
                      {"I8", DType::kI8, 8},
                      {"F8_E5M2", DType::kF8E5M2, 8},
                      {"F8_E4M3", DType::kF8E4M3, 8},
                      {"F8_E4M3FN", DType::kF8E4M3, 8},
                      {"F8_E8M0", DType::kF8E8M0, 8},
                      {"F8_E8M0FNU", DType::kF8E8M0, 8},
                      {"F8_E4M3FNUZ", DType::kF8E4M3Fnuz, 8},
                      {"F8_E5M2FNUZ", DType::kF8E5M2Fnuz, 8},
                      {"I16", DType::kI16, 16},
                      {"U16", DType::kU16, 16},
                      {"F16", DType::kF16, 16},
                      {"BF16", DType::kBF16, 16},
                      {"I32", DType::kI32, 32},
                      {"U32", DType::kU32, 32},
                      {"F32", DType::kF32, 32},
                      {"C64", DType::kC64, 64},
                      {"I64", DType::kI64, 64},
                      {"U64", DType::kU64, 64},
                      {"F64", DType::kF64, 64}};
  for (const Row& row : rows) {
    CAPTURE(row.tag);
    const size_t bytes = static_cast<size_t>(row.bits);  // 8 values
    TensorTable table;
    REQUIRE(Parse(File("{" + Entry("t", row.tag, "8", "0," + std::to_string(bytes)) + "}", bytes),
                  &table)
                .ok());
    CHECK(table[0].dtype == row.dtype);
    CHECK(std::string(row.tag).find(dsv4mx::DTypeName(row.dtype)) == 0);
  }
}

TEST_CASE("safetensors: damaged and hostile headers are refused with one line", "[io]") {
  struct Row {
    std::string file;
    const char* want;
  };
  const std::string big(8, '\xff');
  const std::string ok = Entry("t", "U8", "4", "0,4");
  const Row rows[] = {
      {"", "the file is empty"},
      {"abc", "not a safetensors file, or a truncated one"},
      {big, "header length 18446744073709551615"},
      {big + "{}", "not a safetensors file, or a truncated one"},
      {std::string("PK\x03\x04", 4) + std::string(40, '\0') + "x", "PyTorch pickle"},
      {std::string("\x80\x02}q\x00X\x04\x00\x00\x00", 10), "a Python pickle"},
      {"GGUF\x03" + std::string(40, '\0'), "a GGUF file"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"},
      {"This is a text file, nothing else.\n", ": text"},
      {File("", 4), "no JSON header"},
      {File("[]", 0), "no JSON header"},
      {File(" {}", 0), "no JSON header"},
      {File("{" + ok + "}", 3), "has 3 (truncated?)"},
      {File("{" + ok + "}", 5), "1 bytes after the last tensor"},
      {File("{}", 1), "1 bytes after the last tensor"},
      {File("{" + ok, 4), "is not valid JSON at byte"},
      {File("{" + ok + "}x", 4), "is not valid JSON at byte"},
      {File("{" + ok + std::string("}\0{", 3), 4), "has a NUL byte in it"},
      {File("{\"\xff\":1}", 4), "is not valid JSON at byte"},
      {File(std::string(100000, '{'), 4), "is not valid JSON at byte"},
      {File("{\"t\":" + std::string(100000, '['), 4), "has an array where an object"},
      {File("{" + ok + "," + ok + "}", 4), "tensor 't' appears twice"},
      {File("{" + ok + "," + Entry("t", "U8", "1", "4,5") + "}", 5), "tensor 't' appears twice"},
      {File("{\"__metadata__\":{},\"__metadata__\":{}," + ok + "}", 4), "has __metadata__ twice"},
      {File("{\"__metadata__\":{\"a\":1}," + ok + "}", 4), "has a number where a __metadata__"},
      {File("{\"__metadata__\":7}", 0), "has a number where the __metadata__ object"},
      {File("{\"t\":7}", 0), "has a number where an object of tensor 't'"},
      {File("{\"t\\u0000u\":{}}", 0), "NUL in it"},
      {File("{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0), "has dtype twice"},
      {File("{\"t\":{\"shape\":[],\"shape\":[]}}", 0), "has shape twice"},
      {File("{\"t\":{\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", 0),
       "has data_offsets twice"},
      {File("{\"t\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4), "has no dtype"},
      {File("{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4), "has no shape"},
      {File("{\"t\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4), "has no data_offsets"},
      {File("{\"t\":{\"stride\":[4]}}", 4), "has the unknown field 'stride'"},
      {File("{\"t\":{\"dtype\":8}}", 4), "where the dtype string of tensor 't'"},
      {File("{" + Entry("t", "F3", "4", "0,4") + "}", 4), "has the unknown dtype 'F3'"},
      {File("{" + Entry("t\\nu", "F3", "4", "0,4") + "}", 4), "tensor 't?u' has"},
      {File("{" + Entry("t", "U8", "-4", "0,4") + "}", 4), "has a negative number where"},
      {File("{" + Entry("t", "U8", "4.0", "0,4") + "}", 4), "is no 64-bit integer"},
      {File("{" + Entry("t", "U8", "99999999999999999999", "0,4") + "}", 4), "is no 64-bit"},
      {File("{" + Entry("t", "U8", "1e999", "0,4") + "}", 4), "is not valid JSON at byte"},
      {File("{" + Entry("t", "U8", "9223372036854775808", "0,4") + "}", 4), "too large"},
      {File("{" + Entry("t", "U8", "1,1,1,1,1,1,1,1,4", "0,4") + "}", 4), "more than 8 dim"},
      {File("{" + Entry("t", "U8", "[4]", "0,4") + "}", 4), "has an array where"},
      {File("{" + Entry("t", "U8", "null", "0,4") + "}", 4), "has null where"},
      {File("{" + Entry("t", "U8", "true", "0,4") + "}", 4), "has a boolean where"},
      {File("{" + Entry("t", "U8", "4", "-1,4") + "}", 4), "has a negative number where"},
      {File("{" + Entry("t", "U8", "4", "0") + "}", 4), "has 1 data_offsets, expected 2"},
      {File("{" + Entry("t", "U8", "4", "0,4,4") + "}", 4), "more than 2 data_offsets"},
      {File("{" + Entry("t", "U8", "4", "4,0") + "}", 4), "backwards"},
      {File("{" + Entry("t", "U8", "5", "0,4") + "}", 4), "which is not its 4 bytes"},
      {File("{" + Entry("t", "F32", "4", "0,4") + "}", 4), "F32 [4], which is not its 4"},
      {File("{" + Entry("t", "F4", "7", "0,4") + "}", 4), "F4 [7], which is not its 4"},
      {File("{" + Entry("t", "U8", "4294967296,4294967296", "0,0") + "}", 0), "which is not its"},
      {File("{" + Entry("t", "U8", "4611686018427387904,4,0", "0,0") + "}", 0), "which is not"},
      {File("{" + Entry("t", "F64", "2305843009213693952", "0,0") + "}", 0), "which is not its"},
      {File("{" + ok + "," + Entry("u", "U8", "2", "3,5") + "}", 5), "'u' overlaps tensor 't'"},
      {File("{" + ok + "," + Entry("u", "U8", "4", "0,4") + "}", 4), "overlaps tensor"},
      {File("{" + ok + "," + Entry("u", "U8", "2", "5,7") + "}", 7),
       "bytes 4 to 5 before tensor 'u' belong to no tensor"},
      {File("{" + Entry("t", "U8", "4", "1,5") + "}", 5), "bytes 0 to 1 before"},
      {File("{" + Entry("t", "U8", "4", "0,18446744073709551615") + "}", 4),
       "ends at byte 18446744073709551615"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.file.substr(0, 200), row.want);
    const std::string error = ErrorOf(row.file);
    CAPTURE(error);
    CHECK(error.find(row.want) != std::string::npos);
  }
}

TEST_CASE("safetensors: every truncation of a valid file is refused", "[io]") {
  const std::string file = File(kValid, kValidData);
  for (size_t n = 0; n < file.size(); ++n) {
    CAPTURE(n);
    CHECK_FALSE(ErrorOf(file.substr(0, n)).empty());
  }
}

// Every byte that an accepted table points to must lie in the file.
uint64_t Touch(const TensorTable& table, const std::string& file) {
  uint64_t sum = 0;
  for (size_t t = 0; t < table.size(); ++t) {
    const TensorInfo tensor = table[t];
    REQUIRE(tensor.offset <= file.size());
    REQUIRE(tensor.bytes <= file.size() - tensor.offset);
    uint64_t bits = static_cast<uint64_t>(dsv4mx::DTypeBits(tensor.dtype));
    for (int i = 0; i < tensor.rank; ++i) {
      bits *= static_cast<uint64_t>(tensor.shape[static_cast<size_t>(i)]);
    }
    REQUIRE(bits == 8 * tensor.bytes);
    for (uint64_t i = 0; i < tensor.bytes; ++i) {
      sum += static_cast<uint8_t>(file[static_cast<size_t>(tensor.offset + i)]);
    }
  }
  return sum;
}

TEST_CASE("safetensors: mutated files never crash and never point outside", "[io][fuzz]") {
  constexpr uint32_t kSeed = 20260301;
  constexpr int kRuns = 60000;
  CAPTURE(kSeed);
  std::mt19937 random(kSeed);
  const std::string valid = File(kValid, kValidData);
  const std::string words[] = {"9223372036854775807",
                               "18446744073709551616",
                               "-1",
                               "1e30",
                               "\"\"",
                               "[",
                               "{",
                               "null",
                               "\"F4\"",
                               "__metadata__",
                               ",",
                               ":"};
  int accepted = 0;
  uint64_t sum = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::string file = valid;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int edit = 0; edit < edits && !file.empty(); ++edit) {
      const size_t at = random() % file.size();
      switch (random() % 6) {
        case 0:
        case 1:
          file[at] = static_cast<char>(file[at] ^ (1 << (random() % 8)));
          break;
        case 2:
          file[at] = static_cast<char>(random());
          break;
        case 3:
          file.resize(at);
          break;
        case 4:
          file.erase(at, 1 + random() % 8);
          break;
        default:
          file.insert(at, words[random() % std::size(words)]);
          break;
      }
    }
    // Half of the files get a header length that fits again, so that the JSON is reached.
    if (file.size() > 8 + kValidData && random() % 2 == 0) {
      const size_t header = file.size() - 8 - kValidData;
      for (int i = 0; i < 8; ++i) {
        file[static_cast<size_t>(i)] = static_cast<char>(header >> (8 * i) & 0xff);
      }
    }
    TensorTable table;
    const dsv4mx::Status status = Parse(file, &table);
    if (status.ok()) {
      ++accepted;
      sum += Touch(table, file);
    } else if (status.code != DSV4MX_STATUS_FORMAT_ERROR || table.size() != 0) {
      FAIL("run " << run << ": status " << status.code << ", " << dsv4mx::LastError());
    }
  }
  // Edits of names and data keep a file valid: the loop must have reached both ends.
  CHECK(accepted > kRuns / 100);
  CHECK(accepted < kRuns / 2);
  CHECK(sum > 0);
}

TEST_CASE("safetensors index: read, and refused with one line", "[io]") {
  dsv4mx::io::WeightMap map;
  REQUIRE(dsv4mx::io::ParseSafetensorsIndex(
              R"({"metadata":{"total_size":1,"x":[1,{"y":[null,true,-1,2.5,"s"]}]},"v":[[]],)"
              R"("weight_map":{"b":"s2.safetensors","a":"s1.safetensors"},"n":null})",
              "i.json", &map)
              .ok());
  REQUIRE(map.size() == 2);
  CHECK(map.name(0) == "a");
  CHECK(std::strlen(map.name(0).data()) == 1);
  CHECK(map.shards()[map.shard(0)] == "s1.safetensors");
  CHECK(map.name(1) == "b");
  CHECK(map.shards()[map.shard(1)] == "s2.safetensors");

  const std::pair<std::string, const char*> rows[] = {
      {"", "is not valid JSON"},
      {"[]", "has an array where an object"},
      {"{}", "has no weight_map"},
      {R"({"metadata":{}})", "has no weight_map"},
      {R"({"weight_map":[]})", "has an array where the weight_map object"},
      {R"({"weight_map":{"a":1}})", "has a number where the shard of tensor 'a'"},
      {R"({"weight_map":{"a":{}}})", "has an object where the shard of tensor 'a'"},
      {R"({"weight_map":{},"weight_map":{}})", "has weight_map twice"},
      {R"({"weight_map":{"a":"x","a":"x"}})", "names tensor 'a' twice"},
      {R"({"weight_map":{"a":"../x"}})", "expected a plain file name"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", "expected a plain file name"},
      {R"({"weight_map":{"a":".."}})", "expected a plain file name"},
      {R"({"weight_map":{"a":""}})", "expected a plain file name"},
      {R"({"weight_map":{"a":"x\u0000y"}})", "expected a plain file name"},
      {R"({"weight_map":{"a\u0000b":"x"}})", "a tensor name with a NUL in it"},
      {R"({"weight_map":{"a":"x"})", "is not valid JSON"},
      {std::string("{\"weight_map\":{}}\0x", 19), "NUL byte"},
  };
  for (const auto& [text, want] : rows) {
    CAPTURE(text);
    const dsv4mx::Status status = dsv4mx::io::ParseSafetensorsIndex(text, "i.json", &map);
    CHECK(status.code == DSV4MX_STATUS_FORMAT_ERROR);
    CHECK(map.size() == 0);
    const std::string error = dsv4mx::LastError();
    CAPTURE(error);
    CHECK(error.find(want) != std::string::npos);
  }
}

TEST_CASE("safetensors index: more tensors or shards than any checkpoint has", "[io]") {
  dsv4mx::io::WeightMap map;
  std::string text = "{\"weight_map\":{";
  for (int i = 0; i < 65537; ++i) {
    const std::string n = std::to_string(i);
    text += (i > 0 ? ",\"" : "\"") + n + "\":\"" + n + "\"";
  }
  CHECK(dsv4mx::io::ParseSafetensorsIndex(text + "}}", "i.json", &map).code ==
        DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(std::string(dsv4mx::LastError()) == "i.json: the index names more than 65536 shards");
  text = "{\"weight_map\":{";
  for (int i = 0; i <= 1 << 21; ++i)
    text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"a\"";
  CHECK(dsv4mx::io::ParseSafetensorsIndex(text + "}}", "i.json", &map).code ==
        DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(std::string(dsv4mx::LastError()) == "i.json: the index names more than 2097152 tensors");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Most memory that a child process takes for `work` beyond what it begins with, in bytes.
int64_t PeakOf(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    work();
    _exit(0);
  }
  rusage usage{};
  int status = 0;
  REQUIRE(wait4(child, &status, 0, &usage) == child);
  REQUIRE(status == 0);
  return int64_t{usage.ru_maxrss} * 1024;
}

TEST_CASE("safetensors: large headers and indices take memory in proportion", "[io]") {
  std::string header = "{";
  for (int i = 0; header.size() < (size_t{16} << 20); ++i) {
    header += (i > 0 ? "," : "") + Entry("t" + std::to_string(i), "U8", "0", "0,0");
  }
  const std::string header_end = header + "}";
  const std::string meta =
      "{\"__metadata__\":{\"a\":\"" + std::string(size_t{16} << 20, 'x') + "\"}}";
  std::string index = "{\"weight_map\":{";
  for (int i = 0; index.size() < (size_t{16} << 20); ++i) {
    index += (i > 0 ? ",\"t" : "\"t") + std::to_string(i) + "\":\"a\"";
  }
  index += "}}";
  const int64_t before = PeakOf([] {});
  const auto parse = [](const std::string& text) {
    return [&text] {
      TensorTable table;
      if (!dsv4mx::io::ParseSafetensorsHeader(text, 8 + text.size(), "t", &table).ok()) _exit(1);
    };
  };
  CHECK(PeakOf(parse(header_end)) - before < int64_t{48} << 20);
  // One string that grows by doubling: how much of the halves malloc keeps depends on what ran before (97 MB were seen).
  CHECK(PeakOf(parse(meta)) - before < int64_t{112} << 20);
  CHECK(PeakOf([&] {
          dsv4mx::io::WeightMap map;
          if (!dsv4mx::io::ParseSafetensorsIndex(index, "t", &map).ok()) _exit(1);
        }) - before <
        int64_t{80} << 20);
}
#endif

}  // namespace
