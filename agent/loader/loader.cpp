#include "agent/loader/loader.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "agent/loader/load_speed.h"
#include "agent/log/log.h"
#include "engine/base/unique_fd.h"
#include "engine/gguf/model_file.h"
#include "engine/residency/weight_equality.h"

namespace ds4::agent {
namespace {

struct Job {
  std::uint64_t epoch = 0;
  LayerRange range;
  Result<void> host_memory;
  std::shared_ptr<const ModelFile> model;
};

}  // namespace

struct Loader::Impl {
  Impl(const Config& settings, FdStore& descriptors) : config(settings), store(descriptors) {}

  const Config config;
  FdStore& store;
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

  std::mutex mutex;  // of everything down to `stop`
  std::condition_variable wake;
  std::shared_ptr<const ModelFile> model;
  std::shared_ptr<Strategy> strategy;  // of strategy_model; made by the first load
  std::shared_ptr<const ModelFile> strategy_model;
  std::deque<Job> jobs;
  std::uint64_t running_epoch = 0;
  std::vector<std::shared_ptr<void>> garbage;
  std::deque<LoadOutcome> outcomes;
  bool stop = false;

  std::atomic<bool> cancel{false};  // of the running job; set by the main loop, read by the load
  LoadSpeed speed;                  // written by the load, read by the main loop
  std::thread thread;

  void work();
  Result<std::shared_ptr<Strategy>> strategy_for(const std::shared_ptr<const ModelFile>& wanted);
  Result<LoadedSlice> load(const Job& job);
  void announce(LoadOutcome outcome);
};

void Loader::Impl::work() {
  std::unique_lock lock(mutex);
  while (true) {
    wake.wait(lock, [&] { return stop || !jobs.empty() || !garbage.empty(); });
    if (!garbage.empty()) {  // first: a load may need its memory
      auto gone = std::move(garbage);
      garbage.clear();
      lock.unlock();
      gone.clear();
      lock.lock();
      continue;
    }
    if (stop) return;
    const Job job = jobs.front();
    jobs.pop_front();
    running_epoch = job.epoch;
    cancel.store(false, std::memory_order_relaxed);
    lock.unlock();
    LoadOutcome outcome{job.epoch, load(job)};
    lock.lock();
    running_epoch = 0;
    if (cancel.load(std::memory_order_relaxed)) {
      lock.unlock();
      outcome.slice = fail(ErrorCode::kCancelled, "");  // frees the slice here, if there is one
      lock.lock();
      continue;
    }
    announce(std::move(outcome));
  }
}

void Loader::Impl::announce(LoadOutcome outcome) {
  outcomes.push_back(std::move(outcome));
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event.get(), &one, sizeof(one));
}

/// One for all slices of a file, so that they share what they have in common. Copies serve for a
/// file that took the place of its equal, too (the upgrade of a package does that): another
/// strategy would make them twice, and with the first ones' end the descriptor store would lose
/// both.
Result<std::shared_ptr<Strategy>> Loader::Impl::strategy_for(
    const std::shared_ptr<const ModelFile>& wanted) {
  // Both are changed by this thread alone.
  if (strategy && !strategy->broken()) {
    if (strategy_model == wanted) return strategy;
    if (!strategy->shows_the_file() && same_weights(*strategy_model, *wanted)) return strategy;
  }
  DS4_ASSIGN(std::shared_ptr<Strategy> made, make_strategy(wanted, config, store));
  const std::lock_guard lock(mutex);
  strategy = made;
  strategy_model = wanted;
  return made;
}

Result<LoadedSlice> Loader::Impl::load(const Job& job) {
  speed.begin();
  LoadOptions options;
  options.cancel = &cancel;
  options.lock = config.memory.lock;
  options.must_lock = config.memory.must_lock;
  options.progress = [this](std::uint64_t done, std::uint64_t total) { speed.count(done, total); };
  DS4_ASSIGN(const auto current, strategy_for(job.model));
  if (current->takes_host_memory()) DS4_TRY(job.host_memory);
  DS4_ASSIGN(LoadedSlice loaded, current->load(job.range, options));
  const Residence& weights = *loaded.weights;
  log(LogLevel::kInfo, "{}", weights.cover().describe());
  log(LogLevel::kInfo, "layers {} resident ({}): {}", job.range.to_string(), current->name(),
      describe(weights.figures()));
  if (!weights.note().empty()) log(LogLevel::kNotice, "{}", weights.note());
  return loaded;
}

Loader::Loader(std::shared_ptr<const ModelFile> model, const Config& config, FdStore& store)
    : impl_(std::make_unique<Impl>(config, store)) {
  impl_->model = std::move(model);
  assert(impl_->event);
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

void Loader::use_model(std::shared_ptr<const ModelFile> model) {
  const std::lock_guard lock(impl_->mutex);
  impl_->model = std::move(model);
}

void Loader::leave() {
  const std::lock_guard lock(impl_->mutex);
  impl_->jobs.clear();
  impl_->cancel = true;
  impl_->store.leave();
  if (impl_->strategy) impl_->strategy->leave();
}

Loader::~Loader() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
    impl_->cancel = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

void Loader::load(std::uint64_t epoch, const LayerRange& range, Result<void> host_memory) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back({epoch, range, std::move(host_memory), impl_->model});
  }
  impl_->wake.notify_one();
}

void Loader::cancel(std::uint64_t epoch) {
  const std::lock_guard lock(impl_->mutex);
  std::erase_if(impl_->jobs, [&](const Job& job) { return job.epoch == epoch; });
  if (impl_->running_epoch == epoch) impl_->cancel = true;
  for (auto& outcome : impl_->outcomes) {
    if (outcome.epoch == epoch && outcome.slice) {
      impl_->garbage.push_back(std::make_shared<LoadedSlice>(std::move(*outcome.slice)));
    }
  }
  std::erase_if(impl_->outcomes,
                [&](const LoadOutcome& outcome) { return outcome.epoch == epoch; });
  impl_->wake.notify_one();
}

void Loader::discard(std::shared_ptr<void> thing) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->garbage.push_back(std::move(thing));
  }
  impl_->wake.notify_one();
}

int Loader::event_fd() const {
  return impl_->event.get();
}

std::optional<LoadOutcome> Loader::take() {
  const std::lock_guard lock(impl_->mutex);
  std::optional<LoadOutcome> outcome;
  if (!impl_->outcomes.empty()) {
    outcome = std::move(impl_->outcomes.front());
    impl_->outcomes.pop_front();
  }
  if (impl_->outcomes.empty()) {  // while there is more, the descriptor stays readable
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(impl_->event.get(), &count, sizeof(count));
  }
  return outcome;
}

wire::LoadProgress Loader::progress() const {
  return impl_->speed.progress();
}

}  // namespace ds4::agent
