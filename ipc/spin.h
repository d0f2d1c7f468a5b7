#pragma once
// Looking a little longer before sleeping.
//
// A sleep and its wake-up cost some microseconds of system calls and scheduling. Where the other
// side answers sooner than that, looking again and again is faster; where it does not, it burns a
// core for nothing. So every look that came to nothing makes the next ones rarer, and one that paid
// off brings them back. Whoever waits for long spins once, then sleeps.
#include <algorithm>
#include <cstdint>

namespace ds4::ipc {

inline void relax_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Decides, wait by wait. One thread at a time.
class AdaptiveSpin {
 public:
  /// Whether this wait may begin with spinning. If it did, won() or lost() follows.
  bool worth_it() {
    if (skip_ == 0) return true;
    --skip_;
    return false;
  }
  void won() { losses_ = 0; }
  void lost() {
    losses_ = std::min(losses_ + 1, 6U);
    skip_ = (1U << losses_) - 1;
  }

 private:
  std::uint32_t losses_ = 0;  // in a row
  std::uint32_t skip_ = 0;    // waits that sleep at once
};

}  // namespace ds4::ipc
