#pragma once
// One client's submissions: from hostile shared memory to validated requests.
//
// What is hostile is kept small: an entry is popped (copied once, ring.h), its arena tokens are
// copied once, and from then on only private memory is looked at. Mistakes that a polite but wrong
// program can make refuse that request with a sentence; what only a broken or malicious library can
// do (positions that jump, ids that do not grow) breaks the connection, because nothing that
// follows could be trusted to mean what it says.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ipc/region.h"
#include "ipc/server/request.h"
#include "ipc/server/token_budget.h"
#include "ipc/validate.h"

namespace ds4::ipc {

/// Thread rule: one thread at a time. The region must outlive it.
class Intake {
 public:
  /// `budget`, if any, is shared by all connections of one user and outlives them.
  Intake(const Region& region, const RequestLimits& limits, TokenBudget* budget = nullptr);
  ~Intake() { drop_pending(); }
  Intake(const Intake&) = delete;
  Intake& operator=(const Intake&) = delete;

  enum class What {
    kNothing,   // the ring is empty
    kAbsorbed,  // an entry was consumed that asks for nothing yet
    kRequest,   // `request` is to be carried out
    kRefused,   // request `id` has ended: it needs a final that says `refusal` and nothing else
    kBroken,    // hang up: `sentence` says why. Every later step says the same.
  };
  struct Step {
    What what = What::kNothing;
    Request request;
    std::uint64_t id = 0;
    Refusal refusal;
    std::string sentence;
  };

  /// Consumes at most one entry. Any request but a cancel counts as in flight from here
  /// on.
  Step next();
  /// Arena tokens that the last step stepped over, or the most that a fork copies: the measure of
  /// its work.
  std::uint32_t last_tokens() const { return last_tokens_; }

  /// Shows the client what has been consumed; to be followed by a look at its want for space.
  void release_ordered();
  /// After setting one's own want for entries (waker.h).
  bool empty_ordered() { return ring_.empty_ordered(); }
  /// A look in passing.
  bool has_entries() { return !ring_.empty(); }
  bool broken() const { return broken_ || ring_.broken(); }

  bool in_flight(std::uint64_t id) const;
  /// Removes a request from those in flight; false if it was not there.
  bool end(std::uint64_t id);
  std::size_t requests_in_flight() const { return in_flight_.size(); }

 private:
  /// The prompt that is arriving in parts; id 0: none.
  struct Pending {
    std::uint64_t id = 0;
    std::vector<std::int32_t> prompt;
    std::uint64_t prompt_tokens = 0;  // counts what was dropped, too
    std::optional<Refusal> refusal;   // the first one; reported with the generate
  };

  Step act(const SubmissionEntry& entry);
  Step on_part(const SubmissionEntry& entry);
  Step on_generate(const SubmissionEntry& entry);
  Step on_cancel(const SubmissionEntry& entry);
  Step on_other(const SubmissionEntry& entry);
  Step break_off(std::string sentence);
  static Step accept(Request request);
  static Step refuse(std::uint64_t id, Refusal refusal);
  static Step absorbed();

  /// Empty, or why the entry's id may not stand here.
  std::string admit_id(const SubmissionEntry& entry);
  /// Empty, or why the entry's place in the arena is impossible.
  std::string admit_arena(const SubmissionEntry& entry) const;
  void absorb_prompt(const SubmissionEntry& entry);
  std::vector<std::int32_t> take_arena(std::uint32_t tokens);
  void skip_arena(std::uint32_t tokens);
  bool take_budget(std::uint32_t tokens);
  Pending drop_pending();
  void refuse_pending(std::optional<Refusal> refusal);
  std::optional<Refusal> check_model() const;
  std::optional<Refusal> check_room() const;

  RequestLimits limits_;
  RingConsumer<SubmissionEntry> ring_;
  std::int32_t* arena_ = nullptr;
  std::uint32_t arena_tokens_ = 0;
  std::uint64_t* arena_head_word_ = nullptr;
  std::uint64_t arena_head_ = 0;  // ours; the shared word is only ever written
  std::uint64_t last_id_ = 0;
  std::uint32_t last_tokens_ = 0;
  Pending pending_;
  TokenBudget* budget_ = nullptr;
  std::vector<std::uint64_t> in_flight_;  // few: max_requests
  bool broken_ = false;
  std::string broken_sentence_;
};

}  // namespace ds4::ipc
