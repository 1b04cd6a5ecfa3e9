#include "tests/bench/baseline.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dsv4mx::bench {

void Baseline::Read(const std::string& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error("--baseline: " + file + " cannot be read");
  try {
    const nlohmann::json j = nlohmann::json::parse(in);
    for (const auto& result : j.at("results")) {
      for (const auto& time : result.at("times")) {
        us_[{result.at("problem").get<std::string>(), time.at("state").get<std::string>()}] =
            time.at("us").get<double>();
      }
    }
  } catch (const nlohmann::json::exception&) {
    throw std::runtime_error("--baseline: " + file + " is not JSON of dsv4mx-bench");
  }
  file_ = file;
}

double Baseline::Us(const std::string& problem, const std::string& state) const {
  const auto it = us_.find({problem, state});
  return it == us_.end() ? 0 : it->second;
}

}  // namespace dsv4mx::bench
