#include "engine/cuda/device_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "engine/cuda/completeness_mark.h"
#include "engine/cuda/descriptor_name.h"
#include "engine/cuda/device_memory.h"
#include "engine/cuda/device_plan.h"
#include "engine/cuda/driver.h"
#include "engine/cuda/pinned_ring.h"
#include "engine/cuda/weights_base.h"
#include "engine/residency/residency_audit.h"

namespace ds4::cuda {
namespace {

// Sixteen read from memory as fast as a copy engine takes; a disk wants a queue about as deep.
constexpr unsigned kMaxReaders = 16;

class DeviceWeights final : public WeightsBase {
 public:
  DeviceWeights(int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
                SpanCover cover, DevicePlan plan, DeviceMemory memory)
      : WeightsBase(device, std::move(model), range, std::move(cover)),
        plan_(std::move(plan)),
        memory_(std::move(memory)) {}

  std::uint64_t device_bytes() const override { return memory_.bytes(); }
  std::uint64_t registered_bytes() const override { return 0; }
  std::span<const StoredDescriptor> exported() const override { return exported_; }
  std::string describe() const override {
    return fmt::format("device memory: {}", cover().describe());
  }

  const DevicePlan& plan() const { return plan_; }
  const DeviceMemory& memory() const { return memory_; }
  void set_figures(const CudaLoadFigures& figures) { figures_ = figures; }

  /// Freed memory comes back with what was in it: perhaps a mark.
  Result<void> clear_mark();
  /// What the mark must say of the bytes that are on the device now.
  Result<CompletenessMark> mark_of_contents() const;
  /// Writes the mark, which makes the weights adoptable, and exports the memory.
  Result<void> complete();
  /// Takes over descriptors whose memory carries the right mark.
  Result<void> verify(std::vector<StoredDescriptor> stored);

 private:
  const std::byte* address_of(std::uint64_t file_offset) const override {
    return memory_.data() + plan_.device_offset(file_offset);
  }

