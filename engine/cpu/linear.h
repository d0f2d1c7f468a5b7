#pragma once
// Products of quantised matrices with activation rows: nearly all of the model's time.
//
// Weights are used where they lie in the mapping; nothing is repacked. Activations are prepared
// once per row (in fast precision: 16-bit integers with a float scale per 32 values) and then meet
// every matrix that reads them. One run() takes a list of products, so that several matrices of one
// input, or the experts of a batch, share one parallel region.
//
// The order in which one output value is summed depends on the format, the precision and the
// instruction set alone: not on how many rows are multiplied together, nor on the number of
// threads. That is what makes batching, chunking and splitting bit-identical (see
// engine/model/slice.h).
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engine/cpu/isa.h"
#include "engine/cpu/thread_pool.h"
#include "engine/gguf/tensor_type.h"

namespace ds4::cpu {

/// exact: float activations against decoded weights, the oracle. fast: 16-bit activations against
/// the quantised weights; weights in F32, F16 and BF16 meet float activations in either.
enum class Precision { kExact, kFast };

/// `rows` output features of `cols` inputs each, row after row as quant.h lays them out. A view.
struct Matrix {
  TensorType type = TensorType::kF32;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  const std::byte* data = nullptr;

  /// Rows [first, first + count) as a matrix of their own.
  Matrix row_range(std::uint32_t first, std::uint32_t count) const;
};

/// Activation rows made ready for products. The buffers are sized once; prepare() never allocates.
class Activations {
 public:
  /// For up to max_rows * max_cols values, however they are cut into rows.
  Activations(std::uint32_t max_rows, std::uint32_t max_cols, Precision precision);
  ~Activations();
  Activations(Activations&&) noexcept;
  Activations& operator=(Activations&&) noexcept;

  /// `n` rows of `cols` values, `stride` floats apart. `x` is referred to, not copied: it must stay
  /// unchanged until the products that read it have run.
  void prepare(ThreadPool& pool, Isa isa, const float* x, std::uint32_t n, std::uint32_t cols,
               std::size_t stride);

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

/// y[i * y_stride + r] = weights row r . x row x_rows[i], for r < weights.rows and i < the number
/// of rows. Empty x_rows means all prepared rows in order.
struct Product {
  Matrix weights;
  const Activations* x = nullptr;
  std::span<const std::uint32_t> x_rows;
  float* y = nullptr;
  std::size_t y_stride = 0;
};

/// Runs the products on all threads of the pool and returns when all are done.
void run_products(ThreadPool& pool, Isa isa, Precision precision,
                  std::span<const Product> products);

}  // namespace ds4::cpu
