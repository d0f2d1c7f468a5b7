// Work that vanished: a connection broke and was made anew with frames in it, and the route never
// stopped being ready. Nobody will ever answer, so after a time the entry asks again.
#include <fmt/format.h>

#include <algorithm>

#include "agent/entry/entry_impl.h"

namespace ds4::agent {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPerPromptToken{100};  // the slowest prefill that is worth waiting for

}  // namespace

bool Entry::Impl::is_lost(const Session& session) const {
  const bool awaited = session.answering && session.answering->phase == Answering::Phase::kAwaiting;
  if (!awaited && session.chunks_in_flight() == 0) return false;
  const std::uint32_t attempts = session.answering ? session.answering->attempts : 0;
  const milliseconds allowed = config.lost_after * (1U << std::min(attempts, kMaxAttempts)) +
                               kPerPromptToken * tokens_in_flight;
  return now - session.moved > allowed;
}

void Entry::Impl::recover(Session& session) {
  if (!session.answering) return give_up_cache(session);  // its request was cancelled
  if (session.answering->attempts++ < kMaxAttempts) return replay(session);
  finish(session, ipc::Status::kPeerLost,
         fmt::format("the route took the work {} times and answered nothing; try again",
                     kMaxAttempts + 1));
}

void Entry::Impl::look_for_lost_work(std::chrono::steady_clock::time_point time) {
  now = time;
  if (!ready || config.lost_after == milliseconds::zero()) return;
  std::vector<Session*> lost;
  for (const auto& [id, session] : by_id) {
    if (is_lost(*session)) lost.push_back(session.get());
  }
  for (Session* session : lost) recover(*session);
}

}  // namespace ds4::agent
