// Which kernels run for how many tokens: a pure function of layer, census, tokens and device over rows kept as data
// (tuning/sm90.csv, which says what a row means). Nothing here needs a device.
#ifndef DSV4MX_LIB_BASE_PLAN_H_
#define DSV4MX_LIB_BASE_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "kernels/launch.h"
#include "lib/base/backend.h"
#include "lib/base/generation.h"
#include "lib/base/spec.h"
#include "lib/base/status.h"

namespace dsv4mx {

const char* PathName(Path path);

// What the rows are keyed by.
struct PlanDevice {
  int32_t multiprocessors = 0;
  int32_t bandwidth = 0;  // a class of BandwidthClass
  const Generation* generation = &kSm90;
};
// The nearest class of CSV column gbps, or 0 where nothing is known.
int32_t BandwidthClass(int64_t gigabytes_per_second);

// The first kPaths rules give the width of a path's tiles, in the order of Path.
enum class PlanRule : int32_t {
#define X(path, name, step, widest) path,
#include "kernels/paths.def"
#undef X
  kPath,  // which path runs in W4A16
  kW4a8,  // and in W4A8
  kChunk,
  kFew,
  kHot,    // tokens of an expert above which f16 runs beside a path of planes
  kCold,   // and up to which planes run beside another path; less than kHot where both hold
  kLevel,  // 1: h of planes and of E4M3 is levelled; 0: not
  kMixed,  // 2^20 weights held here from which on this is worth its launches
};
inline constexpr int32_t kPlanRules = static_cast<int32_t>(PlanRule::kMixed) + 1;
constexpr PlanRule WidthRule(Path path) {
  return static_cast<PlanRule>(path);
}
enum class PlanShape : int32_t { kAny = 0, kSmall = 1, kLarge = 2 };
PlanShape ShapeOf(const LayerSpec& spec);  // never kAny

struct PlanRow {
  int32_t multiprocessors, bandwidth;  // 0 = any
  PlanShape shape;
  PlanRule rule;
  double rows_from;
  int32_t value;  // Path, width, tokens or 2^20 weights
  bool own;       // from the caller's file
  int32_t line;   // in its file
};

// Rows of the built-in table and, before them, of a caller's file. Immutable.
class PlanTable {
 public:
  // What a device needs of its generation's built-in rows and of those of a file, where `path` is not null. The widths that a
  // row may name are the generation's. FORMAT_ERROR names file, line, got and wanted; IO_ERROR a file that cannot be read.
  static Status Make(const char* path, const PlanDevice& device,
                     std::shared_ptr<const PlanTable>* out);
  // Appends the rows of one text. Every text begins with the line "dsv4mx-plan,1".
  static Status Parse(std::string_view text, const char* name, bool own,
                      const Generation& generation, std::vector<PlanRow>* rows);

  explicit PlanTable(std::vector<PlanRow> rows);
  // The same answers for one device. Rows of other devices are gone, and those that always lose to another: every apply
  // looks through the rest.
  PlanTable For(const PlanDevice& device) const;
  const std::vector<PlanRow>& rows() const { return rows_; }
  // Of what all rows say, those of other devices too, as a number.
  uint64_t Hash() const { return hash_; }
  // The row of `rule` that holds, or null.
  const PlanRow* Find(PlanRule rule, const PlanDevice& device, PlanShape shape, double rows) const;

 private:
  std::vector<PlanRow> rows_;
  uint64_t hash_;
};

// Experts that one launch of each GEMM computes.
struct PlanPart {
  Path path;
  int32_t width;        // most tokens of a tile
  int32_t least, most;  // tokens of such an expert
};

struct Plan {
  const Generation* generation = nullptr;
  Path path = Path::kPlanes;
  bool few = false;          // by the kernels for few pairs, whose tiles have a width of their own
  int32_t width = 0;         // most tokens of a tile
  int64_t chunk_tokens = 0;  // tokens computed at a time, fewer in the last chunk
  int64_t chunks = 0;
  int64_t launches = 0;    // of all chunks
  bool quantised = false;  // W4A8
  // Rows of h get one scale each between the GEMMs, and slots are of f16 in units of these, in all parts of planes or of E4M3.
  bool levelled = false;
  double rows = 0;  // tokens of one expert on average, within a chunk
  enum class Why { kRow, kEnds, kForced, kInvariant, kCensus } why = Why::kRow;
  const PlanRow* path_row = nullptr;   // of the table, where why is kRow or kEnds
  const PlanRow* width_row = nullptr;  // of the table
  // Experts with many tokens first, and every number of tokens in one part. The last holds 1, the first kAnyCount, and one has
  // path and width of the plan. More than one where routing may be uneven, and uneven routing dear.
  int32_t part_count = 1, main_part = 0;
  PlanPart parts[kMostParts] = {};
  // Experts of f16, which parts next to each other have. Behind GEMM2 both GEMMs are launched for them once more, in case that f16
  // could not hold h, or slots.
  bool has_f16() const {
    return std::any_of(parts, parts + part_count,
                       [](const PlanPart& part) { return part.path == Path::kF16; });
  }
};

// census null = the weights allow every path. tokens 1..kMaxTokens.
Plan MakePlan(const PlanTable& table, const LayerSpec& spec, const Census* census, int64_t tokens,
              const PlanDevice& device);

// Tokens of the largest chunk that any plan of at most `tokens` tokens has: what the workspace is sized for. It grows
// with tokens up to the chunk of the table, bounded so that the slots of a chunk stay below 4 GiB.
int64_t LargestChunk(const PlanTable& table, const LayerSpec& spec, int64_t tokens,
                     const PlanDevice& device);

// "planes, tiles of up to 4 tokens, 1 chunk ..., because ..." in one line.
void PrintPlan(const Plan& plan, const Census* census, int64_t tokens, const PlanDevice& device,
               char* text, size_t bytes);

// Refuses a forced path that weights with this census cannot take.
Status CheckPlanCensus(const LayerSpec& spec, const Census& census);
// Refuses an expert with which weights prepared with census `prepared` would need another path.
Status CheckPlanNewcomer(const Generation& generation, const Census& prepared, const Census& expert,
                         const char* what);

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_PLAN_H_
