#pragma once
// A slice: the layers A..B of one model on one device, with the KV cache of every session on them.
//
// It is the seam between the engine and everything above: the agent, ds4-eval and the tests hold a
// Slice and never see a kernel. Token ids go in (they also travel with the activations, because
// hash layers route by id), the four residual streams go in unless the slice owns layer 0, and out
// come streams, or logits if the slice owns the output head, or the tokens sampled from them where
// they are, so that no logits need to leave the device. One call takes rows of many sessions at
// many positions.
//
// The rule every backend keeps: a row's result depends on that row's session alone, bit for bit.
// Not on the other rows of the call, nor on how a prompt was cut into calls, nor on the number of
// threads, nor on where the model was cut into slices. So batching, splitting and replaying can
// never change a token.
//
// Thread rule: one thread at a time calls a slice; it brings its own pool.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/base/result.h"
#include "engine/model/hyper_params.h"
#include "engine/residency/layer_range.h"
#include "engine/text/sampler.h"

namespace ds4 {

/// Names one session's KV cache in this slice; the caller chooses it.
using SessionId = std::uint64_t;

enum class LogitsWanted : std::uint8_t { kNone, kLast, kAll };

/// Consecutive tokens of one session.
struct Segment {
  SessionId session = 0;
  std::uint32_t first_position = 0;
  std::span<const std::int32_t> tokens;
  LogitsWanted logits = LogitsWanted::kNone;  // heeded where the slice owns the output head
  SamplingParams sampling = {};               // of the wanted rows, where tokens are asked for
};

/// rows = sum of the segments' tokens, in order. n_streams = HyperParams::n_streams (4).
struct SliceInput {
  std::span<const Segment> segments;
  std::span<const float> streams;  // {rows, n_streams, n_embd}; empty if the slice owns layer 0
};

struct SliceOutput {
  std::span<float> streams;  // {rows, n_streams, n_embd}; empty if the slice owns the output head
  std::span<float> logits;   // {wanted rows, n_vocab}; empty unless it does
  /// {wanted rows}, in place of logits: what Sampler::sample() gives for them, at the position
  /// behind the row's, bit for bit on every backend.
  std::span<SampledToken> tokens = {};
};

/// What a session held, taken out of its slice (Slice::detach_session). Whoever has it may read and
/// destroy it on any thread.
class DetachedSession {
 public:
  virtual ~DetachedSession() = default;
  /// All of it, in an order that a slice of the same model, layers and backend understands.
  virtual std::vector<std::span<const std::byte>> pieces() const = 0;
};

/// Fills the span with the next bytes of what DetachedSession::pieces() gave.
using SessionSource = std::function<Result<void>(std::span<std::byte>)>;

class Slice {
 public:
  virtual ~Slice() = default;

  virtual const HyperParams& params() const = 0;
  virtual const LayerRange& range() const = 0;
  /// The largest number of rows one forward() takes.
  virtual std::uint32_t max_rows() const = 0;

  /// Makes an empty KV cache for up to `context` positions. Errors: kResourceExhausted (with the
  /// bytes needed and left), kInvalidArgument if the session exists.
  virtual Result<void> open_session(SessionId session, std::uint32_t context) = 0;
  virtual void close_session(SessionId session) = 0;
  /// Makes `target` a second session that holds what `source` holds, for the same context; both go
  /// on apart. Errors: as open_session(), kNotFound if there is no source, kUnsupported where a
  /// backend cannot (callers then feed the tokens again).
  virtual Result<void> fork_session(SessionId source, SessionId target) {
    (void)source;
    (void)target;
    return fail(ErrorCode::kUnsupported, "this backend does not copy sessions");
  }
  /// Takes the session out: it is closed here, its memory goes with what is returned. Copies
  /// nothing where the cache lies in this process's memory. Errors: kNotFound, and kUnsupported
  /// where a backend cannot; then the session stays.
  virtual Result<std::unique_ptr<DetachedSession>> detach_session(SessionId session) {
    (void)session;
    return fail(ErrorCode::kUnsupported, "this backend does not hand sessions out");
  }
  /// Opens a session of `context` positions that holds `position` of them, read from `source`.
  /// Every bit is as it was. Errors: as open_session(), those of `source`, kUnsupported; then there
  /// is no such session.
  virtual Result<void> restore_session(SessionId session, std::uint32_t context,
                                       std::uint32_t position, const SessionSource& source) {
    (void)session, (void)context, (void)position, (void)source;
    return fail(ErrorCode::kUnsupported, "this backend takes no sessions back");
  }
  /// Positions held, i.e. the first_position that the next segment must have. kNotFound if unknown.
  virtual Result<std::uint32_t> position(SessionId session) const = 0;

  /// Runs the rows through the slice's layers and appends them to their sessions' caches. Checks
  /// everything first (token ids, positions, context, sizes); after an error no cache has changed.
  virtual Result<void> forward(const SliceInput& input, const SliceOutput& output) = 0;

  /// Bytes of KV cache held by all sessions, and what one session of `context` positions takes.
  virtual std::uint64_t kv_bytes() const = 0;
  virtual std::uint64_t kv_bytes_for(std::uint32_t context) const = 0;
};

}  // namespace ds4
