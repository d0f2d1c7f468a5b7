#pragma once
// From a path to a shared region: connecting, saying hello, and checking what comes back.
#include <chrono>
#include <span>
#include <string>

#include "engine/base/unique_fd.h"
#include "ipc/client/outcome.h"
#include "ipc/region.h"

namespace ds4::ipc {

struct DialOptions {
  std::string socket_path;
  std::string name;
  std::uint32_t submission_entries = 0;  // wishes, as in Hello
  std::uint32_t completion_entries = 0;
  std::uint32_t arena_tokens = 0;
  std::chrono::milliseconds timeout{10'000};
};

/// A connection just made. Descriptors close with it.
struct Dialed {
  Welcome welcome;
  UniqueFd socket;
  UniqueFd doorbell;
  UniqueFd wake;
  Region region;
  Mapping metadata;  // empty if the agent has no model
};

/// DS4_SOCKET from the environment (not for set-user-id programs), else the system's agent.
std::string default_socket_path();

/// Blocks for at most `options.timeout`.
Outcome<Dialed> dial(const DialOptions& options);

/// The pure part: is this packet, which came with `fds` descriptors, a welcome that lets us in?
Outcome<Welcome> judge_welcome(std::span<const std::byte> packet, std::size_t fds);

}  // namespace ds4::ipc
