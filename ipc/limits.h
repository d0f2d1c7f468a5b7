#pragma once
// The bounds that one connection's requests are checked against, by both ends.
#include <cstdint>

namespace ds4::ipc {

inline constexpr float kMaxTemperature = 100;

struct RequestLimits {
  std::uint32_t vocabulary = 0;  // 0: there is no model
  /// Prompt tokens of one request; what a session holds besides is the agent's check.
  std::uint32_t context = 0;
  std::uint32_t max_requests = 32;  // in flight at once
  std::uint32_t max_stop_tokens = 64;
};

}  // namespace ds4::ipc
