#pragma once
// The open sessions of other agents' clients on this node's stage, so that somebody closes them
// when their agent is gone.
//
// What opens them are frames of other agents, so their number is bounded: an agent has far fewer
// sessions at once, so beyond the bound its oldest is one whose closing got lost, or the agent is
// not to be trusted. Either way that session may be closed: an agent that still wants it feeds it
// again.
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

namespace ds4::agent {

/// Of one entry; it has at most EntryConfig::max_sessions, and as many that are being closed.
inline constexpr std::size_t kMostForeignSessions = 8192;

/// One thread at a time.
class ForeignSessions {
 public:
  /// Work for it has come, or it is about to be made as a copy. Returns the one that is to be
  /// closed in its place, if there are too many.
  std::optional<std::uint64_t> note(std::uint64_t session, std::uint32_t entry);
  void forget(std::uint64_t session);
  /// All of this entry, in the order in which they came; they are forgotten.
  std::vector<std::uint64_t> take(std::uint32_t entry);
  void clear();
  std::size_t size() const { return sessions_.size(); }

 private:
  struct Opened {
    std::uint32_t entry = 0;
    std::uint64_t number = 0;
  };

  std::unordered_map<std::uint64_t, Opened> sessions_;
  std::map<std::uint32_t, std::map<std::uint64_t, std::uint64_t>> by_entry_;  // number -> session
  std::uint64_t next_number_ = 0;
};

}  // namespace ds4::agent
