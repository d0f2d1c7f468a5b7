#include "agent/ds4d/expected_probers.h"

#include <fmt/format.h>

#include <utility>

namespace ds4::agent {

Result<void> ExpectedProbers::expect(std::string_view planner, std::vector<keys::KeyBytes> probers,
                                     TimePoint now) {
  expire(now);
  const auto former = words_.find(planner);
  if (probers.empty()) {
    if (former != words_.end()) words_.erase(former);
    return {};
  }
  if (former == words_.end() && words_.size() >= kMostPlanners) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("{} others plan with this node just now: try again in {} seconds",
                            words_.size(), kProbersAreExpected.count()));
  }
  words_[std::string(planner)] = {std::move(probers), now + kProbersAreExpected};
  return {};
}

bool ExpectedProbers::expire(TimePoint now) {
  return std::erase_if(words_, [&](const auto& word) { return now >= word.second.until; }) > 0;
}

std::vector<keys::KeyBytes> ExpectedProbers::probers() const {
  std::vector<keys::KeyBytes> all;
  for (const auto& [planner, word] : words_) {
    all.insert(all.end(), word.probers.begin(), word.probers.end());
  }
  return all;
}

}  // namespace ds4::agent
