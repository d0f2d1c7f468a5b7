#pragma once
// Frames: what stages say to one another while they compute.
//
// Work flows down the route, first stage to last; tokens flow from the last stage back to the stage
// whose agent serves the client (the entry). Every frame carries the route's epoch: a frame of
// another epoch is dropped. A work item carries the hash of the prefix it continues, so a stage
// that lost its cache (or never had it) says so instead of computing nonsense. Closing or
// copying a session follows its work down the same connections, so it can never overtake.
//
// On the wire: part 0 is encode_kind(), part 1 a little-endian header laid out in frame.cpp, and
// for work between stages part 2 the streams {rows, n_streams, n_embd} in the numbers that the
// header names. Decoders are pure, check everything, bound what they allocate by what they
// received, and are fuzzed. Every list in a frame has 1 to kMaxItems elements; encoders take frames
// that keep the bounds below.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/text/sampler.h"

namespace ds4::wire {

inline constexpr std::uint32_t kMaxItems = 1024;            // of one frame
inline constexpr std::uint32_t kMaxFrameTokens = 1u << 16;  // rows of one frame

/// The numbers of streams on their way between stages. Stages compute in float32 whatever travels.
enum class Activations : std::uint8_t {
  kFloat32,  // bit for bit
  kBf16,     // half the bytes; every value rounded to 8 significant bits
};

/// Consecutive tokens of one session, to be run and appended to its caches.
struct WorkItem {
  std::uint64_t session = 0;
  std::uint32_t first_position = 0;
  std::uint32_t context = 0;      // positions the session's cache is made for; same in every item
  std::uint64_t prefix_hash = 0;  // of the tokens before first_position (extend_hash)
  std::uint32_t entry = 0;        // index of the stage that awaits the token
  std::optional<SamplingParams> sample;  // set: sample after the last token; else just acknowledge
  std::vector<std::int32_t> tokens;
  bool operator==(const WorkItem&) const = default;
};

struct WorkFrame {
  std::uint64_t epoch = 0;
  std::vector<WorkItem> items;
  std::vector<float> streams;  // {rows, n_streams, n_embd}; empty on the way to the first stage
  Activations activations = Activations::kFloat32;  // what the streams travel as
};

/// The last stage's answer to one work item.
struct Outcome {
  std::uint64_t session = 0;
  std::uint32_t position = 0;  // the item's first position + its number of tokens
  std::int32_t token = -1;     // -1: acknowledged, nothing sampled
  float logprob = 0;
  bool operator==(const Outcome&) const = default;
};

struct TokenFrame {
  std::uint64_t epoch = 0;
  std::vector<Outcome> outcomes;
};

struct CloseFrame {
  std::uint64_t epoch = 0;
  std::vector<std::uint64_t> sessions;
};

/// Copies one session's caches under a new name. The source's place is said so that a stage which
/// holds something else refuses: the copy's entry learns it as if its work had failed.
struct ForkItem {
  std::uint64_t source = 0;
  std::uint64_t target = 0;
  std::uint64_t prefix_hash = 0;  // of the tokens before `position`
  std::uint32_t position = 0;     // at least 1
  std::uint32_t entry = 0;        // as of a WorkItem
  bool operator==(const ForkItem&) const = default;
};

struct ForkFrame {
  std::uint64_t epoch = 0;
  std::vector<ForkItem> items;
};

/// A stage could not run the items of these sessions; sent to the entry.
struct ErrorFrame {
  std::uint64_t epoch = 0;
  std::uint32_t stage = 0;
  std::vector<std::uint64_t> sessions;
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
};

/// Sent to every other stage several times a second.
struct PingFrame {
  std::uint64_t epoch = 0;
  std::uint32_t stage = 0;  // the sender's index
  /// Random for each process: another one means that the caches of the former are lost.
  std::uint64_t instance = 0;
  bool loaded = false;       // its slice is resident and can run
  bool hears_all = false;    // has had word from every other stage within the timeout
  bool route_ready = false;  // from stage 0: the canary has crossed this epoch's route
  /// With route_ready: digest_processes() of all stages as the canary found them. A stage that sees
  /// other processes than these knows that the word is out of date.
  std::uint64_t processes = 0;
  // From these the receiver learns the round trip without messages of their own: how long ago its
  // ping came here, and the time it carried. Microseconds of each sender's own clock; 0: none came.
  std::uint64_t sent_us = 0;
  std::uint64_t echo_us = 0;  // `sent_us` of the receiver's last ping
  std::uint64_t held_us = 0;  // from its arrival here to `sent_us`
};

std::string encode(const WorkFrame& frame);  // part 1 only
/// Part 2 of a frame with Activations::kBf16: to nearest, ties to even, NaN stays NaN. (With
/// kFloat32 it is the streams as they lie.)
std::vector<std::uint16_t> to_bf16(std::span<const float> streams);
std::string encode(const TokenFrame& frame);
std::string encode(const CloseFrame& frame);
std::string encode(const ForkFrame& frame);
std::string encode(const ErrorFrame& frame);
std::string encode(const PingFrame& frame);

/// `streams` must be rows * floats_per_row * 4 bytes (2, if the header says bf16), or none. Work
/// that begins a session has prefix hash 0, no item reaches beyond its context, and sampling
/// parameters are finite and in range. The streams' values are not looked at.  Errors: kCorrupt
/// naming the field.
Result<WorkFrame> decode_work(std::span<const std::byte> header, std::span<const std::byte> streams,
                              std::uint64_t floats_per_row);
Result<TokenFrame> decode_tokens(std::span<const std::byte> header);
Result<CloseFrame> decode_close(std::span<const std::byte> header);
Result<ForkFrame> decode_fork(std::span<const std::byte> header);
/// An error code unknown here becomes kInternal; control characters in the message become spaces.
Result<ErrorFrame> decode_error(std::span<const std::byte> header);
Result<PingFrame> decode_ping(std::span<const std::byte> header);

/// One number for the processes of a route, first stage to last.
std::uint64_t digest_processes(std::span<const std::uint64_t> instances);

/// Rolling hash of a session's tokens: start from 0, extend by what follows. Extending by parts or
/// at once gives the same.
std::uint64_t extend_hash(std::uint64_t hash, std::span<const std::int32_t> tokens);

}  // namespace ds4::wire
