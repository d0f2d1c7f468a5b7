#pragma once
// Who may measure the way to this agent, and for how long. Pure.
//
// Whoever plans says which nodes will measure. Two may plan at once, so a planner, who is known by
// his connection, replaces and ends his own word alone. One that nobody takes back ends by itself.
#include <chrono>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "agent/keys/key.h"
#include "engine/base/result.h"

namespace ds4::agent {

/// Who plan at once, at most.
inline constexpr std::size_t kMostPlanners = 16;
inline constexpr std::chrono::seconds kProbersAreExpected{30};

/// One thread at a time. Pure: it knows the time it is told.
class ExpectedProbers {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// In place of what this planner said before; no keys end it. Errors: kResourceExhausted.
  Result<void> expect(std::string_view planner, std::vector<keys::KeyBytes> probers, TimePoint now);
  /// True if somebody's time was up.
  bool expire(TimePoint now);
  /// Of all planners together.
  std::vector<keys::KeyBytes> probers() const;

 private:
  struct Word {
    std::vector<keys::KeyBytes> probers;
    TimePoint until;
  };
  std::map<std::string, Word, std::less<>> words_;  // by planner
};

}  // namespace ds4::agent
