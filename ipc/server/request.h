#pragma once
// What a client asked for, after validation: private copies that nobody else can change.
#include <cstdint>
#include <variant>
#include <vector>

#include "ipc/layout.h"
#include "ipc/limits.h"

namespace ds4::ipc {

struct Sampling {
  float temperature = 0;  // 0: greedy; at most kMaxTemperature
  float top_p = 1;        // (0, 1]
  float min_p = 0;        // [0, 1)
  std::uint32_t top_k = 0;
  std::uint64_t seed = 0;
};

struct GenerateRequest {
  std::uint64_t id = 0;
  std::uint64_t session_id = 0;      // 0: a new session
  std::vector<std::int32_t> prompt;  // inside the vocabulary; empty only when a session continues
  std::vector<std::int32_t> stop;
  std::uint32_t max_tokens = 0;  // 0: to the context's end
  Sampling sampling;
  bool logprobs = false;
  bool keep_session = false;
  bool progress = false;
};

/// `id` may name a request that has just ended: then there is nothing to do.
struct CancelRequest {
  std::uint64_t id = 0;
};

struct CloseSessionRequest {
  std::uint64_t id = 0;
  std::uint64_t session_id = 0;
};

/// Answered like a close_session; the final names the copy.
struct ForkSessionRequest {
  std::uint64_t id = 0;
  std::uint64_t session_id = 0;
};

using Request =
    std::variant<GenerateRequest, CancelRequest, CloseSessionRequest, ForkSessionRequest>;

}  // namespace ds4::ipc
