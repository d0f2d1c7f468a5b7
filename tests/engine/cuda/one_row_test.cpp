// Products of a single row have the bits that it has among others, at the sizes that kernels of
// their own take.
#include <cstring>
#include <numeric>

#include "engine/cuda/kernels/few_rows.h"
#include "engine/cuda/kernels/one_row.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/quant.h"
#include "tests/engine/cuda/host_products.h"
#include "tests/engine/cuda/kernel_fixture.h"

namespace ds4::test {
namespace {

constexpr std::uint32_t kTwo = 2;  // rows of the call to compare with

class OneRow : public KernelTest {
 protected:
  void SetUp() override {
    constexpr int kHopper = 227 << 10;
    int room = 0;
    ASSERT_EQ(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
              cudaSuccess);
    if (room < kHopper) GTEST_SKIP() << "blocks of this GPU have too little shared memory";
  }
  /// Two random rows, as halves and as integers.
  struct Rows {
    std::vector<__half> values;
    OnDevice<__half> halves;
    cuda::QuantisedRows integers;

    Rows(OneRow& test, std::uint32_t cols, std::uint32_t rows = kTwo)
        : values(test.halves(std::size_t{rows} * cols)),
          halves(values),
          integers(test.integers(rows, cols)) {
      cuda::quantise_rows(test.launcher_, halves, cols, rows, cols, integers);
    }
  };
  /// A matrix, random, kept until the test ends.
  cuda::DeviceMatrix matrix(TensorType type, std::uint32_t rows, std::uint32_t cols) {
    if (type == TensorType::kF16) {
      const auto values = halves(std::size_t{rows} * cols, 0.02f);
      const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
      weights_.emplace_back(std::vector<std::byte>(bytes, bytes + 2 * values.size()));
    } else {
      weights_.emplace_back(random_weights(type, rows, cols, ++seed_));
    }
    return {weights_.back().data(), quant::row_bytes(type, cols), rows, cols,
            static_cast<std::uint32_t>(type)};
  }
  cuda::ExpertStack stack(TensorType type, std::uint32_t rows, std::uint32_t cols,
                          std::uint32_t experts) {
    cuda::ExpertStack all{matrix(type, rows * experts, cols), rows * quant::row_bytes(type, cols)};
    all.first.rows = rows;
    return all;
  }
  std::vector<std::uint16_t> grid_values_{std::begin(quant::kIq2XxsGrid),
                                          std::end(quant::kIq2XxsGrid)};
  OnDevice<std::uint16_t> grid_{grid_values_};

