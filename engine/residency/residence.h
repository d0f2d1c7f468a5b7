#pragma once
// Residence: one range of layers in memory, whatever the memory is. What status shows, what the
// agent holds while a slice serves, and what ends when it is let go.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/residency/layer_range.h"
#include "engine/residency/load_options.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

struct IntervalResidency {
  Interval planned;
  std::uint64_t mapped_bytes = 0;
  std::uint64_t incore_bytes = 0;
  std::uint64_t locked_bytes = 0;
  std::uint64_t registered_bytes = 0;  // with a GPU driver
  std::uint64_t device_bytes = 0;
};

/// What the kernel says of the mapping (mincore(2), /proc/self/smaps), not what we believe; and
/// what a GPU's driver says.
struct Residency {
  std::vector<IntervalResidency> intervals;
  std::uint64_t mapped_bytes = 0;
  std::uint64_t incore_bytes = 0;
  std::uint64_t locked_bytes = 0;
  std::uint64_t registered_bytes = 0;
  std::uint64_t device_bytes = 0;         // of the cover
  std::uint64_t outside_cover_bytes = 0;  // mapped of this file but in no slice's cover: always 0

  /// The totals of mapped, in core and locked, from the intervals.
  void add_up();
};

/// The tensor of that name, which must be one of the range's. Errors: kNotFound if the file has no
/// such tensor, kOutOfRange (naming tensor and range) if it belongs to other layers.
Result<const TensorInfo*> owned_tensor(const GgufFile& gguf, const LayerRange& range,
                                       std::string_view name);

class Residence {
 public:
  virtual ~Residence() = default;

  /// "file", "memfd", "cuda-registered" or "cuda-device".
  virtual std::string_view strategy() const = 0;
  virtual const LayerRange& range() const = 0;
  virtual const SpanCover& cover() const = 0;
  virtual Result<Residency> audit() const = 0;
  virtual const LoadFigures& figures() const = 0;
  /// True if writing to the model file changes what is held.
  virtual bool shows_the_file() const { return false; }
  /// What is not as it was asked for, in sentences; empty if all is.
  virtual const std::string& note() const = 0;
  /// Why what is computed from it cannot be trusted any more. Any thread; cheap.
  virtual std::optional<std::string> broken() const = 0;
};

}  // namespace ds4
