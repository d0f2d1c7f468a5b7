#include "agent/loader/strategy.h"

#include <fmt/format.h>

#include <algorithm>

#include "agent/loader/budget.h"
#include "agent/loader/guarded_slice.h"
#include "agent/log/log.h"
#include "engine/cuda/plugin.h"
#include "engine/model/cpu_slice.h"
#include "engine/model/kv_cache.h"
#include "engine/residency/memfd_store.h"

namespace ds4::agent {
namespace {

using Kind = Config::Strategy;
using Device = Config::Device;

/// One session of the configured context.
Result<std::uint64_t> session_bytes(const ModelFile& model, const LayerRange& range,
                                    const Config& config) {
  DS4_ASSIGN(const HyperParams params, HyperParams::read(model.gguf()));
  const std::uint32_t context = params.context_length > 0
                                    ? std::min(config.engine.context, params.context_length)
                                    : config.engine.context;
  return KvPlan::make(params, range, config.engine.graph, context).bytes;
}

Result<std::shared_ptr<WeightSpace>> open_space(const std::shared_ptr<const ModelFile>& model,
                                                const Config& config, bool copies, FdStore& store) {
  if (!copies) return WeightSpace::open(model, make_file_store(model, /*drop_released=*/true));
  DS4_ASSIGN(auto source, make_file_source(*model));
  MemfdOptions options;
  options.huge_pages = config.residency.huge_pages;
  options.keeper = &store;
  return WeightSpace::open(model, make_memfd_store(model, std::move(source), options));
}

// ---- host memory, computed on by the CPU -------------------------------------------------------

class HostStrategy final : public Strategy {
 public:
  HostStrategy(std::shared_ptr<WeightSpace> space, const Config& config)
      : space_(std::move(space)), config_(config) {}

  std::string_view name() const override { return space_->store().name(); }
  bool takes_host_memory() const override { return true; }
  bool shows_the_file() const override { return space_->store().shows_the_file(); }
  void leave() override { space_->leave(); }
  bool broken() const override { return space_->broken().has_value(); }

  Result<std::uint64_t> device_free_bytes() const override { return 0; }

  Result<LoadedSlice> load(const LayerRange& range, const LoadOptions& options,
                           std::uint32_t max_rows) override {
    DS4_ASSIGN(std::shared_ptr<const ResidentSlice> weights,
               ResidentSlice::load(space_, range, options));
    CpuSliceOptions cpu;
    cpu.graph = config_.engine.graph;
    cpu.precision = config_.engine.precision;
    cpu.threads = config_.engine.threads;
    cpu.max_rows = max_rows;
    DS4_ASSIGN(const std::uint64_t session, session_bytes(space_->model(), range, config_));
    const std::uint64_t left = budget_bytes({}, memory_supply(0));
    cpu.kv_budget_bytes = choose_kv_budget(config_.memory, left == UINT64_MAX ? 0 : left, session);
    DS4_ASSIGN(auto slice, make_cpu_slice(weights, cpu));
    log(LogLevel::kInfo, "{} threads, {} kernels, KV budget {} MiB", cpu.threads,
        cpu::to_string(cpu.isa), cpu.kv_budget_bytes >> 20);
    return LoadedSlice{weights, guard_slice(std::move(slice), weights)};
  }

 private:
  const std::shared_ptr<WeightSpace> space_;
  const Config config_;
};

// ---- where a GPU reaches them ------------------------------------------------------------------

class CudaStrategy final : public Strategy {
 public:
  /// `space`: of the pages to register; null for device memory.
  CudaStrategy(std::shared_ptr<CudaEngine> engine, std::shared_ptr<const ModelFile> model,
               std::shared_ptr<WeightSpace> space, const Config& config)
      : engine_(std::move(engine)),
        model_(std::move(model)),
        space_(std::move(space)),
        config_(config) {}

  std::string_view name() const override { return space_ ? "cuda-registered" : "cuda-device"; }
  bool takes_host_memory() const override { return space_ != nullptr; }
  bool shows_the_file() const override { return space_ && space_->store().shows_the_file(); }
  void leave() override {
    engine_->leave();
    if (space_) space_->leave();
  }
  bool broken() const override { return space_ && space_->broken(); }

