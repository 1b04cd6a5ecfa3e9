#include "tests/bench/report.h"

#include <stdlib.h>  // getloadavg

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dsv4mx::bench {
namespace {

using Json = nlohmann::ordered_json;

double Load() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1;
}

// JSON has no NaN or Inf; what was not measured is null.
Json Number(double v) {
  return std::isfinite(v) && v != 0 ? Json(v) : Json(nullptr);
}
Json Finite(double v) {
  return std::isfinite(v) ? Json(v) : Json(nullptr);
}

Json CeilingsJson(const DeviceCeilings& c) {
  Json j;
  j["device"] = c.device;
  if (!c.cuda) {
    j["read_gb_s"] = c.cpu.read_bytes / 1e9;
    j["fp32_gflop_s"] = c.cpu.flops / 1e9;
    j["load_average"] = Load();
    return j;
  }
  j["reader"] = c.gpu.reader;
  j["read_gb_s_burst"] = c.gpu.read_burst / 1e9;
  j["read_gb_s_sustained"] = c.gpu.read_sustained / 1e9;
  j["read_sm_mhz_sustained"] = c.gpu.read_mhz;
  j["dense_bf16_gflop_s_burst"] = Number(c.gpu.dense_burst / 1e9);
  j["dense_bf16_gflop_s_sustained"] = Number(c.gpu.dense_sustained / 1e9);
  j["dense_sm_mhz_sustained"] = Number(c.gpu.dense_mhz);
  if (!c.gpu.no_dense.empty()) j["no_dense_because"] = c.gpu.no_dense;
  return j;
}

Json TimeJson(const StateTime& s, const Work& work) {
  const double seconds = s.time.us * 1e-6;
  Json j;
  j["state"] = s.state;
  j["us"] = s.time.us;
  j["us_min"] = s.time.us_min;
  j["spread"] = s.time.spread;
  j["runs"] = s.time.runs;
  j["gb_s"] = Finite(work.bytes / seconds / 1e9);
  j["gflop_s"] = Finite(work.flop / seconds / 1e9);
  j["floor_us"] = Number(s.floor_us);
  j["fraction_of_ceiling"] = Number(s.floor_us / s.time.us);
  j["sm_mhz"] = Number(s.time.sm_mhz);
  j["sm_mhz_nvml"] = Number(s.time.nvml_mhz);
  j["watts"] = Number(s.time.watts);
  return j;
}

// Ratios to what others need, of the sustained time on a GPU.
const StateTime* PeerTime(const Result& r) {
  for (const StateTime& s : r.times) {
    if (s.state == "sustained" && PeerOf(r.problem) != nullptr) return &s;
  }
  return nullptr;
}

Json ResultJson(const Result& r) {
  Json j;
  j["given"] = r.given;
  j["problem"] = test::ProblemText(r.problem);
  j["seed"] = r.problem.seed;
  j["tokens"] = r.problem.tokens;
  j["backend"] = r.backend;
  j["plan"] = r.plan;
  j["experts_hit"] = r.work.experts;
  j["bytes"] = r.work.bytes;
  j["flop"] = r.work.flop;
  j["rotations"] = r.rotations;
  j["times"] = Json::array();
  for (const StateTime& s : r.times) j["times"].push_back(TimeJson(s, r.work));
  if (r.judged) {
    j["relative_l2_spec"] = Finite(r.score.spec);
    j["relative_l2_truth"] = Finite(r.score.truth);
    j["rows_judged"] = r.rows;
  }
  if (const StateTime* s = PeerTime(r)) {
    const Peer& peer = *PeerOf(r.problem);
    Json p;
    p["measured_on"] = "one H200";
    p["sglang_us"] = peer.sglang_us;
    p["sglang_over_this"] = peer.sglang_us / s->time.us;
    p["best"] = peer.best;
    p["best_us"] = peer.best_us;
    p["best_over_this"] = peer.best_us / s->time.us;
    p["target_us"] = Number(peer.target_us);
    p["target_fraction"] = Number(peer.target_fraction);
    j["peers"] = p;
  }
  j["error"] = r.error.empty() ? Json(nullptr) : Json(r.error);
  return j;
}

void PrintTime(std::FILE* table, const std::string& name, const StateTime& s, const Result& r) {
  const double seconds = s.time.us * 1e-6;
  std::fprintf(table, "%-32s %-9s %11.1f %11.1f %6.1f%% %8.1f %10.1f %10.1f", name.c_str(),
               s.state.c_str(), s.time.us, s.time.us_min, s.time.spread * 100,
               r.work.bytes / seconds / 1e9, r.work.flop / seconds / 1e9, s.floor_us);
  if (s.floor_us > 0) {
    std::fprintf(table, " %8.3f", s.floor_us / s.time.us);
  } else {
    std::fprintf(table, " %8s", "-");
  }
  if (r.judged) {
    std::fprintf(table, "  %8.2e", r.score.spec);
  } else {
    std::fprintf(table, "  %8s", "-");
  }
  if (s.time.sm_mhz > 0) std::fprintf(table, "  %.0f MHz", s.time.sm_mhz);
  if (s.time.nvml_mhz > 0)
    std::fprintf(table, " (NVML %.0f MHz, %.0f W)", s.time.nvml_mhz, s.time.watts);
  std::fprintf(table, "\n");
}

// The baseline's time of each state, and how many times this run's it is.
void PrintBaseline(std::FILE* table, const Baseline& baseline, const Result& r) {
  std::string found;
  for (const StateTime& s : r.times) {
    const double us = baseline.Us(test::ProblemText(r.problem), s.state);
    if (us <= 0) continue;
    char text[80];
    std::snprintf(text, sizeof text, "%s%s %.5g us (%.3fx)", found.empty() ? "" : ", ",
                  s.state.c_str(), us, us / s.time.us);
    found += text;
  }
  std::fprintf(table, "    in %s: %s\n", baseline.file().c_str(),
               found.empty() ? "not this problem" : found.c_str());
}

}  // namespace

