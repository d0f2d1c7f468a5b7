// Where caches of idle sessions are put away.
#include <fmt/format.h>

#include "agent/ds4d/agent.h"
#include "agent/log/log.h"

namespace ds4::agent {

/// Without it the agent works as well: sessions that make room are fed again when they go on.
void Agent::open_kv_directory() {
  if (config_.kv.disk_mib == 0) return;
  const std::string path =
      config_.kv.directory.empty() ? config_.state_dir + "/kv" : config_.kv.directory;
  auto opened = KvDirectory::open(path);
  if (opened) {
    kv_directory_ = *std::move(opened);
  } else {
    log(LogLevel::kWarning, "idle sessions will not be put away on disk: {}",
        opened.error().message);
  }
}

StageOptions Agent::stage_options(const LayerRange& range) const {
  StageOptions options;
  options.decode_wait = std::chrono::milliseconds(config_.pipeline.decode_wait_ms);
  options.disk.directory = kv_directory_;
  options.disk.most_bytes = std::uint64_t{config_.kv.disk_mib} << 20;
  options.disk.after = std::chrono::seconds(config_.kv.disk_after_s);
  options.disk.maker = kv_maker(fmt::format("{} {} {} {}", model_->fingerprint(), range.to_string(),
                                            static_cast<int>(config_.engine.graph),
                                            static_cast<int>(config_.engine.device)));
  return options;
}

}  // namespace ds4::agent
