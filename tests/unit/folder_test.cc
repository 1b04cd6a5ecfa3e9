// Which files of a folder are its checkpoint: only those that belong, and a word for everything else
// (J9).
#include "lib/io/folder.h"

#include <sys/stat.h>

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

using dsv4mx::io::Checkpoint;
using dsv4mx::io::ChooseFromFolder;
using dsv4mx::io::FolderChoice;
using dsv4mx::test::TempFolder;

bool Has(const std::string& text, const std::string& part) {
  UNSCOPED_INFO("got: " << text << "\nwanted: " << part);
  return text.find(part) != std::string::npos;
}

void Write(const TempFolder& folder, const std::vector<const char*>& names) {
  for (const char* name : names) {
    const std::string tensor = std::string("t.") + name;
    dsv4mx::test::WriteFile(folder / name, dsv4mx::test::SafetensorsFile({{tensor, "U8", {3}}}));
  }
}

std::vector<std::string> Chosen(const TempFolder& folder, FolderChoice::Kind want) {
  FolderChoice choice;
  const dsv4mx::Status status = ChooseFromFolder(folder.path(), &choice);
  INFO(dsv4mx::LastError());
  REQUIRE(status.ok());
  CHECK(choice.kind == want);
  std::vector<std::string> names;
  for (const std::string& path : choice.paths) {
    names.push_back(std::filesystem::path(path).filename().string());
  }
  return names;
}

std::string Refused(const TempFolder& folder) {
  FolderChoice choice;
  CHECK(ChooseFromFolder(folder.path(), &choice).code == DSV4MX_STATUS_IO_ERROR);
  const std::string text = dsv4mx::LastError();
  CHECK(text.size() < 511);
  return text;
}

using Names = std::vector<std::string>;

TEST_CASE("[J9] folder: only regular files that belong", "[io]") {
  TempFolder folder;
  Write(folder, {"model.safetensors", "._model.safetensors", ".hidden.safetensors",
                 "other.safetensors.incomplete", "other.safetensors.part", "notes.txt"});
  std::filesystem::create_directory(folder / "folder.safetensors");
  std::filesystem::create_directory(folder / "model.safetensors.index.json");
  std::filesystem::create_symlink("nowhere", folder / "link.safetensors");
  REQUIRE(mkfifo((folder / "pipe.safetensors").c_str(), 0600) == 0);
  CHECK(Chosen(folder, FolderChoice::kFile) == Names{"model.safetensors"});

  // A hub cache: links to blobs whose names say nothing.
  TempFolder hub;
  std::filesystem::create_directory(hub / "blobs");
  std::filesystem::rename(folder / "model.safetensors", hub / "blobs/0123456789abcdef");
  std::filesystem::create_symlink("blobs/0123456789abcdef", hub / "model.safetensors");
  CHECK(Chosen(hub, FolderChoice::kFile) == Names{"model.safetensors"});
  std::unique_ptr<Checkpoint> checkpoint;
  CHECK(Checkpoint::Open(hub.path().c_str(), {}, &checkpoint).ok());

  // Where nothing belongs, what was left out is listed.
  const std::string text = Refused(folder);
  CHECK(Has(text, "no .safetensors or .gguf file in this folder"));
  CHECK(Has(text, "unfinished downloads: other.safetensors.incomplete, other.safetensors.part"));
  CHECK(Has(text, "._model.safetensors (a sidecar)"));
  CHECK(Has(text, ".hidden.safetensors (hidden)"));
  CHECK(Has(text, "folder.safetensors (a folder)"));
  CHECK(Has(text, "link.safetensors (a dangling link)"));
  CHECK(Has(text, "and 2 more"));
}

TEST_CASE("[J9] folder: an index decides, the main one of several", "[io]") {
  TempFolder folder;
  Write(folder, {"model-00001-of-00002.safetensors", "consolidated.safetensors",
                 "x.safetensors.index.json"});
  CHECK(Chosen(folder, FolderChoice::kIndex) == Names{"x.safetensors.index.json"});
  Write(folder, {"y.safetensors.index.json"});
  CHECK(Has(Refused(folder),
            "2 indices in this folder (x.safetensors.index.json, "
            "y.safetensors.index.json): name the one to read"));
  Write(folder, {"model.safetensors.index.json"});
  CHECK(Chosen(folder, FolderChoice::kIndex) == Names{"model.safetensors.index.json"});
}

