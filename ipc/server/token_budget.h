#pragma once
// What the half-arrived prompts of one user's programs may hold together.
#include <cstdint>

namespace ds4::ipc {

/// One thread at a time.
class TokenBudget {
 public:
  explicit TokenBudget(std::uint64_t most) : most_(most) {}

  /// False, and nothing taken, where fewer are left.
  bool take(std::uint64_t tokens) {
    if (tokens > most_ - used_) return false;
    used_ += tokens;
    return true;
  }
  void give_back(std::uint64_t tokens) { used_ -= tokens; }
  std::uint64_t used() const { return used_; }
  std::uint64_t most() const { return most_; }

 private:
  const std::uint64_t most_;
  std::uint64_t used_ = 0;
};

}  // namespace ds4::ipc
