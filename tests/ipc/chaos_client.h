#pragma once
// What one program of the chaos test does, and where it writes down what it got: in memory that it
// shares with the test, so that the stream survives its death.
#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace ds4::test {

struct ChaosRecord {
  static constexpr std::uint32_t kMostTokens = 512;
  std::atomic<std::uint32_t> tokens;  // in `stream`; published after they were written
  std::atomic<std::uint32_t> busy_retries;
  std::array<std::int32_t, kMostTokens> stream;
  std::array<char, 256> sentence;  // why it failed
};

/// Runs the client of `slot` against the agent at `socket`. True if it got all its answers.
bool run_chaos_client(const std::string& socket, std::uint32_t slot, std::uint32_t tokens,
                      ChaosRecord& record) noexcept;

}  // namespace ds4::test
