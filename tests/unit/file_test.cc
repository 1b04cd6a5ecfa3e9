// Files whose reads fail: they shrink, their disk fails, they cannot be mapped, memory runs out (J3,
// J13). None of it is a signal, and the text names the file.
#include "lib/io/file.h"

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "dsv4mx.h"
#include "lib/io/checkpoint_reader.h"
#include "tests/catch.h"
#include "tests/file_faults.h"
#include "tests/safetensors_file.h"

namespace {

using dsv4mx::LastError;
using dsv4mx::io::Checkpoint;
using dsv4mx::io::File;
using dsv4mx::io::TensorPlace;
using dsv4mx::test::FileFaults;
using dsv4mx::test::TempFolder;
using dsv4mx::test::WithFaults;

bool Has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("got: " << text << "\nwanted: " << part);
  return text.find(part) != std::string::npos;
}

TEST_CASE("[J3] file: a read of what is no longer there names the file", "[io]") {
  TempFolder folder;
  const std::string path = folder / "model.bin";
  dsv4mx::test::WriteFile(path, std::string(10000, 'a'));
  File file;
  REQUIRE(File::Open(path, &file).ok());
  std::vector<char> to(10000);
  REQUIRE(file.Read(0, to.size(), to.data()).ok());
  CHECK(to[9999] == 'a');
  std::filesystem::resize_file(path, 5000);
  REQUIRE(file.Read(0, 5000, to.data()).ok());
  CHECK(file.Read(4000, 2000, to.data()).code == DSV4MX_STATUS_IO_ERROR);
  CHECK(Has(LastError(),
            "model.bin: the file became shorter while it was open: it ends before byte "
            "5000 of 10000"));
}

TEST_CASE("[J3] file: failing and partial reads", "[io]") {
  TempFolder folder;
  const std::string path = folder / "model.bin";
  std::string bytes;
  for (int i = 0; i < 1000; ++i) bytes += static_cast<char>(i);
  dsv4mx::test::WriteFile(path, bytes);
  File file;
  REQUIRE(File::Open(path, &file).ok());
  std::string to(1000, '\0');
  {
    FileFaults faults;
    faults.pread_most = 7;
    faults.interrupts = 3;
    const WithFaults with(faults);
    REQUIRE(file.Read(0, to.size(), to.data()).ok());
  }
  CHECK(to == bytes);
  {
    FileFaults faults;
    faults.pread_error = EIO;
    faults.reads_left = 2;
    faults.pread_most = 100;
    const WithFaults with(faults);
    CHECK(file.Read(0, to.size(), to.data()).code == DSV4MX_STATUS_IO_ERROR);
  }
  CHECK(Has(LastError(), "model.bin: cannot read: Input/output error"));
}

TEST_CASE("[J13] file: mappings are private, and optional", "[io]") {
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  dsv4mx::test::WriteFile(path, dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}}));
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(path.c_str(), {}, &checkpoint).ok());
  TensorPlace place;
  REQUIRE(checkpoint->Locate(0, &place).ok());
  const std::byte* data = nullptr;
  {
    FileFaults faults;
    faults.mmap_error = ENODEV;
    const WithFaults with(faults);
    CHECK(place.Map(&data).code == DSV4MX_STATUS_UNSUPPORTED);
    CHECK(Has(LastError(), "m.safetensors: cannot map: No such device; dsv4mx_checkpoint_read"));
    uint8_t byte = 0;
    REQUIRE(place.Read(2, 1, &byte).ok());
    CHECK(byte == 2);
  }
  {
    FileFaults faults;
    faults.mmap_error = ENOMEM;
    const WithFaults with(faults);
    CHECK(place.Map(&data).code == DSV4MX_STATUS_OUT_OF_MEMORY);
    CHECK(Has(LastError(), "m.safetensors: cannot map: Cannot allocate memory"));
  }
  REQUIRE(place.Map(&data).ok());  // the test's own mmap refuses shared ones
  CHECK(std::to_integer<int>(data[2]) == 2);
}

TEST_CASE("file: every read of an open may fail", "[io]") {
  TempFolder folder;
  const std::string path = folder / "m.safetensors";
  dsv4mx::test::WriteFile(path, dsv4mx::test::SafetensorsFile({{"a", "U8", {3}}}));
  const std::string index = folder / "model.safetensors.index.json";
  dsv4mx::test::WriteFile(index, R"({"weight_map":{"a":"m.safetensors"}})");
  for (const std::string& name : {path, index}) {
    bool failed = false, opened = false;
    for (int reads = 0; reads < 10 && !opened; ++reads) {
      FileFaults faults;
      faults.pread_error = EIO;
      faults.reads_left = reads;
      const WithFaults with(faults);
      std::unique_ptr<Checkpoint> checkpoint;
      const dsv4mx::Status status = Checkpoint::Open(name.c_str(), {}, &checkpoint);
      opened = status.ok();
      if (opened) continue;
      failed = true;
      CHECK(status.code == DSV4MX_STATUS_IO_ERROR);
      CHECK(Has(LastError(), "cannot read: Input/output error"));
    }
    CHECK(failed);
    CHECK(opened);
  }
  FileFaults faults;
  faults.opendir_error = ENOMEM;
  const WithFaults with(faults);
  std::unique_ptr<Checkpoint> checkpoint;
  CHECK(Checkpoint::Open(folder.path().c_str(), {}, &checkpoint).code ==
        DSV4MX_STATUS_OUT_OF_MEMORY);
  CHECK(Has(LastError(), "cannot list the folder: Cannot allocate memory"));
}

}  // namespace
