#pragma once
// Two nodes of a six-layer model and what they say of themselves; shared by the assignment's tests.
#include <string>
#include <vector>

#include "agent/wire/control.h"
#include "ctl/ds4ctl/assign_plan.h"

namespace ds4::ctl::testing_nodes {

inline Cluster two_nodes() {
  return {{{"alpha", "tcp://10.0.0.1:7341"}, {"beta", "tcp://10.0.0.2:7341"}}, "cluster.toml"};
}

inline wire::NodeStatus idle(const std::string& name) {
  wire::NodeStatus status;
  status.name = name;
  status.model = "/models/m.gguf";
  status.fingerprint = "00112233445566778899aabbccddeeff";
  status.block_count = 6;
  return status;
}

inline std::vector<Wish> wishes(const std::vector<std::string>& words) {
  return read_wishes(two_nodes(), words).value();
}

}  // namespace ds4::ctl::testing_nodes
