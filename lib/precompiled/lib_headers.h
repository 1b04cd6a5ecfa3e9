// What most files of lib include, parsed once where Meson's b_pch is on. No file may count on it: CI builds without.
#include <absl/functional/function_ref.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>
