#pragma once
// One client's completions: the ring, and a private queue for what does not fit into it now, so
// that the agent never waits for a client and never loses a final.
#include <cstdint>
#include <deque>
#include <string_view>

#include "ipc/region.h"
#include "ipc/status.h"

namespace ds4::ipc {

/// Entries that a final with the longest sentence needs.
inline constexpr std::uint32_t kFinalEntries = kMaxMessageBytes / kMessageFragmentBytes + 1;
/// Entries that one more token may need: itself, and a final that says why it was the last.
inline constexpr std::uint32_t kTokenRoom = 1 + kFinalEntries;
static_assert(kTokenRoom <= kMinRingEntries);

/// Thread rule: one thread at a time. The region must outlive it.
class Outlet {
 public:
  explicit Outlet(const Region& region) : ring_(region.completions()) {}

  /// Room in the ring for one more token and its consequences.
  bool has_room() { return queue_.empty() && ring_.space(kTokenRoom) >= kTokenRoom; }
  /// Slots free in the ring, after setting one's own want for space (waker.h).
  bool has_space_ordered(std::uint32_t entries);

  void token(std::uint64_t request_id, std::int32_t token, std::uint32_t position, float logprob);
  /// Dropped unless has_room(): progress is a courtesy, and the next one says more.
  void progress(std::uint64_t request_id, std::uint32_t done, std::uint32_t total);
  /// `sentence` is cut at kMaxMessageBytes and sent for errors only.
  void final(std::uint64_t request_id, Status status, std::string_view sentence,
             const FinalBody& body);

  /// Moves what fits from the queue into the ring.
  void drain();
  /// Shows what was pushed; before looking at the client's want for entries.
  void publish_ordered() {
    unpublished_ = 0;
    ring_.publish_ordered();
  }

  std::size_t queued() const { return queue_.size(); }
  bool broken() const { return ring_.broken(); }

 private:
  /// Shown at the next publish_ordered(), or with enough others: a tail that moves with every token
  /// would travel between two cores with every token.
  void push(const CompletionEntry& entry);
  void message(std::uint64_t request_id, std::string_view sentence);

  RingProducer<CompletionEntry> ring_;
  std::deque<CompletionEntry> queue_;
  std::uint32_t unpublished_ = 0;
};

}  // namespace ds4::ipc
