#include "agent/stage/stage.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "agent/stage/runner.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

struct Inbound {
  std::variant<wire::WorkFrame, wire::CloseFrame, wire::ForkFrame> frame;
  Clock::time_point arrived = Clock::now();
};

std::uint64_t rows_of(const Inbound& inbound) {
  std::uint64_t rows = 0;
  if (const auto* work = std::get_if<wire::WorkFrame>(&inbound.frame)) {
    for (const wire::WorkItem& item : work->items) rows += item.tokens.size();
  }
  return rows;
}

std::uint64_t orders_of(const Inbound& inbound) {
  if (const auto* close = std::get_if<wire::CloseFrame>(&inbound.frame)) {
    return close->sessions.size();
  }
  const auto* fork = std::get_if<wire::ForkFrame>(&inbound.frame);
  return fork == nullptr ? 0 : fork->items.size();
}

UniqueFd make_event() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd of a stage");
  return UniqueFd(fd);
}

}  // namespace

struct Stage::Impl {
  Impl(std::unique_ptr<Slice> owned, const StagePlace& where, const StageOptions& options)
      : slice(std::move(owned)),
        place(where),
        runner(*slice, where, options),
        send(options.send),
        most_awake(options.most_awake),
        event(make_event()),
        thread([this] { work(); }) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      something_came.store(true, std::memory_order_relaxed);
    }
    wake.notify_one();
    thread.join();
  }

  bool submit(Inbound inbound) {
    const std::uint64_t rows = rows_of(inbound);
    const std::uint64_t orders = orders_of(inbound);
    {
      const std::lock_guard lock(mutex);
      if (rows > 0 && stats.waiting_rows >= kMostWaitingRows * place.count) return false;
      if (orders > 0 && stats.waiting_orders >= kMostWaitingOrders * place.count) return false;
      inbox_rows += rows;
      inbox_orders += orders;
      stats.waiting_rows += rows;
      stats.waiting_orders += orders;
      // An engine thread that never comes for its work is as hung as one that never ends it.
      if (stats.busy_since == Clock::time_point{}) stats.busy_since = inbound.arrived;
      inbox.push_back(std::move(inbound));
      something_came.store(true, std::memory_order_relaxed);
    }
    wake.notify_one();
    return true;
  }

  // The engine thread.
  void work() {
    ::pthread_setname_np(::pthread_self(), "engine");
    std::vector<Inbound> taken;
    std::vector<Outgoing> out;
    while (take_inbox(taken)) {
      for (Inbound& inbound : taken) accept(std::move(inbound), out);
      taken.clear();
      runner.step(out, Clock::now());
      publish(out);
      if (runner.tidy(Clock::now())) note_sessions();
    }
  }

  /// Waits until there is something to do; false when it is time to end.
  bool take_inbox(std::vector<Inbound>& taken) {
    std::unique_lock lock(mutex);
    const bool is_idle = runner.idle() && inbox.empty();
    if (!is_idle) {
      came_soon = true;
    } else {
      stats.busy_since = {};
      const auto idle_since = Clock::now();
      const auto wanted = [this] { return stopping || !inbox.empty(); };
      if (came_soon) stay_awake(lock, idle_since + most_awake);
      if (const auto look = runner.next_look()) {
        wake.wait_until(lock, *look, wanted);
      } else {
        wake.wait(lock, wanted);
      }
      const auto pause = Clock::now() - idle_since;
      came_soon = pause < most_awake;
      runner.note_pause(pause);
    }
    if (stopping) return false;
    std::swap(taken, inbox);
    inbox_rows = inbox_orders = 0;
    something_came.store(false, std::memory_order_relaxed);
    stats.busy_since = Clock::now();
    return true;
  }

  /// Between two steps of a stream another stage computes. A core that went to sleep meanwhile
  /// takes longer to wake than a small step takes, and everything on a frame's way here waits for
  /// it; so this thread keeps its core awake, and lets every other thread have it first.
  void stay_awake(std::unique_lock<std::mutex>& lock, Clock::time_point until) {
    lock.unlock();
    while (!something_came.load(std::memory_order_relaxed) && Clock::now() < until) ::sched_yield();
    lock.lock();
  }

  void accept(Inbound inbound, std::vector<Outgoing>& out) {
    if (auto* work_frame = std::get_if<wire::WorkFrame>(&inbound.frame)) {
      runner.accept(std::move(*work_frame), out, inbound.arrived);
    } else if (const auto* close = std::get_if<wire::CloseFrame>(&inbound.frame)) {
      runner.accept(*close);
    } else {
      runner.accept(std::get<wire::ForkFrame>(inbound.frame));
    }
  }

  /// What is for other stages goes; what could not is left as Unsent.
  void send_away(std::vector<Outgoing>& out) {
    const std::lock_guard lock(sending);
    if (!send) return;
    std::vector<Outgoing> rest;
    for (Outgoing& outgoing : out) {
      const bool is_local = outgoing.to == place.index;
      if (!is_local && send(outgoing)) {
        ++sent_frames;
        send_time += Clock::now() - outgoing.made;
        continue;
      }
      if (!is_local) outgoing.frame = Unsent{};
      rest.push_back(std::move(outgoing));
    }
    std::swap(out, rest);
  }

  void note_sessions() {
    const std::uint64_t kv_bytes = slice->kv_bytes();
    const std::lock_guard lock(mutex);
    stats.sessions = runner.sessions();
    stats.kv_bytes = kv_bytes;
  }

  void publish(std::vector<Outgoing>& out) {
    const std::uint64_t kv_bytes = slice->kv_bytes();
    const auto made = Clock::now();
    for (Outgoing& outgoing : out) outgoing.made = made;
    send_away(out);
    {
      const std::lock_guard lock(mutex);
      stats.sessions = runner.sessions();
      stats.kv_bytes = kv_bytes;
      stats.waiting_rows = runner.waiting_rows() + inbox_rows;
      stats.waiting_orders = runner.waiting_orders() + inbox_orders;
      stats.work = runner.work();
      stats.sent_frames = sent_frames;
      stats.send_time = send_time;
      std::move(out.begin(), out.end(), std::back_inserter(outbox));
    }
    if (out.empty()) return;
    out.clear();
    ::eventfd_write(event.get(), 1);
  }

  // Touched by the engine thread alone once it runs.
  const std::unique_ptr<Slice> slice;
  const StagePlace place;
  Runner runner;
  std::uint64_t sent_frames = 0;
  std::chrono::nanoseconds send_time{};

  std::mutex sending;  // held while `send` is called
  std::function<bool(Outgoing&)> send;
  const std::chrono::nanoseconds most_awake;
  bool came_soon = false;  // work, the last time there was none
  std::atomic<bool> something_came{
      false};  // set by submit() for stay_awake(); `mutex` guards all else
  const UniqueFd event;

  std::mutex mutex;  // guards everything below
  std::condition_variable wake;
  std::vector<Inbound> inbox;
  std::uint64_t inbox_rows = 0;
  std::uint64_t inbox_orders = 0;
  std::vector<Outgoing> outbox;
  StageStats stats;
  bool stopping = false;

  std::thread thread;  // last: it uses all of the above
};

