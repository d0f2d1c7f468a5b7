#pragma once
// A pool that stays out of the way: workers wait for the next parallel region by spinning for a few
// microseconds and then sleep; a region costs no allocation, and a pool of one thread costs
// nothing.
//
// Regions open and close under one atomic word. A worker that wakes too late finds the region
// closed and is not waited for, so a region never takes longer than its own work because a sleeper
// was slow.
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace ds4::cpu {

/// Refers to a callable without owning it: body(begin, end, thread).
class RangeBody {
 public:
  // NOLINTBEGIN(google-explicit-constructor): a lambda is passed where it is written
  template <typename F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, RangeBody>) RangeBody(const F& f)
      : object_(&f),
        call_([](const void* object, std::size_t begin, std::size_t end, unsigned thread) {
          (*static_cast<const F*>(object))(begin, end, thread);
        }) {}
  // NOLINTEND(google-explicit-constructor)
  void operator()(std::size_t begin, std::size_t end, unsigned thread) const {
    call_(object_, begin, end, thread);
  }

 private:
  const void* object_;
  void (*call_)(const void*, std::size_t, std::size_t, unsigned);
};

class ThreadPool {
 public:
  /// `threads` counts the calling thread; 0 means one.
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned size() const { return static_cast<unsigned>(workers_.size()) + 1; }

  /// Calls body(begin, end, thread) for pieces of [0, count), `grain` long but for the last, on all
  /// threads including the caller, and returns when all are done. Pieces are handed out in order to
  /// whoever is free; `thread` is below size() and never used by two pieces at once. With one
  /// thread, or one piece, it is a plain call of body(0, count, 0). Not reentrant, one caller at a
  /// time; the body must not throw.
  void parallel_for(std::size_t count, std::size_t grain, RangeBody body);

 private:
  struct Region {
    const RangeBody* body = nullptr;
    std::size_t count = 0;
    std::size_t grain = 1;
  };

  void work(unsigned thread);
  void run_pieces(unsigned thread);
  void wake_sleepers();
  bool enter(std::uint32_t& last_epoch);
  void wait_for_region(std::uint32_t last_epoch);
  bool should_wake(std::uint32_t last_epoch) const;

  // Epoch in the upper half, the open bit, and below it the number of workers inside. The caller's
  // opening store publishes region_ to a worker's successful entry; a worker's leaving decrement
  // publishes its results to the caller's closing wait.
  alignas(64) std::atomic<std::uint64_t> state_{0};
  alignas(64) std::atomic<std::size_t> next_{0};
  alignas(64) Region region_;  // written by the caller while the region is closed and empty

  std::mutex mutex_;
  std::condition_variable wake_;
  // Not zero if a worker may sleep that nobody has woken. Pairs with state_: see parallel_for.
  std::atomic<unsigned> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace ds4::cpu
