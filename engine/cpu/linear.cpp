#include "engine/cpu/linear.h"

#include <algorithm>
#include <cassert>

#include "engine/cpu/kernels.h"
#include "engine/quant/quant.h"

namespace ds4::cpu {
namespace {

const Kernels& kernels_for([[maybe_unused]] Isa isa) {
#if defined(DS4_X86_KERNELS)
  if (isa == Isa::kAvx512) return kAvx512Kernels;
  if (isa == Isa::kAvx2) return kAvx2Kernels;
#endif
  return kScalarKernels;
}

constexpr std::size_t kRecordAlign = 64;

std::size_t record_bytes_for(std::uint32_t cols) {
  const std::size_t bytes = cols / kGroup * (kGroupBytes + sizeof(GroupInfo));
  return (bytes + kRecordAlign - 1) / kRecordAlign * kRecordAlign;
}

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{kRecordAlign}); }
};

}  // namespace

struct Activations::Impl {
  std::size_t capacity = 0;  // values
  std::unique_ptr<std::byte[], AlignedDelete> records;
  ActivationRows rows;
  std::uint32_t n = 0;
  std::uint32_t cols = 0;
};

Matrix Matrix::row_range(std::uint32_t first, std::uint32_t count) const {
  assert(first <= rows && count <= rows - first);
  return {type, count, cols, data + first * quant::row_bytes(type, cols)};
}

Activations::Activations(std::uint32_t max_rows, std::uint32_t max_cols, Precision precision)
    : impl_(std::make_unique<Impl>()) {
  impl_->capacity = std::size_t{max_rows} * max_cols;
  if (precision == Precision::kExact) return;
  // The shortest row, one group, is padded most: 84 bytes to 128.
  const std::size_t bytes = impl_->capacity * 4 + kRecordAlign;
  impl_->records.reset(
      static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kRecordAlign})));
}

Activations::~Activations() = default;
Activations::Activations(Activations&&) noexcept = default;
Activations& Activations::operator=(Activations&&) noexcept = default;

void Activations::prepare(ThreadPool& pool, Isa isa, const float* x, std::uint32_t n,
                          std::uint32_t cols, std::size_t stride) {
  assert(std::size_t{n} * cols <= impl_->capacity);
  impl_->n = n;
  impl_->cols = cols;
  impl_->rows = {x, stride, nullptr, 0};
  if (!impl_->records || cols % kGroup != 0) return;
  impl_->rows.records = impl_->records.get();
  impl_->rows.record_bytes = record_bytes_for(cols);
  const Kernels& kernels = kernels_for(isa);
  const std::size_t grain = std::max<std::size_t>(1, 16384 / cols);
  pool.parallel_for(n, grain, [&](std::size_t begin, std::size_t end, unsigned) {
    for (std::size_t row = begin; row < end; ++row) {
      kernels.quantize_row(x + row * stride, cols,
                           impl_->records.get() + row * impl_->rows.record_bytes);
    }
  });
}

namespace {

constexpr std::uint32_t kUnitRows = 16;  // weight rows of the widest tile
// Activation rows that meet a tile before the next one is unpacked: many, so that unpacking does
// not matter, unless there are too few tiles to keep all threads busy. Multiples of every kernel's
// step.
constexpr std::uint32_t kManyX = 240, kFewX = 72;
// About a microsecond of work: less is not worth waking another thread for.
constexpr std::uint64_t kMinPieceCost = 120'000;

bool is_float(TensorType type) {
  return quant::block_values(type) == 1;
}

/// A product cut into units: all tiles with the first block of activation rows, then with the next.
struct Units {
  std::uint32_t n = 0;        // activation rows
  std::uint32_t n_block = 0;  // of them per unit
  std::uint64_t tiles = 0;
  std::uint64_t count = 0;
  std::uint64_t cost = 0;  // of one unit, in fortieths of a cycle

