#pragma once
// SIGBUS as the failure of one slice instead of the death of the process.
//
// A mapped file that is truncated, or whose disk fails, answers the next read with SIGBUS, deep
// inside a kernel, on any thread. There is no way back from there but forward: the handler puts a
// page of zeros under the address, marks the address space as broken, and lets the instruction
// repeat. What is computed from then on is wrong, so whoever called the slice looks at broken()
// afterwards and throws the result away. A SIGBUS anywhere else keeps its usual meaning.
//
// The handler uses only what is safe in one: atomics and mmap(2), a plain system call.
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ds4 {

/// Guards [base, base + bytes) for as long as it lives. At most 64 at a time: beyond that, a range
/// is simply not guarded. The first one installs the handler, for good.
class FaultGuard {
 public:
  FaultGuard(const std::byte* base, std::uint64_t bytes);
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;

  /// Set by the handler; never reset. Pairs with its release store.
  bool broken() const;
  /// Of the first fault, from base; meaningful once broken.
  std::uint64_t broken_offset() const;

 private:
  std::size_t slot_;
};

}  // namespace ds4
