// Tensor names, and text of files in messages.
#include <string>

#include "lib/base/names.h"
#include "lib/base/printable.h"
#include "tests/fuzz/fuzz_target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace dsv4mx;  // NOLINT: one short function
  using fuzz::Require;
  const std::string text(reinterpret_cast<const char*>(data), size);
  TensorName name;
  const bool found = FindTensorName(text, &name);
  if (found) {
    Require(name.family != nullptr && text.ends_with(name.suffix), "a name ends with its suffix");
    Require(!name.has_expert || name.expert_id >= 0, "an expert's number is not below 0");
    TensorName row;
    Require(TensorNameRow(name.rank, &row) && row.suffix == name.suffix, "a rank is a row");
    Require(CanonicalName(name.target, name.kind) != nullptr, "a target and a kind have a name");
  }
  const Status status = ParseTensorName(text, &name);
  Require(!status.ok() || found, "both searches find the same");
  if (!status.ok()) fuzz::CheckRefusal(status, {DSV4MX_STATUS_NOT_FOUND});
  std::string_view stem, rest;
  if (FindExpertsStem(text, &stem, &rest)) {
    Require(text.starts_with(stem) && text.ends_with(rest), "stem and rest are parts of the name");
    Require(stem.empty() || stem.ends_with('.'), "a stem ends with a dot");
  }
  const std::string printable = Printable(text);
  for (const char c : printable) {
    Require(static_cast<unsigned char>(c) >= 32 && c != 127, "printable text has no controls");
  }
  return 0;
}
