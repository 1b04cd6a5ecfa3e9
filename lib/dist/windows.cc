#include "lib/dist/windows.h"

#include <absl/cleanup/cleanup.h>

namespace dsv4mx::dist {

Status ShareWindows(Bootstrap* bootstrap, const CommSpec& spec, int64_t bytes,
                    const Control& control, Windows* out) {
  struct Name {
    char text[Region::kNameBytes];
  };
  Name mine{};
  std::shared_ptr<Region> own;
  const Status made = Region::MakeShared(static_cast<size_t>(bytes), mine.text, &own);
  const absl::Cleanup unlink = [&] {
    if (own != nullptr) Region::Unlink(mine.text);
  };
  DSV4MX_TRY(Agree(bootstrap, spec, made, control));
  std::vector<Name> names;
  DSV4MX_TRY(GatherOne(bootstrap, spec, mine, &names, control));
  Windows windows(static_cast<size_t>(spec.size));
  Status opened = kOk;
  for (size_t r = 0; r < windows.size() && opened.ok(); ++r) {
    names[r].text[Region::kNameBytes - 1] = '\0';
    if (static_cast<int32_t>(r) == spec.rank) {
      windows[r] = own;
    } else {
      opened = Region::Open(names[r].text, static_cast<size_t>(bytes), &windows[r]);
    }
  }
  DSV4MX_TRY(Agree(bootstrap, spec, opened, control));
  *out = std::move(windows);
  return kOk;
}

Status SharePrivateWindows(Bootstrap* bootstrap, const CommSpec& spec, int64_t bytes,
                           const Control& control, Windows* out) {
  std::shared_ptr<Region> own;
  const Status made = Region::MakePrivate(static_cast<size_t>(bytes), &own);
  DSV4MX_TRY(Agree(bootstrap, spec, made, control));
  // Ranks see each other's references: they last until all have copied them.
  std::vector<const std::shared_ptr<Region>*> all;
  const std::shared_ptr<Region>* mine = &own;
  DSV4MX_TRY(GatherOne(bootstrap, spec, mine, &all, control));
  Windows windows;
  for (const auto* one : all) windows.push_back(*one);
  DSV4MX_TRY(Agree(bootstrap, spec, kOk, control));
  *out = std::move(windows);
  return kOk;
}

}  // namespace dsv4mx::dist
