// Any bytes as a cluster file: parsed or refused with a sentence, never more.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ctl/ds4ctl/cluster.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto cluster = ds4::ctl::parse_cluster(text, "cluster.toml");
  if (cluster) {
    if (cluster->nodes.empty()) std::abort();
    for (const auto& node : cluster->nodes) {
      if (node.name.empty() || !ds4::ctl::check_address(node.address)) std::abort();
      if (!cluster->find(node.name)) std::abort();
    }
  } else if (cluster.error().message.empty()) {
    std::abort();
  }
  return 0;
}
