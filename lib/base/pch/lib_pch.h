// What nearly every file of lib includes, compiled once where no ccache remembers more than that (lib/meson.build). Files
// include what they use all the same.
#ifndef DSV4MX_LIB_BASE_PCH_LIB_PCH_H_
#define DSV4MX_LIB_BASE_PCH_LIB_PCH_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#endif  // DSV4MX_LIB_BASE_PCH_LIB_PCH_H_
