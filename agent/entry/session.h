#pragma once
// One session as its entry knows it: every token so far, and how far the route has been fed.
//
//     journal  [ prompt | answer | prompt | answer ... ]     all tokens, delivered ones included
//               ^ acknowledged    ^ fed             ^ size
//
// The route holds a cache of the first `fed` tokens under a route id. The last token of an answer
// is delivered before it is fed, and is fed only when the session goes on. A route id is used for
// one cache only: a replay takes a new one, so outcomes and errors that are still on their way for
// the former cache concern nobody.
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "agent/entry/rotation.h"
#include "agent/wire/frame.h"
#include "ipc/server/server.h"

namespace ds4::agent {

/// The request that a session is answering.
struct Answering {
  enum class Phase {
    kFeeding,   // its prompt, in chunks
    kStepping,  // its turn for the next decode step will come
    kAwaiting,
    kPaused  // the client has no room
  };

  ipc::ClientId client = 0;
  std::uint64_t id = 0;
  bool continues = false;        // a session that was kept
  std::size_t prompt_begin = 0;  // in the journal
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated = 0;  // tokens delivered
  std::uint32_t most_tokens = 0;
  std::vector<std::int32_t> stop;
  SamplingParams sampling;
  bool logprobs = false;
  bool keep = false;
  bool progress = false;
  std::uint32_t progress_done = 0;
  std::uint32_t attempts = 0;  // to get lost work done, since the last token
  Phase phase = Phase::kFeeding;
  bool step_in_flight = false;
};

class Session {
 public:
  Session(std::uint64_t id, ipc::ClientId client, UserId user)
      : id_(id), client_(client), user_(user) {}

  std::uint64_t id() const { return id_; }  // the client's name for it
  ipc::ClientId client() const { return client_; }
  UserId user() const { return user_; }
  Turn turn() const { return {user_, client_, id_}; }
  std::size_t size() const { return journal_.size(); }
  std::size_t unfed() const { return journal_.size() - fed_; }
  std::uint32_t fed() const { return fed_; }
  /// 0: no stage holds a cache.
  std::uint64_t route_id() const { return route_id_; }
  std::size_t chunks_in_flight() const { return chunks_.size(); }

  void append(std::span<const std::int32_t> tokens);
  /// Forgets the tokens from `size` on. Only for a session without a cache.
  void truncate(std::size_t size);

  /// A new, empty cache under `route_id` for `context` positions. Only for a session without one.
  void open(std::uint64_t route_id, std::uint32_t context);
  /// Takes over what `source` holds, and its cache as a copy under `route_id` (0: none).
  void copy(const Session& source, std::uint64_t route_id);
  /// What the stages must hold of this session to copy it.
  wire::ForkItem fork_item(std::uint64_t target, std::uint32_t entry) const;
  /// The cache is lost, or given up: the next feeding begins at position 0. Returns its route id,
  /// or 0.
  std::uint64_t lose();

  /// The next tokens to feed, at most `most`. The end of the journal is sampled after.
  wire::WorkItem next_item(std::uint32_t most, std::uint32_t entry, const SamplingParams& sampling);
  /// Remembers an item as a prefill chunk until it is acknowledged.
  void track(const wire::WorkItem& item);
  /// The tokens of the chunks that end at or before `position`.
  std::uint64_t acknowledge(std::uint32_t position);
  std::uint64_t tokens_in_flight() const;

  std::optional<Answering> answering;
  std::uint64_t last_used = 0;
  std::chrono::steady_clock::time_point moved{};  // when work was sent or answered

 private:
  struct Chunk {
    std::uint32_t end;
    std::uint32_t tokens;
  };

  const std::uint64_t id_;
  const ipc::ClientId client_;
  const UserId user_;
  std::vector<std::int32_t> journal_;
  std::uint64_t route_id_ = 0;
  std::uint32_t context_ = 0;
  std::uint32_t fed_ = 0;
  std::uint64_t fed_hash_ = 0;
  std::deque<Chunk> chunks_;
};

}  // namespace ds4::agent
