#include "engine/cuda/device_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "engine/cuda/driver.h"

namespace ds4::cuda {
namespace {

Result<DevicePlan> place(int device, const PartPlan& plan) {
  DS4_ASSIGN(const std::uint64_t granularity, allocation_granularity(device));
  return DevicePlan::make(plan.cover, granularity);
}

}  // namespace

std::string kept_name_of(int device, const ModelFile& model, const PartPlan& plan) {
  return fmt::format("ds4.{}.cuda{}-{}", model.fingerprint(), device, plan.name);
}

Result<std::uint64_t> part_bytes(int device, const PartPlan& plan) {
  return place(device, plan).map([](const DevicePlan& made) { return made.total_bytes(); });
}

DevicePart::DevicePart(int device, const ModelFile& model, const PartPlan& plan, DevicePlan place,
                       DeviceMemory memory)
    : device_(device),
      fingerprint_(model.fingerprint()),
      name_(plan.name),
      cover_(plan.cover),
      place_(std::move(place)),
      kept_name_(kept_name_of(device, model, plan)),
      memory_(std::move(memory)) {}

Result<std::shared_ptr<DevicePart>> DevicePart::allocate(int device, const ModelFile& model,
                                                         const PartPlan& plan) {
  DS4_ASSIGN(DevicePlan where, place(device, plan));
  DS4_ASSIGN(DeviceMemory memory, DeviceMemory::allocate(device, where.total_bytes()));
  std::shared_ptr<DevicePart> part(
      new DevicePart(device, model, plan, std::move(where), std::move(memory)));
  // Freed memory comes back with what was in it: perhaps a mark.
  DS4_CUDA_TRY(cudaMemset(part->memory_.data() + part->place_.mark_offset(), 0, kMarkBytes),
               "clear the completeness mark");
  DS4_CUDA_TRY(cudaDeviceSynchronize(), "clear the completeness mark");
  return part;
}

Result<std::shared_ptr<DevicePart>> DevicePart::adopt(int device, const ModelFile& model,
                                                      const PartPlan& plan, UniqueFd fd) {
  DS4_ASSIGN(DevicePlan where, place(device, plan));
  DS4_ASSIGN(DeviceMemory memory, DeviceMemory::import(device, fd.get(), where.total_bytes()));
  std::shared_ptr<DevicePart> part(
      new DevicePart(device, model, plan, std::move(where), std::move(memory)));
  DS4_TRY(part->verify());
  part->fd_ = std::move(fd);
  return part;
}

std::vector<Extent> DevicePart::extents() const {
  std::vector<Extent> at_addresses(place_.extents().begin(), place_.extents().end());
  for (Extent& extent : at_addresses) {
    extent.device_place += reinterpret_cast<std::uint64_t>(memory_.data());
  }
  return at_addresses;
}

Result<CompletenessMark> DevicePart::mark_of_contents() const {
  const auto places = sample_places(place_);
  std::vector<std::byte> samples(places.size() * kSampleBytes);
  for (std::size_t i = 0; i < places.size(); ++i) {
    const std::uint64_t bytes = std::min(kSampleBytes, place_.payload_bytes() - places[i]);
    DS4_CUDA_TRY(cudaMemcpy(samples.data() + i * kSampleBytes, memory_.data() + places[i], bytes,
                            cudaMemcpyDeviceToHost),
                 "sample the weights on the device");
  }
  return CompletenessMark{fingerprint_, name_, place_.payload_bytes(), hash_geometry(place_),
                          hash_bytes(samples)};
}

Result<void> DevicePart::complete() {
  DS4_ASSIGN(const CompletenessMark mark, mark_of_contents());
  const MarkBytes bytes = encode(mark);
  DS4_CUDA_TRY(cudaMemcpy(memory_.data() + place_.mark_offset(), bytes.data(), bytes.size(),
                          cudaMemcpyHostToDevice),
               "write the completeness mark");
  DS4_CUDA_TRY(cudaDeviceSynchronize(), "write the completeness mark");
  DS4_ASSIGN(fd_, memory_.share());
  return {};
}

Result<void> DevicePart::verify() const {
  MarkBytes bytes;
  DS4_CUDA_TRY(cudaMemcpy(bytes.data(), memory_.data() + place_.mark_offset(), bytes.size(),
                          cudaMemcpyDeviceToHost),
               "read the completeness mark");
  DS4_ASSIGN(const CompletenessMark found, decode(bytes));
  DS4_ASSIGN(const CompletenessMark wanted, mark_of_contents());
  return check_same(found, wanted);
}

}  // namespace ds4::cuda
