#pragma once
// What a node has done, in numbers: part of its status, and of what it tells Prometheus.
//
// Nearly all are totals that only grow. A node keeps no averages and no windows: whoever wants
// rates asks twice, subtracts, and divides by the difference of `clock_us`. Totals begin anew with
// every epoch and every process; a reader sees that by a total that has become smaller.
#include <cstdint>
#include <string>

namespace ds4::wire {

/// Of the stage that serves. Times are the engine thread's.
struct StageFigures {
  std::uint64_t clock_us = 0;  // when these were read, by the node's own steady clock
  std::uint64_t batches = 0;
  std::uint64_t decode_rows = 0;   // of items of one token
  std::uint64_t prefill_rows = 0;  // of longer ones
  std::uint64_t tokens = 0;        // sampled: by the stage that owns the output head alone
  std::uint64_t compute_us = 0;    // inside passes through the layers
  /// Without work between two batches, while sessions were open and the pause was short: longer
  /// ones mean that nobody was asking anything.
  std::uint64_t wait_us = 0;
  std::uint64_t queue_us = 0;      // from an item's arrival to the batch it was in; of all together
  std::uint64_t queue_items = 0;   // that `queue_us` is of
  std::uint64_t waiting_rows = 0;  // at this moment; no total
  std::uint64_t stored_sessions = 0;  // put away on disk at this moment; no total
  std::uint64_t stored_bytes = 0;     // theirs; no total
  std::uint64_t saves = 0;            // caches written to disk
  std::uint64_t restores = 0;         // sessions that went on from there
  std::uint64_t send_us = 0;  // from a batch's end until its frames were handed on; of all together
  std::uint64_t send_frames = 0;  // that `send_us` is of
  bool operator==(const StageFigures&) const = default;
};

/// Of the links to one other node of the route, pings not counted.
struct LinkFigures {
  std::string node;
  std::uint64_t frames_sent = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t frames_received = 0;  // 0 where nobody has to prove who he is (insecure = true)
  std::uint64_t bytes_received = 0;
  std::uint64_t round_trip_us = 0;  // of the last ping, main loop to main loop; 0: not known yet
  bool operator==(const LinkFigures&) const = default;
};

/// Of this machine's programs, since the agent started.
struct ClientFigures {
  std::uint64_t connected = 0;  // at this moment; no total
  std::uint64_t requests = 0;   // that have ended, in whatever way
  std::uint64_t failed = 0;     // of them, those that ended with an error
  std::uint64_t prompt_tokens = 0;
  std::uint64_t tokens = 0;  // of answers
  bool operator==(const ClientFigures&) const = default;
};

}  // namespace ds4::wire