  const DevicePlan plan_;
  const DeviceMemory memory_;
  std::vector<StoredDescriptor> exported_;
};

Result<void> DeviceWeights::clear_mark() {
  DS4_CUDA_TRY(cudaMemset(memory_.data() + plan_.mark_offset(), 0, kMarkBytes),
               "clear the completeness mark");
  return {};
}

Result<CompletenessMark> DeviceWeights::mark_of_contents() const {
  const auto places = sample_places(plan_);
  std::vector<std::byte> samples(places.size() * kSampleBytes);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::uint64_t bytes = std::min(kSampleBytes, plan_.payload_bytes() - places[i]);
    DS4_CUDA_TRY(cudaMemcpyAsync(samples.data() + i * kSampleBytes, memory_.data() + places[i],
                                 bytes, cudaMemcpyDeviceToHost),
                 "sample the weights on the device");
  }
  DS4_CUDA_TRY(cudaDeviceSynchronize(), "sample the weights on the device");
  return CompletenessMark{model().fingerprint(), range(), plan_.payload_bytes(),
                          hash_geometry(plan_), hash_bytes(samples)};
}

Result<void> DeviceWeights::complete() {
  DS4_ASSIGN(const CompletenessMark mark, mark_of_contents());
  const MarkBytes bytes = encode(mark);
  DS4_CUDA_TRY(cudaMemcpy(memory_.data() + plan_.mark_offset(), bytes.data(), bytes.size(),
                          cudaMemcpyHostToDevice),
               "write the completeness mark");
  DS4_CUDA_TRY(cudaDeviceSynchronize(), "write the completeness mark");
  DS4_ASSIGN(auto fds, memory_.share());
  const auto parts = static_cast<std::uint32_t>(fds.size());
  for (std::uint32_t part = 0; part < parts; ++part) {
    const DescriptorName name{model().fingerprint(), descriptor_layers(range()), part, parts,
                              plan_.handles()[part]};
    exported_.push_back({name.to_string(), std::move(fds[part])});
  }
  return {};
}

Result<void> DeviceWeights::verify(std::vector<StoredDescriptor> stored) {
  MarkBytes bytes;
  DS4_CUDA_TRY(cudaMemcpy(bytes.data(), memory_.data() + plan_.mark_offset(), bytes.size(),
                          cudaMemcpyDeviceToHost),
               "read the completeness mark");
  DS4_ASSIGN(const CompletenessMark found, decode(bytes));
  DS4_ASSIGN(const CompletenessMark wanted, mark_of_contents());
  DS4_TRY(check_same(found, wanted));
  exported_ = std::move(stored);
  return {};
}

/// A plan whose handles have the sizes that the descriptors' names give.
Result<DevicePlan> plan_for(const SpanCover& cover, int device,
                            std::span<const StoredDescriptor> set) {
  DS4_ASSIGN(const std::uint64_t granularity, allocation_granularity(device));
  DS4_ASSIGN(DevicePlan plan,
             DevicePlan::make(cover, granularity, DescriptorName::parse(set[0].name)->bytes));
  const bool fits = plan.handles().size() == set.size() &&
                    std::ranges::equal(plan.handles(), set, {}, {}, [](const auto& stored) {
                      return DescriptorName::parse(stored.name)->bytes;
                    });
  if (fits) return plan;
  return fail(ErrorCode::kMismatch, "the kept device memory has another size than these weights");
}

struct Stopwatch {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

unsigned choose_readers(unsigned asked) {
  return asked != 0 ? asked : std::clamp(std::thread::hardware_concurrency(), 1u, kMaxReaders);
}

Result<std::shared_ptr<const CudaWeights>> load(int device, std::shared_ptr<const ModelFile> model,
                                                const LayerRange& range,
                                                const CudaLoadOptions& options) {
  const Stopwatch watch;
  reset_peak_rss();
  DS4_ASSIGN(SpanCover cover, cover_of(*model, range));
  DS4_ASSIGN(const std::uint64_t granularity, allocation_granularity(device));
  DS4_ASSIGN(DevicePlan plan, DevicePlan::make(cover, granularity, options.handle_bytes));
  DS4_ASSIGN(DeviceMemory memory, DeviceMemory::allocate(device, plan.handles()));
  const auto weights = std::make_shared<DeviceWeights>(
      device, std::move(model), range, std::move(cover), std::move(plan), std::move(memory));
  DS4_TRY(weights->clear_mark());
  CudaLoadFigures figures;
  figures.readers = choose_readers(options.readers);
  {
    DS4_ASSIGN(const auto ring, PinnedRing::make(device, options.ring_bytes, figures.readers));
    std::byte* const target = weights->memory().data();
    DS4_ASSIGN(const TransferFigures moved,
               transfer(weights->model().fd(), weights->plan().extents(),
                        [&](unsigned lane) { return ring->lane(lane, target); },
                        {figures.readers, ring->buffer_bytes(), options.progress, options.cancel}));
    figures.bytes = moved.bytes;
    figures.direct_io = moved.direct_io;
    figures.ring_bytes = ring->bytes();
  }
  DS4_TRY(weights->complete());
  figures.seconds = watch.seconds();
  figures.host_peak_bytes = peak_rss_bytes();
  weights->set_figures(figures);
  return weights;
}

Result<std::shared_ptr<const CudaWeights>> adopt(int device, std::shared_ptr<const ModelFile> model,
                                                 const LayerRange& range,
                                                 std::vector<StoredDescriptor> stored) {
  const Stopwatch watch;
  reset_peak_rss();
  DS4_ASSIGN(auto set, take_set(stored, model->fingerprint(), range));
  DS4_ASSIGN(SpanCover cover, cover_of(*model, range));
  DS4_ASSIGN(DevicePlan plan, plan_for(cover, device, set));
  std::vector<int> fds;
  for (const StoredDescriptor& part : set) fds.push_back(part.fd.get());
  DS4_ASSIGN(DeviceMemory memory, DeviceMemory::import(device, fds, plan.handles()));
  const auto weights = std::make_shared<DeviceWeights>(
      device, std::move(model), range, std::move(cover), std::move(plan), std::move(memory));
  DS4_TRY(weights->verify(std::move(set)));
  CudaLoadFigures figures;
  figures.seconds = watch.seconds();
  figures.host_peak_bytes = peak_rss_bytes();
  weights->set_figures(figures);
  return weights;
}

}  // namespace

Result<std::shared_ptr<const CudaWeights>> load_device_weights(
    int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
    const CudaLoadOptions& options) {
  const std::string doing =
      fmt::format("load layers {} of {} into device memory", range.to_string(), model->path());
  auto weights = load(device, std::move(model), range, options);
  if (!weights) return fail(std::move(weights).error(), doing);
  return weights;
}

Result<std::shared_ptr<const CudaWeights>> adopt_device_weights(
    int device, std::shared_ptr<const ModelFile> model, const LayerRange& range,
    std::vector<StoredDescriptor> stored) {
  const std::string doing =
      fmt::format("take over layers {} of {} in device memory", range.to_string(), model->path());
  auto weights = adopt(device, std::move(model), range, std::move(stored));
  if (!weights) return fail(std::move(weights).error(), doing);
  return weights;
}

}  // namespace ds4::cuda
