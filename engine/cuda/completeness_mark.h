#pragma once
// What tells whole weights in device memory from the remains of a load that was cut short.
//
// Memory that outlives processes is memory whose history nobody remembers. The mark stands behind
// the payload and says which weights these are: model, part, the cover's geometry, and a hash of
// samples of what the device holds. It is written after the last copy has ended, so before that
// there is none; and whoever adopts the memory takes the samples again and compares.
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/cuda/device_plan.h"

namespace ds4::cuda {

/// How the weights' bytes are laid out on the device: 0 is as in the file. To be raised whenever
/// the engine begins to store them otherwise, so that it never adopts what it would misread.
inline constexpr std::uint32_t kWeightLayout = 0;

struct CompletenessMark {
  std::string fingerprint;  // ModelFile's, 32 characters
  std::string part;         // "L20", "output"; at most 16 characters
  std::uint64_t payload_bytes = 0;
  std::uint64_t geometry_hash = 0;  // of the extents
  std::uint64_t samples_hash = 0;   // of the bytes at sample_places()

  bool operator==(const CompletenessMark&) const = default;
};

std::uint64_t hash_geometry(const DevicePlan& plan);

/// Device offsets of the samples, kSampleBytes each (less at the payload's end): the first bytes,
/// the last, and places spread evenly between.
inline constexpr std::uint64_t kSampleBytes = 4096;
std::vector<std::uint64_t> sample_places(const DevicePlan& plan);

std::uint64_t hash_bytes(std::span<const std::byte> bytes);

using MarkBytes = std::array<std::byte, kMarkBytes>;
MarkBytes encode(const CompletenessMark& mark);
/// Errors: kCorrupt if these bytes are no mark, or not all of one; kMismatch for another layout.
Result<CompletenessMark> decode(std::span<const std::byte, kMarkBytes> bytes);

/// Errors: kMismatch naming what differs between the mark that was found and the one wanted.
Result<void> check_same(const CompletenessMark& found, const CompletenessMark& wanted);

}  // namespace ds4::cuda
