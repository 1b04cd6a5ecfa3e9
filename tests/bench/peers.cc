#include "tests/bench/peers.h"

#include <cstdlib>
#include <sstream>

#include "peers_data.h"

namespace dsv4mx::bench {

const std::vector<Peer>& Peers() {
  static const std::vector<Peer> all = [] {
    std::vector<Peer> rows;
    std::istringstream in(kPeersCsv);
    for (std::string line; std::getline(in, line);) {
      if (line.empty() || line[0] == '#') continue;
      std::istringstream fields(line);
      std::string field[7];
      for (std::string& f : field) std::getline(fields, f, ',');
      const auto number = [](const std::string& f) { return std::strtod(f.c_str(), nullptr); };
      rows.push_back({field[0], static_cast<int64_t>(number(field[1])), number(field[2]),
                      number(field[3]), field[4], number(field[5]), number(field[6])});
    }
    return rows;
  }();
  return all;
}

const Peer* PeerOf(const test::Problem& p) {
  if (p.tp != 1 || p.ep != 1 || p.dist != test::Dist::kUniform) return nullptr;
  for (const Peer& peer : Peers()) {
    const test::Problem model = test::Parse(peer.model);
    if (peer.tokens == p.tokens && model.hidden == p.hidden &&
        model.intermediate == p.intermediate && model.experts == p.experts &&
        model.top_k == p.top_k)
      return &peer;
  }
  return nullptr;
}

}  // namespace dsv4mx::bench