Report::Report(std::string mode, std::string command, Baseline baseline, std::FILE* table)
    : mode_(std::move(mode)),
      command_(std::move(command)),
      baseline_(std::move(baseline)),
      table_(table) {}

void Report::Add(const DeviceCeilings& c) {
  std::FILE* const table = table_;
  ceilings_.push_back(c);
  header_ = false;
  std::fprintf(table, "\ndevice    %s\n", c.device.c_str());
  if (!c.cuda) {
    std::fprintf(
        table, "ceilings  read %.2f GB/s, fp32 multiply and add %.1f GFLOP/s; load average %.2f\n",
        c.cpu.read_bytes / 1e9, c.cpu.flops / 1e9, Load());
    return;
  }
  std::fprintf(table, "ceilings  read %.0f GB/s burst, %.0f GB/s sustained (%s, %.0f MHz)\n",
               c.gpu.read_burst / 1e9, c.gpu.read_sustained / 1e9, c.gpu.reader.c_str(),
               c.gpu.read_mhz);
  if (c.gpu.no_dense.empty()) {
    std::fprintf(table,
                 "          dense bf16 %.0f TFLOP/s burst, %.0f TFLOP/s sustained (%.0f MHz)\n",
                 c.gpu.dense_burst / 1e12, c.gpu.dense_sustained / 1e12, c.gpu.dense_mhz);
  } else {
    std::fprintf(table, "          dense bf16 not measured (%s): floors count bytes alone\n",
                 c.gpu.no_dense.c_str());
  }
}

void Report::Add(const Result& r) {
  std::FILE* const table = table_;
  results_.push_back(r);
  good_ = good_ && r.error.empty();
  const std::string name = r.given + (r.given.find("seed=") == std::string::npos ? " seed=1" : "");
  if (mode_ == "performance" && !header_) {
    header_ = true;
    std::fprintf(table, "\n%-32s %-9s %11s %11s %7s %8s %10s %10s %8s  %8s\n", "problem", "state",
                 "us median", "us min", "spread", "GB/s", "GFLOP/s", "floor us", "of it",
                 "L2 spec");
  }
  for (const StateTime& s : r.times) PrintTime(table, name, s, r);
  if (!baseline_.file().empty() && !r.times.empty()) PrintBaseline(table, baseline_, r);
  if (mode_ == "correctness" && r.error.empty()) {
    std::fprintf(table, "%-32s right: relative L2 %.2e to spec, %.2e to truth, %zu rows\n",
                 name.c_str(), r.score.spec, r.score.truth, r.rows.size());
  }
  if (!r.plan.empty()) std::fprintf(table, "    %s\n", r.plan.c_str());
  if (const StateTime* s = PeerTime(r)) {
    const Peer& peer = *PeerOf(r.problem);
    std::fprintf(table, "    on one H200: SGLang %.5g us (%.2fx), best peer %s %.5g us (%.2fx)",
                 peer.sglang_us, peer.sglang_us / s->time.us, peer.best.c_str(), peer.best_us,
                 peer.best_us / s->time.us);
    if (peer.target_us > 0) std::fprintf(table, ", target %.5g us", peer.target_us);
    std::fprintf(table, ", target %.2f of the floor\n", peer.target_fraction);
  }
  if (!r.error.empty()) std::fprintf(table, "%-32s FAILED: %s\n", name.c_str(), r.error.c_str());
  std::fflush(table);
}

void Report::WriteJson(const std::string& file, bool complete) const {
  Json j;
  j["tool"] = "dsv4mx-bench";
  j["version"] = dsv4mx_version_string();
  j["command"] = command_;
  j["mode"] = mode_;
  j["ceilings"] = Json::array();
  for (const DeviceCeilings& c : ceilings_) j["ceilings"].push_back(CeilingsJson(c));
  j["results"] = Json::array();
  for (const Result& r : results_) j["results"].push_back(ResultJson(r));
  j["complete"] = complete;
  j["good"] = good_;
  const std::string text = j.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (file == "-") {
    std::fputs(text.c_str(), stdout);
    return;
  }
  const std::string part = file + ".part";
  std::FILE* out = std::fopen(part.c_str(), "w");
  const bool written = out != nullptr && std::fputs(text.c_str(), out) >= 0;
  if (out == nullptr || std::fclose(out) != 0 || !written ||
      std::rename(part.c_str(), file.c_str()) != 0)
    throw std::runtime_error(file + ": cannot be written");
}

}  // namespace dsv4mx::bench
