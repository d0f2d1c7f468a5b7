#include "agent/loader/loader.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "agent/loader/budget.h"
#include "agent/loader/load_speed.h"
#include "agent/loader/self_bench.h"
#include "agent/log/log.h"
#include "engine/base/unique_fd.h"
#include "engine/cpu/read_bandwidth.h"
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

struct MeasureJob {
  std::optional<LayerRange> held;
  std::vector<wire::LayerLoad> loads;
  std::shared_ptr<const ModelFile> model;
};

/// The first layer of each kind, in the order of `range`.
std::vector<std::uint32_t> one_of_each_kind(const LayerRange& range,
                                            const std::vector<wire::LayerLoad>& loads) {
  std::vector<std::uint32_t> chosen;
  for (std::uint32_t layer = range.first; layer <= range.last && layer < loads.size(); ++layer) {
    const bool known = std::any_of(chosen.begin(), chosen.end(), [&](std::uint32_t other) {
      return loads[other].kind == loads[layer].kind;
    });
    if (!known) chosen.push_back(layer);
  }
  return chosen;
}

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
  std::optional<MeasureJob> to_measure;
  std::optional<Result<Measured>> measured;
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
  LoadOptions load_options();
  Result<Measured> measure(const MeasureJob& job);
  Result<void> measure_layers(Strategy& current, const MeasureJob& job, Measured& measured);
  void measure_bandwidth(Measured& measured) const;
  void ring();
  void quieten();
  void announce(LoadOutcome outcome);
};

void Loader::Impl::work() {
  std::unique_lock lock(mutex);
  while (true) {
    wake.wait(lock, [&] { return stop || !jobs.empty() || !garbage.empty() || to_measure; });
    if (!garbage.empty()) {  // first: a load may need its memory
      auto gone = std::move(garbage);
      garbage.clear();
      lock.unlock();
      gone.clear();
      lock.lock();
      continue;
    }
    if (stop) return;
    if (jobs.empty()) {
      const MeasureJob job = *std::exchange(to_measure, std::nullopt);
      lock.unlock();
      auto outcome = measure(job);
      lock.lock();
      measured = std::move(outcome);
      ring();
      continue;
    }
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
  ring();
}

void Loader::Impl::ring() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event.get(), &one, sizeof(one));
}

/// While there is something to take, the descriptor stays readable.
void Loader::Impl::quieten() {
  if (!outcomes.empty() || measured) return;
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(event.get(), &count, sizeof(count));
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

LoadOptions Loader::Impl::load_options() {
  LoadOptions options;
  options.cancel = &cancel;
  options.lock = config.memory.lock;
  options.must_lock = config.memory.must_lock;
  return options;
}

Result<LoadedSlice> Loader::Impl::load(const Job& job) {
  speed.begin();
  LoadOptions options = load_options();
  options.progress = [this](std::uint64_t done, std::uint64_t total) { speed.count(done, total); };
  DS4_ASSIGN(const auto current, strategy_for(job.model));
  if (current->takes_host_memory()) DS4_TRY(job.host_memory);
  DS4_ASSIGN(LoadedSlice loaded, current->load(job.range, options, config.engine.max_rows));
  const Residence& weights = *loaded.weights;
  log(LogLevel::kInfo, "{}", weights.cover().describe());
  log(LogLevel::kInfo, "layers {} resident ({}): {}", job.range.to_string(), current->name(),
      describe(weights.figures()));
  if (!weights.note().empty()) log(LogLevel::kNotice, "{}", weights.note());
  return loaded;
}

Result<Measured> Loader::Impl::measure(const MeasureJob& job) {
  std::shared_ptr<Strategy> current;
  {
    // What serves came from this one, even if another file has taken the model's place since.
    const std::lock_guard lock(mutex);
    current = strategy;
  }
  if (!current) {
    DS4_ASSIGN(current, strategy_for(job.model));
  }
  Measured found;
  found.host_memory = current->takes_host_memory();
  DS4_ASSIGN(found.device_free_bytes, current->device_free_bytes());
  if (job.held && !current->broken()) {
    if (const auto ok = measure_layers(*current, job, found); !ok) {
      found.how = fmt::format("not measured: {}", ok.error().message);
    }
  } else if (current->name() == "file" || current->name() == "memfd") {
    measure_bandwidth(found);
  } else {
    found.how = "not measured: the GPU holds no layers yet";
  }
  log(LogLevel::kInfo, "speed: {}", found.how);
  return found;
}

Result<void> Loader::Impl::measure_layers(Strategy& current, const MeasureJob& job,
                                          Measured& found) {
  constexpr std::chrono::milliseconds kForOneKind{250};
  cancel.store(false, std::memory_order_relaxed);
  std::string layers;
  for (const std::uint32_t layer : one_of_each_kind(*job.held, job.loads)) {
    // Its bytes are here already: this takes activations for a few rows and no more.
    DS4_ASSIGN(const LoadedSlice one,
               current.load({layer, layer, false}, load_options(), kBenchRows));
    DS4_ASSIGN(const LayerTimes times, time_layers(*one.slice, kForOneKind));
    found.rates.push_back(rate_of(times, job.loads[layer]));
    layers += fmt::format("{}{}", layers.empty() ? "" : ", ", layer);
  }
  found.overall = overall_rate(found.rates);
  found.how = fmt::format("measured on layer{} {}", found.rates.size() == 1 ? "" : "s", layers);
  return {};
}

void Loader::Impl::measure_bandwidth(Measured& found) const {
  const std::uint64_t left = budget_bytes({}, memory_supply(0));
  constexpr std::uint64_t kBuffer = 128 << 20;
  const auto rate = read_bandwidth(config.engine.threads, std::min(kBuffer, left / 4), 3);
  if (!rate) {
    found.how = fmt::format("not measured: {}", rate.error().message);
    return;
  }
  found.overall.decode_bytes_per_s = static_cast<std::uint64_t>(*rate);
  found.how = fmt::format("from the memory's bandwidth, {:.1f} GB/s, as no layers are held yet",
                          *rate / 1e9);
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
  impl_->to_measure.reset();
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

void Loader::measure(std::optional<LayerRange> held, std::vector<wire::LayerLoad> loads) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->to_measure = MeasureJob{held, std::move(loads), impl_->model};
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
  impl_->quieten();
  return outcome;
}

std::optional<Result<Measured>> Loader::take_measured() {
  const std::lock_guard lock(impl_->mutex);
  auto outcome = std::exchange(impl_->measured, std::nullopt);
  impl_->quieten();
  return outcome;
}

wire::LoadProgress Loader::progress() const {
  return impl_->speed.progress();
}

}  // namespace ds4::agent
