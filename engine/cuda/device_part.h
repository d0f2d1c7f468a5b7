#pragma once
// One layer (or the output head) in device memory: the unit that is loaded, kept, adopted, dropped.
#include <memory>
#include <string>
#include <vector>

#include "engine/cuda/completeness_mark.h"
#include "engine/cuda/device_memory.h"
#include "engine/cuda/device_plan.h"
#include "engine/cuda/plugin.h"
#include "engine/residency/memfd_part.h"

namespace ds4::cuda {

class DevicePart {
 public:
  /// Memory for the part, without its bytes.
  static Result<std::shared_ptr<DevicePart>> allocate(int device, const ModelFile& model,
                                                      const PartPlan& plan);
  /// From a descriptor that a former process kept. Errors: kMismatch or kCorrupt if it is not this
  /// part, or was never completed; CUDA's own if it is not even device memory.
  static Result<std::shared_ptr<DevicePart>> adopt(int device, const ModelFile& model,
                                                   const PartPlan& plan, UniqueFd fd);

  /// "ds4.<fingerprint>.cuda0-L20", "-output": what it is kept under; 0 is the device.
  const std::string& kept_name() const { return kept_name_; }
  /// The bytes of the file that it holds.
  const SpanCover& cover() const { return cover_; }
  std::uint64_t device_bytes() const { return memory_.bytes(); }
  const std::byte* address_of(std::uint64_t file_offset) const {
    return memory_.data() + place_.device_offset(file_offset);
  }
  /// What is to be copied, to addresses.
  std::vector<Extent> extents() const;

  /// All bytes have arrived: writes the mark and exports the memory.
  Result<void> complete();
  /// Of completed or adopted memory.
  int fd() const { return fd_.get(); }

 private:
  DevicePart(int device, const ModelFile& model, const PartPlan& plan, DevicePlan place,
             DeviceMemory memory);
  Result<void> verify() const;
  Result<CompletenessMark> mark_of_contents() const;

  const int device_;
  // Not the plan itself: it refers to its ModelFile, which may go before the part does.
  const std::string fingerprint_;
  const std::string name_;
  const SpanCover cover_;
  const DevicePlan place_;
  const std::string kept_name_;
  const DeviceMemory memory_;
  UniqueFd fd_;
};

/// Device memory that the part will take. Pure but for the granularity.
Result<std::uint64_t> part_bytes(int device, const PartPlan& plan);

std::string kept_name_of(int device, const ModelFile& model, const PartPlan& plan);

}  // namespace ds4::cuda