TEST_CASE("[J9] folder: shards without an index", "[io]") {
  TempFolder folder;
  Write(folder, {"model-00002-of-00003.safetensors"});
  CHECK(Has(Refused(folder),
            "1 of 3 shards like 'model-00002-of-00003.safetensors' are here, "
            "missing: 1, 3; add them, or an index, or name one file"));
  Write(folder,
        {"model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors.incomplete"});
  CHECK(Has(Refused(folder),
            "missing: 3; unfinished downloads: "
            "model-00003-of-00003.safetensors.incomplete; add"));
  Write(folder, {"model-00003-of-00003.safetensors"});
  const Names shards = {"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                        "model-00003-of-00003.safetensors"};
  CHECK(Chosen(folder, FolderChoice::kShards) == shards);
  Write(folder, {"consolidated.safetensors"});  // the same in one piece
  CHECK(Chosen(folder, FolderChoice::kShards) == shards);
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(folder.path().c_str(), {}, &checkpoint).ok());
  CHECK(checkpoint->size() == 3);

  dsv4mx::test::WriteFile(
      folder / "model-00003-of-00003.safetensors",
      dsv4mx::test::SafetensorsFile({{"t.model-00001-of-00003.safetensors", "U8", {1}}}));
  CHECK(Checkpoint::Open(folder.path().c_str(), {}, &checkpoint).code ==
        DSV4MX_STATUS_FORMAT_ERROR);
  CHECK(Has(dsv4mx::LastError(),
            "is in two shards, 'model-00001-of-00003.safetensors' and "
            "'model-00003-of-00003.safetensors'"));

  Write(folder, {"adapter.safetensors"});
  CHECK(Has(Refused(folder), "3 checkpoints and no index in this folder"));
  for (const char* name : {"a-1-of.safetensors", "a-of-3.safetensors", "a-4-of-3.safetensors",
                           "a-0-of-3.safetensors", "a-x-of-3.safetensors", "a-1-of-3.bin",
                           "a--1-of-3.safetensors.x", "a-1-of-99999999999.safetensors"}) {
    std::string stem;
    int number = 0, total = 0;
    CAPTURE(name);
    CHECK_FALSE(dsv4mx::io::ParseShardName(name, &stem, &number, &total));
  }
}

TEST_CASE("[J7] folder: files of ranks", "[io]") {
  TempFolder folder;
  const auto write = [&](const char* name, const char* own) {
    dsv4mx::test::WriteFile(
        folder / name, dsv4mx::test::SafetensorsFile({{own, "U8", {3}}, {"shared", "U8", {3}}}));
  };
  write("model0-mp2.safetensors", "a");
  CHECK(Has(Refused(folder),
            "1 of 2 ranks' files like 'model0-mp2.safetensors' are here, missing: 1"));
  write("model1-mp2.safetensors", "b");
  CHECK(Chosen(folder, FolderChoice::kRanks) ==
        Names{"model0-mp2.safetensors", "model1-mp2.safetensors"});
  std::unique_ptr<Checkpoint> checkpoint;
  REQUIRE(Checkpoint::Open(folder.path().c_str(), {}, &checkpoint).ok());
  REQUIRE(checkpoint->size() == 3);
  dsv4mx::io::TensorPlace place;
  CHECK(checkpoint->Locate(0, &place).ok());
  CHECK(checkpoint->Locate(1, &place).ok());
  CHECK(checkpoint->Locate(2, &place).code == DSV4MX_STATUS_NOT_FOUND);
  CHECK(Has(dsv4mx::LastError(), "tensor 'shared' is in the files of several ranks"));
}

TEST_CASE("folder: what cannot be listed", "[io]") {
  TempFolder folder;
  dsv4mx::test::FileFaults faults;
  faults.readdir_error = EIO;
  const dsv4mx::test::WithFaults with(faults);
  CHECK(Has(Refused(folder), "cannot list the folder: Input/output error"));
}

}  // namespace
