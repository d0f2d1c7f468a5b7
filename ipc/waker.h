#pragma once
// Sleeping without missing a wake-up, and waking only who sleeps.
//
// The side that is about to sleep stores what it wants to be woken for, then looks at the ring once
// more. The other side publishes, then looks at the want. This is the store-load pattern: with
// release and acquire alone both could read the old value, one sleeping beside a full ring, the
// other not signalling. So these four accesses, and only these, are sequentially consistent: in
// their single total order either the sleeper's second look comes after the publication and sees
// it, or the want comes before the publisher's look and is seen. (Sequentially consistent
// operations rather than fences: they compile to the same instructions and the thread sanitizer
// understands them.)
//
// Taking the want (exchange 0) before signalling means one system call per sleep, however much is
// published meanwhile.
#include <atomic>
#include <cstdint>

namespace ds4::ipc {

/// One side's own want word.
class Sleeper {
 public:
  Sleeper() = default;
  explicit Sleeper(std::uint32_t* word) : word_(word) {}

  /// To be followed by an *_ordered() look at the rings, and only then by the sleep.
  void want(std::uint32_t bits) { std::atomic_ref(*word_).store(bits, std::memory_order_seq_cst); }
  /// False once the other side has taken the want: a signal is due or has come.
  bool is_wanting() const { return std::atomic_ref(*word_).load(std::memory_order_relaxed) != 0; }
  /// Withdraws the want. False if the other side has taken it: its signal has come or will.
  bool awake() { return std::atomic_ref(*word_).exchange(0, std::memory_order_seq_cst) != 0; }

 private:
  std::uint32_t* word_ = nullptr;
};

/// The other side's want word.
class Waker {
 public:
  Waker() = default;
  explicit Waker(std::uint32_t* word) : word_(word) {}

  /// To be called after a *_ordered() publication. True if the other side sleeps and wants one of
  /// `bits`: the caller then signals it, once.
  bool take(std::uint32_t bits) {
    std::atomic_ref word(*word_);
    if ((word.load(std::memory_order_seq_cst) & bits) == 0) return false;
    // Whatever was taken is owed a signal, even if the sleeper has changed its want in between.
    return word.exchange(0, std::memory_order_seq_cst) != 0;
  }

 private:
  std::uint32_t* word_ = nullptr;
};

}  // namespace ds4::ipc
