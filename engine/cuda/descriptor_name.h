#pragma once
// Names under which a descriptor store keeps device memory.
//
// A store hands back a heap of descriptors and their names after a crash, those of other things and
// of former assignments among them. The name says which weights a descriptor belongs to, and which
// part of how many it is, so that a set is taken only when it is whole:
//
//     ds4-cuda.<fingerprint, 32 hex digits>.<layers, 21-output>.<part>.<parts>.<bytes>
//
// Within systemd's rules for FDNAME=: at most 255 characters, none of them a colon.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/cuda/plugin.h"
#include "engine/residency/layer_range.h"

namespace ds4 {

struct DescriptorName {
  std::string fingerprint;
  std::string layers;  // "0-20", "21-output"
  std::uint32_t part = 0;
  std::uint32_t parts = 0;
  std::uint64_t bytes = 0;  // of this part

  std::string to_string() const;
  /// Nothing for a name that is not of this form.
  static std::optional<DescriptorName> parse(std::string_view text);
};

/// A range as names have it.
std::string descriptor_layers(const LayerRange& range);

/// The descriptors of one set in the order of their parts; the others are left in `stored`. Errors:
/// kNotFound if there are none, or if the set is not whole (twice the same part counts as none of
/// them fitting: which one is right cannot be told).
Result<std::vector<StoredDescriptor>> take_set(std::vector<StoredDescriptor>& stored,
                                               std::string_view fingerprint,
                                               const LayerRange& range);

}  // namespace ds4
