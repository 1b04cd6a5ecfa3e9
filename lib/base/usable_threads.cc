#include "lib/base/usable_threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

namespace dsv4mx {
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

bool ReadLine(const std::string& path, char* line, int bytes) {
  const File file(std::fopen(path.c_str(), "re"), std::fclose);
  return file != nullptr && std::fgets(line, bytes, file.get()) != nullptr;
}

// Quota / period of one group, or infinity if it has none.
double QuotaV2(const std::string& folder) {
  char line[128];
  double quota, period;
  if (ReadLine(folder + "/cpu.max", line, sizeof line) &&
      std::sscanf(line, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0) {
    return quota / period;
  }
  return INFINITY;
}
double QuotaV1(const std::string& folder) {
  char quota[64], period[64];
  if (ReadLine(folder + "/cpu.cfs_quota_us", quota, sizeof quota) &&
      ReadLine(folder + "/cpu.cfs_period_us", period, sizeof period) && std::atof(quota) > 0 &&
      std::atof(period) > 0) {
    return std::atof(quota) / std::atof(period);
  }
  return INFINITY;
}

// The smallest quota from the group at `path` up to the mount. Inside a container the path may name a group that is
// not mounted here; the mount itself is then the container's group, and it is always looked at.
double SmallestQuota(const std::string& mount, std::string path,
                     double (*quota)(const std::string&)) {
  double least = quota(mount);
  while (!path.empty() && path != "/") {
    least = std::min(least, quota(mount + path));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return least;
}

double CgroupQuota() {
  double least = INFINITY;
  const File file(std::fopen("/proc/self/cgroup", "re"), std::fclose);
  if (file == nullptr) return least;
  char line[4096];
  while (std::fgets(line, sizeof line, file.get()) != nullptr) {  // "id:controllers:path"
    line[std::strcspn(line, "\n")] = 0;
    const char* controllers = std::strchr(line, ':');
    if (controllers == nullptr) continue;
    const char* path = std::strchr(controllers + 1, ':');
    if (path == nullptr) continue;
    std::string names(",");
    names.append(controllers + 1, path).push_back(',');
    if (names == ",,") {
      least = std::min(least, SmallestQuota("/sys/fs/cgroup", path + 1, QuotaV2));
      least = std::min(least, SmallestQuota("/sys/fs/cgroup/unified", path + 1, QuotaV2));
    } else if (names.find(",cpu,") != std::string::npos) {
      for (const char* mount : {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
        least = std::min(least, SmallestQuota(mount, path + 1, QuotaV1));
      }
    }
  }
  return least;
}

int AffinityCount() {
  // A mask larger than cpu_set_t is possible on large machines: grow until the kernel is satisfied.
  for (int cpus = CPU_SETSIZE; cpus <= 1 << 16; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cpus));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

}  // namespace

int UsableThreads() {
  const double quota = CgroupQuota();
  int threads = AffinityCount();
  if (quota < threads) threads = static_cast<int>(std::ceil(quota));
  return std::clamp(threads, 1, 4096);
}

}  // namespace dsv4mx
