#include "engine/cpu/linear.h"

#include <algorithm>
#include <cassert>
#include <vector>

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
  const std::size_t bytes = cols + cols / kGroup * sizeof(GroupInfo);
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
  // The shortest row, one group, is padded most: 52 bytes to 64.
  const std::size_t bytes = impl_->capacity * 2 + kRecordAlign;
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

bool is_float(TensorType type) {
  return quant::block_values(type) == 1;
}

std::uint32_t n_rows(const Product& product) {
  return product.x_rows.empty() ? product.x->impl().n
                                : static_cast<std::uint32_t>(product.x_rows.size());
}

void run(const Kernels& kernels, Precision precision, const Product& product, std::uint32_t first,
         std::uint32_t count) {
  const Matrix part = product.weights.row_range(first, count);
  Job job;
  job.type = part.type;
  job.weights = part.data;
  job.row_bytes = quant::row_bytes(part.type, part.cols);
  job.rows = part.rows;
  job.cols = part.cols;
  job.x = product.x->impl().rows;
  job.x_rows = product.x_rows.empty() ? nullptr : product.x_rows.data();
  job.n = n_rows(product);
  job.y = product.y + first;
  job.y_stride = product.y_stride;
  if (precision == Precision::kExact || is_float(part.type)) {
    kernels.multiply_exact(job);
  } else {
    assert(job.x.records != nullptr);
    kernels.multiply_fast(job);
  }
}

}  // namespace

void run_products(ThreadPool& pool, Isa isa, Precision precision,
                  std::span<const Product> products) {
  const Kernels& kernels = kernels_for(isa);
  for (const Product& product : products) {
    assert(product.weights.cols == product.x->impl().cols);
    pool.parallel_for(product.weights.rows, 16, [&](std::size_t begin, std::size_t end, unsigned) {
      run(kernels, precision, product, static_cast<std::uint32_t>(begin),
          static_cast<std::uint32_t>(end - begin));
    });
  }
}

}  // namespace ds4::cpu
