#include "agent/ds4d/foreign_sessions.h"

namespace ds4::agent {

std::optional<std::uint64_t> ForeignSessions::note(std::uint64_t session, std::uint32_t entry) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end() && found->second.entry == entry) return std::nullopt;
  forget(session);
  const std::uint64_t number = next_number_++;
  sessions_[session] = {entry, number};
  auto& theirs = by_entry_[entry];
  theirs.emplace(number, session);
  if (theirs.size() <= kMostForeignSessions) return std::nullopt;
  const std::uint64_t oldest = theirs.begin()->second;
  forget(oldest);
  return oldest;
}

void ForeignSessions::forget(std::uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  const auto entry = by_entry_.find(found->second.entry);
  entry->second.erase(found->second.number);
  if (entry->second.empty()) by_entry_.erase(entry);
  sessions_.erase(found);
}

std::vector<std::uint64_t> ForeignSessions::take(std::uint32_t entry) {
  std::vector<std::uint64_t> taken;
  const auto theirs = by_entry_.find(entry);
  if (theirs == by_entry_.end()) return taken;
  for (const auto& [number, session] : theirs->second) {
    taken.push_back(session);
    sessions_.erase(session);
  }
  by_entry_.erase(theirs);
  return taken;
}

void ForeignSessions::clear() {
  sessions_.clear();
  by_entry_.clear();
}

}  // namespace ds4::agent