Stage::Stage(std::unique_ptr<Slice> slice, const StagePlace& place, const StageOptions& options)
    : impl_(std::make_unique<Impl>(std::move(slice), place, options)) {}

Stage::~Stage() = default;

const StagePlace& Stage::place() const {
  return impl_->place;
}

// Sizes never change, so both threads may read them.
const HyperParams& Stage::params() const {
  return impl_->slice->params();
}

std::uint64_t Stage::floats_per_row() const {
  return std::uint64_t{params().n_streams} * params().n_embd;
}

bool Stage::submit(wire::WorkFrame frame) {
  return frame.epoch != impl_->place.epoch || impl_->submit({std::move(frame)});
}

bool Stage::submit(wire::CloseFrame frame) {
  return frame.epoch != impl_->place.epoch || impl_->submit({std::move(frame)});
}

bool Stage::submit(wire::ForkFrame frame) {
  return frame.epoch != impl_->place.epoch || impl_->submit({std::move(frame)});
}

int Stage::event_fd() const {
  return impl_->event.get();
}

std::vector<Outgoing> Stage::drain() {
  eventfd_t count = 0;
  ::eventfd_read(impl_->event.get(), &count);  // before the look: what comes after it signals again
  const std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->outbox, {});
}

void Stage::stop_sending() {
  const std::lock_guard lock(impl_->sending);
  impl_->send = {};
}

StageStats Stage::stats() const {
  StageStats stats;
  {
    const std::lock_guard lock(impl_->mutex);
    stats = impl_->stats;
  }
  stats.stored = impl_->runner.stored();  // files are written while the engine thread sleeps
  return stats;
}

}  // namespace ds4::agent
