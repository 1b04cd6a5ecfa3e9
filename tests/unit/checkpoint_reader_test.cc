// Checkpoints on disk: one file, shards with an index, folders.
#include <sys/resource.h>
#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dsv4mx.h"
#include "lib/io/abi_tensor.h"
#include "lib/io/checkpoint_reader.h"
#include "tests/catch.h"
#include "tests/safetensors_file.h"

namespace {

using dsv4mx::DType;
using dsv4mx::io::Checkpoint;
using dsv4mx::io::TensorPlace;
using dsv4mx::test::TempFolder;

std::string ErrorOf(const std::string& path, dsv4mx_status want) {
  std::unique_ptr<Checkpoint> checkpoint;
  const dsv4mx::Status status = Checkpoint::Open(path.c_str(), {}, &checkpoint);
  CHECK(status.code == want);
  CHECK(checkpoint == nullptr);
  const std::string error = status.ok() ? "" : dsv4mx::LastError();
  CHECK(error.find('\n') == std::string::npos);
  return error;
}

std::unique_ptr<Checkpoint> Open(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint;
  const dsv4mx::Status status = Checkpoint::Open(path.c_str(), {}, &checkpoint);
  INFO(dsv4mx::LastError());
  REQUIRE(status.ok());
  return checkpoint;
}

TensorPlace Locate(const Checkpoint& checkpoint, const char* name) {
  TensorPlace place;
  REQUIRE(checkpoint.Find(name) < checkpoint.size());
  const dsv4mx::Status status = checkpoint.Locate(checkpoint.Find(name), &place);
  INFO(dsv4mx::LastError());
  REQUIRE(status.ok());
  return place;
}

std::string LocateError(const Checkpoint& checkpoint, const char* name, dsv4mx_status want) {
  TensorPlace place;
  REQUIRE(checkpoint.Find(name) < checkpoint.size());
  CHECK(checkpoint.Locate(checkpoint.Find(name), &place).code == want);
  return dsv4mx::LastError();
}

bool Has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("got: " << text << "\nwanted: " << part);
  return text.find(part) != std::string::npos;
}

TEST_CASE("checkpoint: one file, by its name and by its folder", "[io]") {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "model.safetensors",
                          dsv4mx::test::SafetensorsFile({{"z", "U8", {3}}, {"a", "BF16", {2, 2}}}));
  for (const std::string& path : {folder / "model.safetensors", folder.path()}) {
    std::unique_ptr<Checkpoint> checkpoint;
    REQUIRE(Checkpoint::Open(path.c_str(), {}, &checkpoint).ok());
    REQUIRE(checkpoint->size() == 2);
    CHECK(checkpoint->name(0) == "a");  // name order, not file order
    CHECK(checkpoint->name(1) == "z");
    TensorPlace place;
    REQUIRE(checkpoint->Find("a") == 0);
    REQUIRE(checkpoint->Locate(0, &place).ok());
    uint8_t byte = 0;
    REQUIRE(place.Read(1, 1, &byte).ok());
    CHECK(byte == 4);
    const std::byte* mapped = nullptr;
    REQUIRE(place.Map(&mapped).ok());
    CHECK(std::to_integer<int>(mapped[0]) == 3);
    CHECK(checkpoint->Find("aa") == 2);
    CHECK(checkpoint->Find("") == 2);
  }
}

TEST_CASE("checkpoint: shards with an index", "[io]") {
  TempFolder folder;
  dsv4mx::test::WriteFile(folder / "s1.safetensors",
                          dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}, {"stale", "U8", {1}}}));
  dsv4mx::test::WriteFile(
      folder / "s2.safetensors",
      dsv4mx::test::SafetensorsFile({{"b", "U8", {2}}, {"c", "U8", {1}}, {"a", "U8", {9}}}));
  const std::string index = folder / "model.safetensors.index.json";
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"c":"s2.safetensors","a":"s1.safetensors",)"
                                 R"("b":"s2.safetensors"}})");
  for (const std::string& path : {index, folder.path()}) {
    const auto checkpoint = Open(path);
    REQUIRE(checkpoint->size() == 3);
    CHECK(Locate(*checkpoint, "a").info.bytes == 3);  // the index decides between two files
    CHECK(Locate(*checkpoint, "b").info.bytes == 2);
    CHECK(checkpoint->Find("stale") == checkpoint->size());
  }
  // A shard matters when a tensor of its is wanted.
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"a":"s1.safetensors","b":"s3.safetensors",)"
                                 R"("d":"s1.safetensors","e":"s4.safetensors"}})");
  dsv4mx::test::WriteFile(folder / "s4.safetensors", "");
  const auto checkpoint = Open(index);
  CHECK(Locate(*checkpoint, "a").info.bytes == 3);
  CHECK(Has(LocateError(*checkpoint, "b", DSV4MX_STATUS_IO_ERROR),
            "s3.safetensors: cannot open: No such file"));
  CHECK(Has(LocateError(*checkpoint, "d", DSV4MX_STATUS_FORMAT_ERROR),
            "tensor 'd' is not in the shard that the index names, 's1.safetensors'"));
  CHECK(Has(LocateError(*checkpoint, "e", DSV4MX_STATUS_FORMAT_ERROR),
            "s4.safetensors: the file is empty"));
  // A shard that comes later is found.
  dsv4mx::test::WriteFile(folder / "s3.safetensors",
                          dsv4mx::test::SafetensorsFile({{"b", "U8", {7}}}));
  CHECK(Locate(*checkpoint, "b").info.bytes == 7);

  dsv4mx::test::WriteFile(index, "{}");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR), "has no weight_map"));
  dsv4mx::test::WriteFile(index, "");
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR), "is not valid JSON"));
}

