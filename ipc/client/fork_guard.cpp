#include "ipc/client/fork_guard.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

namespace ds4::ipc {

namespace {

using Word = std::atomic<std::uint64_t>;

/// Null on kernels older than 4.14, where forks go unnoticed.
Word* make_page() {
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return nullptr;
  if (::madvise(page, 4096, MADV_WIPEONFORK) == 0) return new (page) Word(0);
  ::munmap(page, 4096);
  return nullptr;
}

}  // namespace

std::uint64_t process_generation() {
  static Word* const page = make_page();
  if (page == nullptr) return 1;
  std::uint64_t generation = page->load(std::memory_order_relaxed);
  if (generation != 0) return generation;
  // Fresh, or wiped by a fork. The process id tells apart what two forks of one parent would count.
  static std::atomic<std::uint64_t> forks{0};
  const std::uint64_t fresh =
      (forks.fetch_add(1) + 1) << 32 | static_cast<std::uint32_t>(::getpid());
  page->compare_exchange_strong(generation, fresh);
  return page->load(std::memory_order_relaxed);
}

}  // namespace ds4::ipc
