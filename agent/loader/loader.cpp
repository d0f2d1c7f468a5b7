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

#include "agent/loader/budget.h"
#include "agent/log/log.h"
#include "engine/base/unique_fd.h"
#include "engine/gguf/model_file.h"
#include "engine/model/cpu_slice.h"

namespace ds4::agent {
namespace {

struct Job {
  std::uint64_t epoch = 0;
  LayerRange range;
};

}  // namespace

struct Loader::Impl {
  std::shared_ptr<const ModelFile> model;
  Config config;
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

  std::mutex mutex;  // of everything down to `stop`
  std::condition_variable wake;
  std::deque<Job> jobs;
  std::uint64_t running_epoch = 0;
  std::vector<std::shared_ptr<void>> garbage;
  std::deque<LoadOutcome> outcomes;
  bool stop = false;

  std::atomic<bool> cancel{false};  // of the running job; set by the main loop, read by the load
  std::atomic<std::uint64_t> bytes_done{
      0};  // written by the load, read by the main loop; no order needed
  std::atomic<std::uint64_t> bytes_total{0};
  std::thread thread;

  void work();
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

Result<LoadedSlice> Loader::Impl::load(const Job& job) {
  const auto begin = std::chrono::steady_clock::now();
  bytes_done = 0;
  bytes_total = 0;
  LoadOptions options;
  options.cancel = &cancel;
  options.lock = config.memory.lock;
  options.progress = [this](std::uint64_t done, std::uint64_t total) {
    bytes_total.store(total, std::memory_order_relaxed);
    bytes_done.store(done, std::memory_order_relaxed);
  };
  DS4_ASSIGN(std::shared_ptr<const ResidentSlice> weights,
             ResidentSlice::load(model, job.range, options));
  log(LogLevel::kInfo, "{}", weights->cover().describe());
  if (!weights->lock_note().empty()) log(LogLevel::kNotice, "{}", weights->lock_note());

  CpuSliceOptions cpu_options;
  cpu_options.graph = config.engine.graph;
  cpu_options.precision = config.engine.precision;
  cpu_options.threads = config.engine.threads;
  cpu_options.max_rows = config.engine.max_rows;
  cpu_options.kv_budget_bytes = choose_kv_budget(config.memory, available_memory_bytes());
  DS4_ASSIGN(auto slice, make_cpu_slice(weights, cpu_options));
  const auto took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin);
  log(LogLevel::kInfo, "layers {} loaded in {:.1f} s; {} threads, {} kernels, KV budget {} MiB",
      job.range.to_string(), took.count(), cpu_options.threads, cpu::to_string(cpu_options.isa),
      cpu_options.kv_budget_bytes >> 20);
  return LoadedSlice{std::move(weights), std::move(slice)};
}

Loader::Loader(std::shared_ptr<const ModelFile> model, const Config& config)
    : impl_(std::make_unique<Impl>()) {
  impl_->model = std::move(model);
  impl_->config = config;
  assert(impl_->event);
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
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

void Loader::load(std::uint64_t epoch, const LayerRange& range) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back({epoch, range});
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
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(impl_->event.get(), &count, sizeof(count));
  const std::lock_guard lock(impl_->mutex);
  if (impl_->outcomes.empty()) return std::nullopt;
  LoadOutcome outcome = std::move(impl_->outcomes.front());
  impl_->outcomes.pop_front();
  return outcome;
}

wire::LoadProgress Loader::progress() const {
  return {impl_->bytes_done.load(std::memory_order_relaxed),
          impl_->bytes_total.load(std::memory_order_relaxed)};
}

}  // namespace ds4::agent