TEST_CASE("checkpoint: only names of a prefix", "[io]") {
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  dsv4mx::test::WriteFile(path, dsv4mx::test::SafetensorsFile({{"a.experts.0.w1.weight", "U8", {3}},
                                                               {"b.experts.0.w1.weight", "U8", {3}},
                                                               {"b.x", "U8", {3}},
                                                               {"c", "U8", {3}}}));
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(path.c_str(), {"b."}, &checkpoint).ok());
  REQUIRE(checkpoint->size() == 2);
  CHECK(checkpoint->name(1) == "b.x");
  CHECK(checkpoint->stems() == std::vector<std::string>{"b."});
  CHECK(checkpoint->Find("c") == 2);
  REQUIRE(Checkpoint::Open(path.c_str(), {"d"}, &checkpoint).ok());
  CHECK(checkpoint->size() == 0);
}

TEST_CASE("checkpoint: headers and indices larger than any real one are not read", "[io]") {
  TempFolder folder;  // of files that are all hole
  const std::string index = folder / "model.safetensors.index.json";
  dsv4mx::test::WriteFile(index, "{");
  std::filesystem::resize_file(index, (uintmax_t{128} << 20) + 1);
  CHECK(Has(ErrorOf(index, DSV4MX_STATUS_FORMAT_ERROR),
            "index of 134217729 bytes, at most 134217728 are read"));
  const std::string file = folder / "model.safetensors";
  dsv4mx::test::WriteFile(file, std::string("\x01\xe1\xf5\x05\0\0\0\0{", 9));
  std::filesystem::resize_file(file, 100'000'009);
  CHECK(Has(ErrorOf(file, DSV4MX_STATUS_FORMAT_ERROR),
            "header of 100000001 bytes, at most 100000000 are read"));
}

TEST_CASE("checkpoint: what is no checkpoint is refused with its reason", "[io]") {
  TempFolder folder;
  CHECK(Has(ErrorOf(folder / "none.safetensors", DSV4MX_STATUS_IO_ERROR),
            "cannot open: No such file or directory"));
  CHECK(Has(ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR),
            "no .safetensors or .gguf file in this folder"));
  CHECK(Has(ErrorOf("", DSV4MX_STATUS_IO_ERROR), "cannot open"));
  rlimit files{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
  const rlimit none{0, files.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
  const std::string unlisted = ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR);
  REQUIRE(setrlimit(RLIMIT_NOFILE, &files) == 0);
  CHECK(Has(unlisted, "cannot list the folder: Too many open files"));
  REQUIRE(mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK(Has(ErrorOf(folder / "pipe", DSV4MX_STATUS_IO_ERROR), "not a regular file"));
  dsv4mx::test::WriteFile(folder / "pytorch_model.bin",
                          std::string("PK\x03\x04", 4) + std::string(60, 'x'));
  CHECK(Has(ErrorOf(folder / "pytorch_model.bin", DSV4MX_STATUS_FORMAT_ERROR), "PyTorch pickle"));
  dsv4mx::test::WriteFile(folder / "a.safetensors",
                          dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}}));
  dsv4mx::test::WriteFile(folder / "b.safetensors",
                          dsv4mx::test::SafetensorsFile({{"b", "U8", {3}}}));
  CHECK(Has(ErrorOf(folder.path(), DSV4MX_STATUS_IO_ERROR),
            "2 checkpoints and no index in this folder (a.safetensors, b.safetensors): name"));
}

TEST_CASE("checkpoint: a tensor in the words of the header", "[io]") {
  dsv4mx::io::TensorInfo view;
  view.name = "t";
  view.dtype = DType::kF8E8M0;
  view.rank = 2;
  view.shape = {5, 7};
  dsv4mx_tensor tensor{};
  REQUIRE(dsv4mx::io::ToAbiTensor(view, nullptr, &tensor).ok());
  CHECK(tensor.struct_size == sizeof(tensor));
  CHECK(tensor.dtype == DSV4MX_DTYPE_E8M0);
  CHECK(tensor.rank == 2);
  CHECK(tensor.shape[0] == 5);
  CHECK(tensor.shape[1] == 7);
  CHECK(tensor.stride[0] == 0);
  view.rank = 0;
  REQUIRE(dsv4mx::io::ToAbiTensor(view, nullptr, &tensor).ok());
  CHECK(tensor.rank == 1);
  CHECK(tensor.shape[0] == 1);
  view.rank = 5;
  CHECK(dsv4mx::io::ToAbiTensor(view, nullptr, &tensor).code == DSV4MX_STATUS_UNSUPPORTED_SHAPE);
  CHECK(Has(dsv4mx::LastError(), "rank 5"));

  const std::pair<DType, dsv4mx_dtype> dtypes[] = {
      {DType::kBF16, DSV4MX_DTYPE_BF16},   {DType::kF32, DSV4MX_DTYPE_F32},
      {DType::kF16, DSV4MX_DTYPE_F16},     {DType::kI8, DSV4MX_DTYPE_I8},
      {DType::kU8, DSV4MX_DTYPE_U8},       {DType::kF4, DSV4MX_DTYPE_E2M1},
      {DType::kF8E4M3, DSV4MX_DTYPE_E4M3}, {DType::kF8E5M2, DSV4MX_DTYPE_E5M2},
      {DType::kI32, DSV4MX_DTYPE_I32},     {DType::kI64, DSV4MX_DTYPE_I64},
      {DType::kF64, DSV4MX_DTYPE_F64},     {DType::kBool, DSV4MX_DTYPE_OTHER}};
  for (const auto& [dtype, want] : dtypes) CHECK(dsv4mx::AbiDType(dtype) == want);
}

}  // namespace
