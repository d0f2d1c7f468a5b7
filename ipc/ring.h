#pragma once
// One direction of the region: a single-producer, single-consumer ring between two processes that
// do not trust each other.
//
// Each side owns one position and keeps its own copy of it, so nothing the other side scribbles
// into shared memory can move it; it reads the other's position only when its cached view says
// "full" or "empty", which leaves the cache line alone while there is work (the cached-index idea
// of rigtorp/SPSCQueue). A position that goes back or runs ahead of what is possible marks the ring
// broken for good: every later push or pop fails, and broken() tells the owner to hang up.
//
// Entries are copied word by word with relaxed atomic loads and stores: the other process may write
// at the same time, and then the copy is garbage but never a data race, never read twice.
//
// Thread rule: one thread at a time per side.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace ds4::ipc {

namespace ring_detail {

template <typename Entry>
inline constexpr bool kIsEntry = std::is_trivially_copyable_v<Entry> && sizeof(Entry) % 8 == 0 &&
                                 alignof(Entry) <= 8;

template <typename Entry>
void copy_out(Entry& to, std::uint64_t* from) {
  std::uint64_t words[sizeof(Entry) / 8];
  for (std::size_t i = 0; i < sizeof(Entry) / 8; ++i)
    words[i] = std::atomic_ref<std::uint64_t>(from[i]).load(std::memory_order_relaxed);
  std::memcpy(&to, words, sizeof(Entry));
}

template <typename Entry>
void copy_in(std::uint64_t* to, const Entry& from) {
  std::uint64_t words[sizeof(Entry) / 8];
  std::memcpy(words, &from, sizeof(Entry));
  for (std::size_t i = 0; i < sizeof(Entry) / 8; ++i)
    std::atomic_ref<std::uint64_t>(to[i]).store(words[i], std::memory_order_relaxed);
}

}  // namespace ring_detail

/// The memory of one ring: its two positions and its slots, all in the shared region.
struct RingMemory {
  std::uint64_t* tail = nullptr;   // the producer's
  std::uint64_t* head = nullptr;   // the consumer's
  std::uint64_t* slots = nullptr;  // entries * sizeof(Entry) bytes
  std::uint32_t entries = 0;       // a power of two
};

template <typename Entry>
class RingProducer {
  static_assert(ring_detail::kIsEntry<Entry>);

 public:
  RingProducer() = default;
  /// For a ring on which nothing has been pushed or popped yet.
  explicit RingProducer(RingMemory memory) : memory_(memory) {}

  /// Slots free now, at least as far as `wanted`: the consumer's position is read only if the
  /// cached one leaves fewer than that.
  std::uint32_t space(std::uint32_t wanted = 1) {
    if (memory_.entries - used() < wanted) refresh();
    return broken_ ? 0 : memory_.entries - used();
  }

  /// Writes the entry into the next slot without showing it yet. False when full or broken.
  bool push(const Entry& entry) {
    if (space() == 0) return false;
    ring_detail::copy_in(slot(tail_), entry);
    ++tail_;
    return true;
  }

  /// Shows what has been pushed: a release store, which the consumer's acquire load pairs with.
  void publish() { std::atomic_ref(*memory_.tail).store(tail_, std::memory_order_release); }

  /// The same in the single total order, for use before reading the other side's waker (waker.h).
  void publish_ordered() { std::atomic_ref(*memory_.tail).store(tail_, std::memory_order_seq_cst); }

  /// Reads the consumer's position in the single total order, after setting one's own waker.
  void refresh_ordered() { accept(std::atomic_ref(*memory_.head).load(std::memory_order_seq_cst)); }

  std::uint32_t used() const { return static_cast<std::uint32_t>(tail_ - cached_head_); }
  std::uint64_t tail() const { return tail_; }
  bool broken() const { return broken_; }

 private:
  std::uint64_t* slot(std::uint64_t position) {
    return memory_.slots + (position & (memory_.entries - 1)) * (sizeof(Entry) / 8);
  }
  void refresh() { accept(std::atomic_ref(*memory_.head).load(std::memory_order_acquire)); }
  void accept(std::uint64_t head) {
    if (head - cached_head_ > tail_ - cached_head_) broken_ = true;
    if (!broken_) cached_head_ = head;
  }

  RingMemory memory_;
  std::uint64_t tail_ = 0;
  std::uint64_t cached_head_ = 0;
  bool broken_ = false;
};

template <typename Entry>
class RingConsumer {
  static_assert(ring_detail::kIsEntry<Entry>);

 public:
  RingConsumer() = default;
  explicit RingConsumer(RingMemory memory) : memory_(memory) {}

  /// Copies the next entry out. False when empty or broken.
  bool pop(Entry& entry) {
    if (head_ == cached_tail_) refresh();
    if (broken_ || head_ == cached_tail_) return false;
    ring_detail::copy_out(entry, slot(head_));
    ++head_;
    return true;
  }

  bool empty() {
    if (head_ == cached_tail_) refresh();
    return broken_ || head_ == cached_tail_;
  }

  /// Gives the popped slots back: a release store, which the producer's acquire load pairs with.
  void release() { std::atomic_ref(*memory_.head).store(head_, std::memory_order_release); }

  /// The same in the single total order, for use before reading the other side's waker (waker.h).
  void release_ordered() { std::atomic_ref(*memory_.head).store(head_, std::memory_order_seq_cst); }

  /// Like empty(), in the single total order, after setting one's own waker.
  bool empty_ordered() {
    accept(std::atomic_ref(*memory_.tail).load(std::memory_order_seq_cst));
    return broken_ || head_ == cached_tail_;
  }

  std::uint64_t head() const { return head_; }
  bool broken() const { return broken_; }

 private:
  std::uint64_t* slot(std::uint64_t position) {
    return memory_.slots + (position & (memory_.entries - 1)) * (sizeof(Entry) / 8);
  }
  void refresh() { accept(std::atomic_ref(*memory_.tail).load(std::memory_order_acquire)); }
  void accept(std::uint64_t tail) {
    if (tail - head_ > memory_.entries || tail - head_ < cached_tail_ - head_) broken_ = true;
    if (!broken_) cached_tail_ = tail;
  }

  RingMemory memory_;
  std::uint64_t head_ = 0;
  std::uint64_t cached_tail_ = 0;
  bool broken_ = false;
};

}  // namespace ds4::ipc