  Result<std::uint64_t> device_free_bytes() const override {
    if (takes_host_memory()) return 0;
    DS4_ASSIGN(const DeviceFacts facts, engine_->facts());
    return facts.free_bytes;
  }

  Result<LoadedSlice> load(const LayerRange& range, const LoadOptions& options,
                           std::uint32_t max_rows) override {
    DS4_ASSIGN(auto weights, load_weights(range, options));
    DS4_ASSIGN(const DeviceFacts facts, engine_->facts());
    DS4_ASSIGN(const std::uint64_t session, session_bytes(*model_, range, config_));
    CudaSliceOptions cuda;
    cuda.graph = config_.engine.graph;
    cuda.max_rows = max_rows;
    cuda.kv_budget_bytes = choose_kv_budget(config_.memory, facts.free_bytes, session);
    DS4_ASSIGN(auto slice, engine_->make_slice(weights, cuda));
    log(LogLevel::kInfo, "{}, KV budget {} MiB", facts.name, cuda.kv_budget_bytes >> 20);
    return LoadedSlice{weights, guard_slice(std::move(slice), weights)};
  }

 private:
  Result<std::shared_ptr<const CudaWeights>> load_weights(const LayerRange& range,
                                                          const LoadOptions& options) {
    if (!space_) return engine_->load(model_, range, options);
    DS4_ASSIGN(std::shared_ptr<const ResidentSlice> pages,
               ResidentSlice::load(space_, range, options));
    return engine_->register_host(std::move(pages));
  }

  const std::shared_ptr<CudaEngine> engine_;
  const std::shared_ptr<const ModelFile> model_;
  const std::shared_ptr<WeightSpace> space_;
  const Config config_;
};

bool is_cuda(Kind kind) {
  return kind == Kind::kCudaRegistered || kind == Kind::kCudaDevice;
}

Result<std::unique_ptr<Strategy>> make_cuda_strategy(std::shared_ptr<const ModelFile> model,
                                                     const Config& config, FdStore& store) {
  CudaOpenOptions open;
  open.keeper = &store;
  DS4_ASSIGN(auto engine, CudaEngine::open(open));
  DS4_ASSIGN(const DeviceFacts facts, engine->facts());
  const Kind chosen = config.residency.strategy;
  const bool registers =
      chosen == Kind::kCudaRegistered || (chosen == Kind::kAuto && facts.integrated);
  std::shared_ptr<WeightSpace> space;
  if (registers) {
    DS4_ASSIGN(space, open_space(model, config, /*copies=*/false, store));
  }
  return std::make_unique<CudaStrategy>(std::move(engine), std::move(model), std::move(space),
                                        config);
}

}  // namespace

Result<std::unique_ptr<Strategy>> make_strategy(std::shared_ptr<const ModelFile> model,
                                                const Config& config, FdStore& store) {
  const Kind kind = config.residency.strategy;
  if (is_cuda(kind) || config.engine.device != Device::kCpu) {
    auto cuda = make_cuda_strategy(model, config, store);
    if (cuda || is_cuda(kind) || config.engine.device == Device::kCuda) return cuda;
    log(LogLevel::kInfo, "computing on the CPU: {}", cuda.error().message);
  }
  DS4_ASSIGN(auto space, open_space(model, config, kind == Kind::kMemfd, store));
  if (kind == Kind::kMemfd && !store.available()) {
    log(LogLevel::kNotice,
        "no service manager holds descriptors here (NOTIFY_SOCKET is not set), so these weights "
        "end with this process");
  }
  return std::make_unique<HostStrategy>(std::move(space), config);
}

bool surely_takes_host_memory(const Config& config) {
  const Kind kind = config.residency.strategy;
  return kind == Kind::kCudaRegistered ||
         (kind != Kind::kCudaDevice && config.engine.device == Device::kCpu);
}

}  // namespace ds4::agent