  Units(const Product& product, Precision precision, unsigned threads) {
    n = product.x_rows.empty() ? product.x->impl().n
                               : static_cast<std::uint32_t>(product.x_rows.size());
    if (n == 0) return;
    tiles = (product.weights.rows + kUnitRows - 1) / kUnitRows;
    n_block = std::min(n, tiles >= 8 * threads ? kManyX : kFewX);
    count = tiles * ((n + n_block - 1) / n_block);
    const bool is_integer = precision == Precision::kFast && !is_float(product.weights.type);
    const std::uint64_t per_value =
        is_integer ? 2 + 2 * std::uint64_t{n_block} : 1 + 3 * std::uint64_t{n_block};
    cost = kUnitRows * std::uint64_t{product.weights.cols} * per_value;
  }
};

void run_job(const Kernels& kernels, Precision precision, const Job& job) {
  if (precision == Precision::kExact || is_float(job.type)) {
    kernels.multiply_exact(job);
  } else {
    assert(job.x.records != nullptr);
    kernels.multiply_fast(job);
  }
}

/// Units [first, last) of a product.
void run_units(const Kernels& kernels, Precision precision, const Product& product,
               const Units& units, std::uint64_t first, std::uint64_t last) {
  const Matrix& weights = product.weights;
  Job job;
  job.type = weights.type;
  job.row_bytes = quant::row_bytes(weights.type, weights.cols);
  job.cols = weights.cols;
  job.x = product.x->impl().rows;
  job.y_stride = product.y_stride;
  while (first < last) {
    const auto x = static_cast<std::uint32_t>(first / units.tiles * units.n_block);
    const std::uint64_t tile = first % units.tiles;
    const std::uint64_t tiles = std::min(last - first, units.tiles - tile);
    const auto row = static_cast<std::uint32_t>(tile * kUnitRows);
    job.weights = weights.data + row * job.row_bytes;
    job.rows =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(tiles * kUnitRows, weights.rows - row));
    job.n = std::min(units.n_block, units.n - x);
    job.x_rows = product.x_rows.empty() ? nullptr : product.x_rows.data() + x;
    job.first_x = x;
    job.y = product.y + x * product.y_stride + row;
    run_job(kernels, precision, job);
    first += tiles;
  }
}

/// The units that start in [begin, end) of the list's cost, laid end to end.
void run_piece(const Kernels& kernels, Precision precision, unsigned threads,
               std::span<const Product> products, std::uint64_t begin, std::uint64_t end) {
  std::uint64_t at = 0;
  for (const Product& product : products) {
    if (at >= end) return;
    const Units units(product, precision, threads);
    if (units.count == 0) continue;
    const auto first_from = [&](std::uint64_t cost) {
      return cost <= at ? 0 : std::min(units.count, (cost - at + units.cost - 1) / units.cost);
    };
    run_units(kernels, precision, product, units, first_from(begin), first_from(end));
    at += units.count * units.cost;
  }
}

}  // namespace

void run_products(ThreadPool& pool, Isa isa, Precision precision,
                  std::span<const Product> products) {
  const Kernels& kernels = kernels_for(isa);
  const unsigned threads = pool.size();
  std::uint64_t total = 0;
  for (const Product& product : products) {
    assert(product.weights.cols == product.x->impl().cols);
    const Units units(product, precision, threads);
    total += units.count * units.cost;
  }
  const std::uint64_t pieces =
      threads == 1 ? 1 : std::clamp<std::uint64_t>(total / kMinPieceCost, 1, threads * 4);
  pool.parallel_for(pieces, 1, [&](std::size_t begin, std::size_t end, unsigned) {
    // Every piece of the cost line is cut at the same places, whoever computes it.
    const auto cut = [&](std::size_t piece) { return total / pieces * piece; };
    run_piece(kernels, precision, threads, products, cut(begin), end == pieces ? total : cut(end));
  });
}

}  // namespace ds4::cpu
