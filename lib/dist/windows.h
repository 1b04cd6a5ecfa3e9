// Makes the windows of a group and maps everybody's.
#ifndef DSV4MX_LIB_DIST_WINDOWS_H_
#define DSV4MX_LIB_DIST_WINDOWS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/dist/bootstrap.h"
#include "lib/dist/region.h"

namespace dsv4mx::dist {

using Windows = std::vector<std::shared_ptr<Region>>;

// Collective: ranks are processes of one host. All fail together, and no name stays behind.
Status ShareWindows(Bootstrap* bootstrap, const CommSpec& spec, int64_t bytes,
                    const Control& control, Windows* out);

// Collective: ranks are threads of one process, whose bootstrap carries references.
Status SharePrivateWindows(Bootstrap* bootstrap, const CommSpec& spec, int64_t bytes,
                           const Control& control, Windows* out);

}  // namespace dsv4mx::dist

#endif  // DSV4MX_LIB_DIST_WINDOWS_H_
