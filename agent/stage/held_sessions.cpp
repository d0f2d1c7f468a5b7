#include "agent/stage/held_sessions.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::agent {
namespace {

/// Sessions that wait for their turn, or whose token is on its way round the route, are not idle.
/// Putting one away costs little, so this need not be the time after which one is forgotten.
constexpr std::chrono::seconds kSettled{5};
/// Looks in the time after which sessions are put away.
constexpr int kLooks = 8;

std::unique_ptr<KvStore> make_store(const KvDiskOptions& disk) {
  if (disk.directory == nullptr || disk.most_bytes == 0) return nullptr;
  return std::make_unique<KvStore>(disk.directory, disk.most_bytes, disk.maker);
}

}  // namespace

HeldSessions::HeldSessions(Slice& slice, const StageOptions& options)
    : slice_(slice), options_(options), store_(make_store(options.disk)) {}

// ---- what stages ask -------------------------------------------------------------------------

Result<void> HeldSessions::admit(const wire::WorkItem& item, TimePoint now) {
  if (item.first_position == 0) return open(item, now);
  DS4_TRY(bring_back(item.session, now));
  const auto found = places_.find(item.session);
  if (found == places_.end()) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session is not held here, but its work begins at position {}",
                            item.first_position));
  }
  if (found->second.position != item.first_position) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session is at position {}, but its work begins at {}",
                            found->second.position, item.first_position));
  }
  if (found->second.hash != item.prefix_hash) {
    return fail(ErrorCode::kMismatch,
                fmt::format("the session's {} tokens here are not the ones its work continues",
                            item.first_position));
  }
  found->second.last_used = now;
  return {};
}

Result<void> HeldSessions::open(const wire::WorkItem& item, TimePoint now) {
  forget(item.session);  // a replay begins again with an empty cache
  if (item.prefix_hash != 0) {
    return fail(ErrorCode::kMismatch, "work at position 0 claims a prefix");
  }
  DS4_TRY(with_room(now, [&] { return slice_.open_session(item.session, item.context); }));
  places_.emplace(item.session, Place{item.context, 0, 0, now});
  return {};
}

Result<void> HeldSessions::fork(const wire::ForkItem& item, TimePoint now) {
  DS4_TRY(bring_back(item.source, now));
  const auto source = places_.find(item.source);
  if (source == places_.end() || source->second.position != item.position ||
      source->second.hash != item.prefix_hash) {
    return fail(ErrorCode::kMismatch, "the session to be copied is not held here as it was named");
  }
  if (places_.contains(item.target) || (store_ && store_->find(item.target))) {
    return fail(ErrorCode::kMismatch, "the copy's name is in use here");
  }
  source->second.last_used = now;  // so it makes room for nobody
  DS4_TRY(with_room(now, [&] { return slice_.fork_session(item.source, item.target); }));
  places_.emplace(item.target, source->second);
  return {};
}

void HeldSessions::advance(const wire::WorkItem& item) {
  Place& place = places_.at(item.session);
  place.position = item.first_position + static_cast<std::uint32_t>(item.tokens.size());
  place.hash = wire::extend_hash(place.hash, item.tokens);
}

void HeldSessions::forget(std::uint64_t session) {
  if (places_.erase(session) > 0) slice_.close_session(session);
  if (store_) store_->remove(session);
}

// ---- room ------------------------------------------------------------------------------------

template <typename Make>
Result<void> HeldSessions::with_room(TimePoint now, Make&& make) {
  Result<void> made = make();
  while (!made && made.error().code == ErrorCode::kResourceExhausted && make_room(now)) {
    made = make();
  }
  return made;
}

HeldSessions::Places::iterator HeldSessions::longest_idle() {
  return std::min_element(places_.begin(), places_.end(), [](const auto& a, const auto& b) {
    return a.second.last_used < b.second.last_used;
  });
}

bool HeldSessions::make_room(TimePoint now) {
  const auto oldest = longest_idle();
  if (oldest == places_.end()) return false;
  const auto idle = now - oldest->second.last_used;
  if (idle >= kSettled && put_away(oldest)) return true;
  if (idle < options_.idle_after) return false;
  forget(oldest->first);
  return true;
}

// ---- the disk --------------------------------------------------------------------------------

bool HeldSessions::put_away(Places::iterator held) {
  const auto& [session, place] = *held;
  if (!store_ || place.position == 0 || !store_->has_room(slice_.kv_bytes_for(place.position))) {
    return false;
  }
  auto detached = slice_.detach_session(session);
  if (!detached) return false;
  store_->put({session, place.hash, place.context, place.position}, *std::move(detached));
  places_.erase(held);
  return true;
}

Result<void> HeldSessions::bring_back(std::uint64_t session, TimePoint now) {
  if (!store_ || places_.contains(session)) return {};
  const auto place = store_->find(session);
  if (!place) return {};
  auto back = with_room(now, [&] { return store_->restore(session, slice_); });
  if (back) {
    places_.emplace(session, Place{place->context, place->position, place->prefix_hash, now});
    return {};
  }
  if (back.error().code == ErrorCode::kResourceExhausted) return back;
  return fail(ErrorCode::kMismatch,
              "the session's cache could not be read back: " + back.error().message);
}

bool HeldSessions::put_away_idle(TimePoint now) {
  const auto after = options_.disk.after;
  if (!store_ || after == std::chrono::milliseconds::zero() || now < next_look_) return false;
  const auto oldest = longest_idle();
  const bool due = oldest != places_.end() && now - oldest->second.last_used >= after;
  if (due && put_away(oldest)) return true;  // there may be more: looks again after the next step
  next_look_ = now + after / kLooks;
  return false;
}

std::optional<HeldSessions::TimePoint> HeldSessions::next_look() const {
  if (!store_ || places_.empty() || options_.disk.after == std::chrono::milliseconds::zero()) {
    return std::nullopt;
  }
  return next_look_;
}

}  // namespace ds4::agent
