#include "engine/residency/fault_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace ds4 {
namespace {

struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::uintptr_t> end{0};  // 0: guards nothing
  std::atomic<bool> broken{false};
  std::atomic<std::uint64_t> offset{0};
};

constexpr std::size_t kSlots = 64;
std::array<Slot, kSlots> slots;
std::uintptr_t page_mask = 0;  // written before the handler is installed

static_assert(std::atomic<std::uintptr_t>::is_always_lock_free);

Slot* slot_of(std::uintptr_t address) {
  for (Slot& slot : slots) {
    const std::uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (address < end && address >= slot.begin.load(std::memory_order_relaxed)) return &slot;
  }
  return nullptr;
}

void on_bus_error(int, siginfo_t* info, void*) {
  const int saved = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (Slot* const slot = slot_of(address); slot != nullptr) {
    void* const page = reinterpret_cast<void*>(address & page_mask);
    const std::uintptr_t bytes = ~page_mask + 1;
    if (::mmap(page, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page) {
      if (!slot->broken.load(std::memory_order_relaxed)) {
        slot->offset.store(address - slot->begin.load(std::memory_order_relaxed),
                           std::memory_order_relaxed);
      }
      slot->broken.store(true, std::memory_order_release);
      errno = saved;
      return;
    }
  }
  ::signal(SIGBUS, SIG_DFL);  // the instruction repeats, and the process dies as it should
  errno = saved;
}

bool install_handler() {
  page_mask = ~(static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE)) - 1);
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  return ::sigaction(SIGBUS, &action, nullptr) == 0;
}

}  // namespace

FaultGuard::FaultGuard(const std::byte* base, std::uint64_t bytes) : slot_(kSlots) {
  static const bool installed = install_handler();
  if (!installed) return;
  for (std::size_t i = 0; i < kSlots; ++i) {
    if (slots[i].taken.exchange(true, std::memory_order_acq_rel)) continue;
    slot_ = i;
    slots[i].broken.store(false, std::memory_order_relaxed);
    slots[i].begin.store(reinterpret_cast<std::uintptr_t>(base), std::memory_order_relaxed);
    slots[i].end.store(reinterpret_cast<std::uintptr_t>(base) + bytes, std::memory_order_release);
    return;
  }
}

FaultGuard::~FaultGuard() {
  if (slot_ == kSlots) return;
  slots[slot_].end.store(0, std::memory_order_release);
  slots[slot_].taken.store(false, std::memory_order_release);
}

bool FaultGuard::broken() const {
  return slot_ < kSlots && slots[slot_].broken.load(std::memory_order_acquire);
}

std::uint64_t FaultGuard::broken_offset() const {
  return slot_ < kSlots ? slots[slot_].offset.load(std::memory_order_relaxed) : 0;
}

}  // namespace ds4
