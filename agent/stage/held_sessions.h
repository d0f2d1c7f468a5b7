#pragma once
// The sessions that a stage's slice holds, and how far each has come.
//
// A session's place (position and hash of the tokens before it) is kept beside the slice's cache
// and moves only with a forward() that succeeded. A session that nobody has asked for a while may
// be put away on disk; work for it brings it back. When the slice has no memory left, the session
// that has been idle the longest goes: to disk if there is a store and it takes it, else for good.
//
// One thread at a time, but for what says otherwise.
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "agent/stage/kv_store.h"
#include "agent/stage/stage.h"
#include "agent/wire/frame.h"
#include "engine/model/slice.h"

namespace ds4::agent {

class HeldSessions {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// `slice` outlives it.
  HeldSessions(Slice& slice, const StageOptions& options);

  bool empty() const { return places_.empty(); }
  std::size_t size() const { return places_.size(); }

  /// Checks that the slice holds exactly the prefix that the item continues, opening the session
  /// where the item begins it and bringing it back where it was put away.
  Result<void> admit(const wire::WorkItem& item, TimePoint now);
  Result<void> fork(const wire::ForkItem& item, TimePoint now);
  /// The item has been run.
  void advance(const wire::WorkItem& item);
  void forget(std::uint64_t session);

  /// Puts away a session that has been idle for too long, if there is one. Takes no longer than to
  /// take it out of the slice: its bytes are written elsewhere (kv_store.h).
  bool put_away_idle(TimePoint now);
  /// When put_away_idle() is to be called again at the latest; nothing: not before there is work.
  std::optional<TimePoint> next_look() const;

  /// From any thread.
  KvStoreStats stored() const { return store_ ? store_->stats() : KvStoreStats{}; }

 private:
  struct Place {
    std::uint32_t context = 0;
    std::uint32_t position = 0;
    std::uint64_t hash = 0;
    TimePoint last_used;
  };
  using Places = std::unordered_map<std::uint64_t, Place>;

  Result<void> open(const wire::WorkItem& item, TimePoint now);
  /// Back into the slice, if it was put away.
  Result<void> bring_back(std::uint64_t session, TimePoint now);
  /// `make` until it finds room or nobody is left who could make some.
  template <typename Make>
  Result<void> with_room(TimePoint now, Make&& make);
  bool make_room(TimePoint now);
  Places::iterator longest_idle();
  /// False: the session stays.
  bool put_away(Places::iterator held);

  Slice& slice_;
  const StageOptions options_;
  const std::unique_ptr<KvStore> store_;  // null: sessions are never put away
  Places places_;
  TimePoint next_look_{};
};

}  // namespace ds4::agent