 private:
  std::vector<OnDevice<std::byte>> weights_;
  std::uint32_t seed_ = 0;
};

template <typename T>
bool same(const std::vector<T>& a, std::size_t at, const std::vector<T>& b, std::size_t b_at,
          std::size_t count) {
  return std::memcmp(a.data() + at, b.data() + b_at, count * sizeof(T)) == 0;
}

TEST_F(OneRow, ProductsAreThoseOfTwoRows) {
  using enum TensorType;
  for (const std::uint32_t cols : {1024u, 2048u, 4096u, 8192u}) {
    SCOPED_TRACE(cols);
    const Rows x(*this, cols);
    std::vector<cuda::DeviceMatrix> matrices = {matrix(kQ8_0, 256, cols), matrix(kQ8_0, 128, cols)};
    if (cols <= 4096) matrices.push_back(matrix(kF16, 96, cols));
    std::vector<OnDevice<float>> alone, among;
    std::vector<cuda::Product> one, two;
    for (const cuda::DeviceMatrix& weights : matrices) {
      alone.emplace_back(std::vector<float>(weights.rows, NAN));
      among.emplace_back(kTwo * weights.rows);
      cuda::Product product{weights, x.halves, cols, alone.back().data(), weights.rows};
      product.integers = x.integers;
      EXPECT_TRUE(cuda::one_row_supports(launcher_, product));
      one.push_back(product);
      product.y = among.back().data();
      two.push_back(product);
    }
    cuda::run_one_row(launcher_, one);
    cuda::run_products(launcher_, two, kTwo, grid_);
    finish();
    for (std::size_t i = 0; i < matrices.size(); ++i)
      EXPECT_TRUE(same(alone[i].read(), 0, among[i].read(), 0, matrices[i].rows)) << "item " << i;
  }
}

TEST_F(OneRow, ProductsBecomeIntegersBesideOthersThatDoNot) {
  constexpr std::uint32_t kRows = 256, kCols = 4096;
  const Rows x(*this, kCols);
  cuda::Product product{matrix(TensorType::kQ8_0, kRows, kCols), x.halves, kCols, nullptr, kRows};
  product.half_out = true, product.integers = x.integers;
  product.y_integers = integers(1, kRows);
  product.y_integers.sum_hi = product.y_integers.sum_lo = nullptr;
  const OnDevice<__half> y(kTwo * kRows);
  const OnDevice<__half> y_alone(kRows);
  cuda::Product halves = product;
  halves.y = y_alone.data(), halves.y_integers = {};
  const cuda::Product products[] = {product, halves};
  for (const cuda::Product& one : products) ASSERT_TRUE(cuda::one_row_supports(launcher_, one));
  cuda::run_one_row(launcher_, products);
  halves.y = y.data();
  cuda::run_products(launcher_, {&halves, 1}, kTwo, grid_);
  const cuda::QuantisedRows wanted = integers(1, kRows);
  cuda::quantise_rows(launcher_, y, kRows, 1, kRows, wanted);
  finish();
  const auto read = [](const auto* from, std::size_t count) {
    std::vector<std::remove_cvref_t<decltype(*from)>> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), from, count * sizeof(*from), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  };
  EXPECT_TRUE(same(y_alone.read(), 0, y.read(), 0, kRows));
  EXPECT_EQ(read(product.y_integers.hi, kRows), read(wanted.hi, kRows));
  EXPECT_EQ(read(product.y_integers.lo, kRows), read(wanted.lo, kRows));
  EXPECT_EQ(read(product.y_integers.scale, kRows / 32), read(wanted.scale, kRows / 32));
}

/// Two rows with the same experts, one row with them; once with an expert that is named twice.
TEST_F(OneRow, ExpertsAreThoseOfTwoRows) {
  using enum TensorType;
  constexpr std::uint32_t kE = 4096, kFfn = 2048, kExperts = 4, kUsed = 3;
  const Rows x(*this, kE);
  cuda::ExpertProducts e;
  e.gate = stack(kIQ2_XXS, kFfn, kE, kExperts), e.up = stack(kIQ2_XXS, kFfn, kE, kExperts);
  e.down = stack(kQ2_K, kE, kFfn, kExperts);
  e.shared_gate = matrix(kQ8_0, kFfn, kE), e.shared_up = matrix(kQ8_0, kFfn, kE);
  e.shared_down = matrix(kQ8_0, kE, kFfn);
  e.used = kUsed, e.n_expert = kExperts, e.limit = 2;
  e.x = x.halves, e.x_integers = x.integers;
  using Numbers = std::vector<std::uint32_t>;
  struct Out {
    std::vector<__half> hidden;
    std::vector<float> down;
  };
  const auto run = [&](std::uint32_t rows, const Numbers& expert, const Numbers& begin,
                       const Numbers& entry_row) {
    const OnDevice<std::uint32_t> count(Numbers{static_cast<std::uint32_t>(expert.size())}),
        d_expert(expert), d_begin(begin), d_entry_row(entry_row);
    const OnDevice<__half> hidden(std::size_t{rows} * (kUsed + 1) * kFfn);
    const OnDevice<float> down(std::size_t{rows} * (kUsed + 1) * kE);
    e.rows = rows;
    e.groups = {count, d_expert, d_begin, d_entry_row, nullptr, nullptr};
    e.hidden = hidden, e.down_out = down;
    if (rows == 1) {
      EXPECT_TRUE(cuda::few_rows_supports_gate_up(launcher_, e));
      EXPECT_TRUE(cuda::few_rows_supports_down(launcher_, e));
      cuda::run_gate_up(launcher_, e, grid_);
      cuda::run_few_rows_down(launcher_, e);
    } else {
      launcher_.device_weights = false;
      cuda::run_gate_up(launcher_, e, grid_);
      cuda::run_down(launcher_, e, grid_);
      launcher_.device_weights = true;
    }
    finish();
    return Out{hidden.read(), down.read()};
  };
  // Entry `from` of two rows, of whose expert there are two, and entry `to` of one.
  const auto expect_same = [&](const Out& two, std::uint32_t from, const Out& one,
                               std::uint32_t to) {
    EXPECT_TRUE(same(two.hidden, from * kFfn, one.hidden, to * kFfn, kFfn)) << to;
    EXPECT_TRUE(same(two.down, std::size_t{from} * kE, one.down, std::size_t{to} * kE, kE)) << to;
  };
  const Out two = run(2, {3, 0, 2}, {0, 2, 4, 6}, {0, 1, 0, 1, 0, 1});
  const Out one = run(1, {3, 0, 2}, {0, 1, 2, 3}, {0, 0, 0});
  for (std::uint32_t i = 0; i < kUsed; ++i) expect_same(two, 2 * i, one, i);
  expect_same(two, 2 * kUsed, one, kUsed);  // the shared expert
  const Out twice = run(1, {3, 0}, {0, 1, 3}, {0, 0, 0});
  expect_same(two, 0, twice, 0);
  expect_same(two, 2, twice, 1);
  expect_same(two, 2, twice, 2);
}

/// Four rows, of which one, two, three and all have the same expert of many.
TEST_F(OneRow, ExpertsOfFewRowsAreThoseOfOtherKernels) {
  using enum TensorType;
  constexpr std::uint32_t kE = 4096, kFfn = 2048, kGroups = 5, kUsed = 3, kRows = 4;
  const Rows x(*this, kE, kRows);
  cuda::ExpertProducts e;
  e.gate = stack(kIQ2_XXS, kFfn, kE, kGroups), e.up = stack(kIQ2_XXS, kFfn, kE, kGroups);
  e.down = stack(kQ2_K, kE, kFfn, kGroups);
  e.shared_gate = matrix(kQ8_0, kFfn, kE), e.shared_up = matrix(kQ8_0, kFfn, kE);
  e.shared_down = matrix(kQ8_0, kE, kFfn);
  e.rows = kRows, e.used = kUsed, e.n_expert = 2 * kRows * kUsed, e.limit = 2;
  e.x = x.halves, e.x_integers = x.integers;
  using Numbers = std::vector<std::uint32_t>;
  const OnDevice<std::uint32_t> count(Numbers{kGroups}), expert(Numbers{4, 1, 0, 3, 2}),
      begin(Numbers{0, 1, 3, 6, 10, 12}), entry_row(Numbers{2, 0, 3, 1, 2, 0, 0, 1, 2, 3, 3, 1});
  e.groups = {count, expert, begin, entry_row, nullptr, nullptr};
  const OnDevice<__half> hidden(std::size_t{kRows} * (kUsed + 1) * kFfn);
  const OnDevice<float> down(std::size_t{kRows} * (kUsed + 1) * kE);
  e.hidden = hidden, e.down_out = down;
  const auto run = [&](bool device_weights) {
    EXPECT_EQ(cudaMemset(e.hidden, 0xFF, hidden.read().size() * sizeof(__half)), cudaSuccess);
    EXPECT_EQ(cudaMemset(e.down_out, 0xFF, down.read().size() * sizeof(float)), cudaSuccess);
    launcher_.device_weights = device_weights;
    EXPECT_EQ(cuda::few_rows_supports_gate_up(launcher_, e), device_weights);
    EXPECT_EQ(cuda::few_rows_supports_down(launcher_, e), device_weights);
    cuda::run_gate_up(launcher_, e, grid_);
    cuda::run_down(launcher_, e, grid_);
    finish();
    return std::pair(hidden.read(), down.read());
  };
  const auto ours = run(true), others = run(false);
  EXPECT_TRUE(same(ours.first, 0, others.first, 0, ours.first.size()));
  EXPECT_TRUE(same(ours.second, 0, others.second, 0, ours.second.size()));
  e.rows = kRows + 1;  // more than half as many entries as experts
  launcher_.device_weights = true;
  EXPECT_FALSE(cuda::few_rows_supports_gate_up(launcher_, e));
  EXPECT_FALSE(cuda::few_rows_supports_down(launcher_, e));
}

/// `data`: an address, of nothing.
cuda::Product product_of(TensorType type, std::uint32_t rows, std::uint32_t cols,
                         std::uintptr_t data = 256) {
  cuda::Product product{{reinterpret_cast<const std::byte*>(data), quant::row_bytes(type, cols),
                         rows, cols, static_cast<std::uint32_t>(type)}};
  product.integers.hi = reinterpret_cast<std::int8_t*>(16);
  return product;
}

TEST_F(OneRow, OtherSizesFormatsAndAddressesAreNotTaken) {
  using enum TensorType;
  const auto taken = [&](const cuda::Product& product) {
    return cuda::one_row_supports(launcher_, product);
  };
  EXPECT_TRUE(taken(product_of(kQ8_0, 64, 4096)));
  EXPECT_FALSE(taken(product_of(kQ8_0, 64, 4096, 264)));
  EXPECT_FALSE(taken(product_of(kQ8_0, 63, 4096)));
  EXPECT_FALSE(taken(product_of(kQ8_0, 64, 512)));
  EXPECT_FALSE(taken(product_of(kQ8_0, 64, 3 * 2048)));
  EXPECT_FALSE(taken(product_of(kQ8_0, 64, 16384)));
  EXPECT_FALSE(taken(product_of(kQ4_K, 64, 4096)));
  EXPECT_TRUE(taken(product_of(kF16, 64, 4096)));
  EXPECT_FALSE(taken(product_of(kF16, 64, 8192)));
  EXPECT_FALSE(taken(product_of(kF16, 64, 1536)));
}

TEST_F(OneRow, WhatBecomesIntegersNeedsThirtyTwoRowsInABlock) {
  const auto taken = [&](TensorType type, std::uint32_t rows, std::uint32_t cols) {
    cuda::Product product = product_of(type, rows, cols);
    product.y_integers.hi = product.integers.hi;
    return cuda::one_row_supports(launcher_, product);
  };
  EXPECT_TRUE(taken(TensorType::kQ8_0, 64, 4096));
  EXPECT_FALSE(taken(TensorType::kQ8_0, 48, 4096));
  EXPECT_FALSE(taken(TensorType::kQ8_0, 64, 8192));
  EXPECT_FALSE(taken(TensorType::kF16, 64, 1024));
}

TEST_F(OneRow, WeightsInTheHostsMemoryAreNotTaken) {
  const cuda::Product product = product_of(TensorType::kQ8_0, 64, 4096);
  EXPECT_TRUE(cuda::one_row_supports(launcher_, product));
  launcher_.device_weights = false;
  EXPECT_FALSE(cuda::one_row_supports(launcher_, product));
}

}  // namespace
}  // namespace ds4::test
