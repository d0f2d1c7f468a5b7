#pragma once
// Many programs generate at once, and some of them are killed in the middle of it.
//
// Every client is a process of its own and does what its slot says: one answer, a session
// continued, a session forked, a tiny ring. First each slot runs alone: that is what its stream has
// to be. Then all run at once, and a slot whose program ends or is killed gets a new one at once,
// until all kills are done; the survivors finish. Streams must equal the quiet ones, those of
// killed programs as far as they got; and of the dead nothing may be left in the agents, by the
// kernel's account and by theirs.
#include <cstdint>
#include <string>
#include <vector>

namespace ds4::test {

struct ChaosPlan {
  std::uint32_t clients = 256;  // at once
  std::uint32_t kills = 200;    // in each round
  std::uint32_t rounds = 2;     // memory is compared between the ends of the rounds
  std::uint32_t agents = 2;     // one after another on the route, both with clients
  std::uint32_t tokens = 32;    // of one answer
  std::uint64_t seed = 1;       // of the choice of victims and moments
};

/// What one agent holds for its clients.
struct Holdings {
  std::uint64_t descriptors = 0;  // /proc/PID/fd
  std::uint64_t regions = 0;      // memfd mappings in /proc/PID/maps
  std::uint64_t shmem_kib = 0;    // RssShmem
  std::uint64_t anon_kib = 0;     // RssAnon
  std::uint64_t sessions = 0;     // its own counters
  std::uint64_t kv_bytes = 0;
};

struct ChaosReport {
  std::uint32_t kills = 0;
  std::uint32_t kills_before_first_token = 0;
  std::uint32_t kills_mid_stream = 0;
  std::uint32_t kills_after_last_token = 0;
  std::uint32_t streams = 0;        // complete ones
  std::uint64_t tokens = 0;         // of these
  std::uint32_t busy_retries = 0;   // requests and connections that were told to come back later
  std::vector<std::string> faults;  // empty: all is well
  /// before[agent] and after[round][agent]
  std::vector<Holdings> before;
  std::vector<std::vector<Holdings>> after;
  double quiet_s = 0;
  double chaos_s = 0;
};

/// Starts its own agents. Troubles with these fail the GoogleTest that is running.
ChaosReport run_chaos(const ChaosPlan& plan);

}  // namespace ds4::test
