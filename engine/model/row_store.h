#pragma once
// Cached rows in memory: where row i lies, and in what coding.
//
// The `official` graph rounds rows to few bits before they are cached, so they can be held as what
// they were rounded to, losing nothing: FP8 codes with a scale per 64 values for the part without
// positions and floats behind it, or FP4 codes with a scale per 32 for index rows. Whoever reads
// asks for floats and gives a place to decode into; a store of floats hands out its own memory
// instead. FP4 rows are only ever scored, in integers, so they are handed out as they are.
#include <cstddef>
#include <cstdint>

#include "engine/cpu/ops.h"

namespace ds4 {

class RowFormat {
 public:
  RowFormat() = default;
  /// Rows of `n` floats.
  static RowFormat floats(std::uint32_t n);
  /// `coded` values in FP8, then n - coded floats.
  static RowFormat fp8(std::uint32_t n, std::uint32_t coded);
  /// All values in FP4; n is a multiple of kFp4Block.
  static RowFormat fp4(std::uint32_t n);

  std::uint64_t row_bytes() const { return row_bytes_; }
  std::uint32_t n() const { return n_; }

  /// `values` are rounded already; other values are cut to what the codes can say.
  void encode(const float* values, std::byte* row) const;
  /// Not of FP4 rows.
  void decode(const cpu::Ops& ops, const std::byte* row, float* values) const;
  /// The FP4 rows from `first` on.
  cpu::Fp4Rows fp4_rows(const std::byte* first) const;
  bool is_floats() const { return coding_ == Coding::kFloats; }

 private:
  enum class Coding { kFloats, kFp8, kFp4 };

  Coding coding_ = Coding::kFloats;
  std::uint32_t n_ = 0;
  std::uint32_t coded_ = 0;      // values held as codes
  std::uint32_t exponents_ = 0;  // byte at which the blocks' exponents stand
  std::uint32_t tail_ = 0;       // byte at which the floats stand
  std::uint64_t row_bytes_ = 0;
};

/// Rows of one format from `base` on, one behind the other. A view.
class RowStore {
 public:
  RowStore() = default;
  RowStore(std::byte* base, const RowFormat& format, const cpu::Ops& ops)
      : base_(base), format_(format), ops_(&ops) {}

  void put(std::uint64_t row, const float* values) {
    format_.encode(values, base_ + row * format_.row_bytes());
  }
  /// The row's floats: in the store itself, or decoded into `scratch` (n floats). Not of FP4 rows.
  const float* get(std::uint64_t row, float* scratch) const {
    const std::byte* at = base_ + row * format_.row_bytes();
    if (format_.is_floats()) return reinterpret_cast<const float*>(at);
    format_.decode(*ops_, at, scratch);
    return scratch;
  }
  /// Rows from `first` on in a store of FP4 rows.
  cpu::Fp4Rows fp4(std::uint64_t first) const {
    return format_.fp4_rows(base_ + first * format_.row_bytes());
  }

 private:
  std::byte* base_ = nullptr;
  RowFormat format_;
  const cpu::Ops* ops_ = nullptr;
};

}  // namespace ds4
