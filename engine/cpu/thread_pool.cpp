#include "engine/cpu/thread_pool.h"

namespace ds4::cpu {
namespace {

constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr std::uint64_t kInside = kOpen - 1;  // mask of the worker count
constexpr int kSpins = 4000;                  // about a tenth of a millisecond

constexpr std::uint32_t epoch_of(std::uint64_t state) {
  return static_cast<std::uint32_t>(state >> 32);
}

void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(unsigned threads) {
  for (unsigned thread = 1; thread < threads; ++thread) {
    workers_.emplace_back([this, thread] { work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(std::size_t count, std::size_t grain, RangeBody body) {
  if (count == 0) return;
  if (grain == 0) grain = 1;
  if (workers_.empty() || count <= grain) {
    body(0, count, 0);
    return;
  }
  region_ = {&body, count, grain};
  next_.store(0, std::memory_order_relaxed);
  const std::uint64_t epoch = epoch_of(state_.load(std::memory_order_relaxed)) + std::uint64_t{1};
  // Sequentially consistent with a sleeper's count-then-look: either we see it asleep, or it sees
  // the region open.
  state_.store((epoch << 32) | kOpen, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_sleepers();
  run_pieces(0);
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
    if (spins < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();  // more threads than cores: let the worker finish
    }
  }
}

// Resets the count, so that the regions that follow before a slow sleeper is up do not wake it
// again.
void ThreadPool::wake_sleepers() {
  sleepers_.store(0, std::memory_order_relaxed);
  { const std::lock_guard lock(mutex_); }
  wake_.notify_all();
}

void ThreadPool::run_pieces(unsigned thread) {
  const Region region = region_;
  for (;;) {
    const std::size_t begin = next_.fetch_add(region.grain, std::memory_order_relaxed);
    if (begin >= region.count) return;
    const std::size_t end =
        region.count - begin < region.grain ? region.count : begin + region.grain;
    (*region.body)(begin, end, thread);
  }
}

bool ThreadPool::enter(std::uint32_t& last_epoch) {
  std::uint64_t state = state_.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0 && epoch_of(state) != last_epoch) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
      last_epoch = epoch_of(state);
      return true;
    }
  }
  return false;
}

bool ThreadPool::should_wake(std::uint32_t last_epoch) const {
  const std::uint64_t state = state_.load(std::memory_order_seq_cst);
  return stop_.load() || ((state & kOpen) != 0 && epoch_of(state) != last_epoch);
}

void ThreadPool::wait_for_region(std::uint32_t last_epoch) {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (should_wake(last_epoch)) return;
    pause_cpu();
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (should_wake(last_epoch)) return;
    wake_.wait(lock);
  }
}

void ThreadPool::work(unsigned thread) {
  std::uint32_t last_epoch = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (enter(last_epoch)) {
      run_pieces(thread);
      state_.fetch_sub(1, std::memory_order_release);
    } else {
      wait_for_region(last_epoch);
    }
  }
}

}  // namespace ds4::cpu
