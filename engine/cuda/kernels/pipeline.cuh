#pragma once
// What warps of a block wait by: barriers in shared memory that count arrivals and completed
// copies.
#include "engine/cuda/kernels/common.cuh"

namespace ds4::cuda {

/// Phases follow one another; each ends with the expected number of arrivals. Whoever waits counts
/// phases itself: its first wait is for phase 0.
class PhaseBarrier {
 public:
  /// By one thread; all must meet before its first use.
  __device__ void init(unsigned arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  /// By who has called init(), before the copy engine arrives.
  __device__ static void show_to_copies() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(address()) : "memory");
  }
  /// Arrives when all asynchronous copies that this thread has started are complete.
  __device__ void arrive_behind_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address()) : "memory");
  }
  /// In init()'s place: by one thread, which then starts bulk_copy()s of so many bytes in all;
  /// their end is that of phase 0.
  __device__ void expect(std::uint32_t bytes) {
    init(1);
    show_to_copies();
    expect_more(bytes);
  }
  /// The same for the next phase, once everybody has seen the last one's end.
  __device__ void expect_more(std::uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes)
                 : "memory");
  }
  /// By the copy engine, from device memory; addresses and sizes are multiples of 16 bytes.
  __device__ void bulk_copy(void* to, const void* from, std::uint32_t bytes) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(address())
        : "memory");
  }
  __device__ void wait(std::uint32_t phase) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(address()),
        "r"(phase & 1)
        : "memory");
  }

 private:
  __device__ std::uint32_t address() const { return shared_address(&state_); }

  std::uint64_t state_;
};

/// By every thread that has used shared memory which the copy engine writes to next; all must meet
/// before it is asked to.
__device__ __forceinline__ void leave_to_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Among `threads` threads of a block; `which` 1..15 names the meeting.
__device__ __forceinline__ void meet(unsigned which, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(which), "r"(threads) : "memory");
}

}  // namespace ds4::cuda
