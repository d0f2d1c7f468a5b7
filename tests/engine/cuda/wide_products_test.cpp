// Activations as integers, and the products of many rows with them, against the host's arithmetic:
// equal bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/wide_products.h"
#include "engine/quant/float16.h"
#include "engine/quant/iq2_xxs.h"
#include "engine/quant/quant.h"
#include "tests/engine/cuda/host_products.h"

namespace ds4::test {
namespace {

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(std::span<const T> values) : OnDevice(values.size()) {
    EXPECT_EQ(cudaMemcpy(data(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice), 0);
  }
  explicit OnDevice(std::size_t count) {
    auto buffer = cuda::device_buffer<T>(count + 16, "a test");
    EXPECT_TRUE(buffer) << buffer.error().message;
    if (!buffer) return;
    buffer_ = std::move(*buffer);
    EXPECT_EQ(cudaMemset(data(), 0xFF, (count + 16) * sizeof(T)), 0);  // NaN in floats and halves
  }
  T* data() const { return buffer_.data(); }
  std::vector<T> read(std::size_t count) const { return read_from(data(), count); }
  static std::vector<T> read_from(const T* from, std::size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), 0);
    return values;
  }

 private:
  cuda::DeviceBuffer<T> buffer_;
};

std::vector<std::uint16_t> halves(std::span<const float> values) {
  std::vector<std::uint16_t> out;
  for (const float v : values) out.push_back(quant::float_to_half(v));
  return out;
}
const __half* as_halves(const OnDevice<std::uint16_t>& values) {
  return reinterpret_cast<const __half*>(values.data());
}

/// Rows as integers on the device.
struct DeviceIntegers {
  OnDevice<std::byte> memory;
  cuda::QuantisedRows at;

  DeviceIntegers(std::span<const float> values, std::uint32_t rows, std::uint32_t cols)
      : memory(cuda::QuantisedRows::bytes(rows, cols)),
        at(cuda::QuantisedRows::place(memory.data(), rows, cols)) {
    const auto half = halves(values);
    const OnDevice<std::uint16_t> x{std::span<const std::uint16_t>(half)};
    cuda::Launcher launcher;
    cuda::quantise_rows(launcher, as_halves(x), cols, rows, cols, at);
    EXPECT_EQ(launcher.error, cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
};

void expect_equal(const cuda::QuantisedRows& found, const HostIntegers& wanted) {
  const auto compare = [](const std::int8_t* hi, const std::int8_t* lo, const std::vector<int>& q) {
    const auto h = OnDevice<std::int8_t>::read_from(hi, q.size());
    const auto l = OnDevice<std::int8_t>::read_from(lo, q.size());
    for (std::size_t i = 0; i < q.size(); ++i) {
      ASSERT_EQ(128 * h[i] + l[i], q[i]) << "at " << i;
      ASSERT_LE(std::abs(l[i]), 64);
    }
  };
  compare(found.hi, found.lo, wanted.q);
  EXPECT_EQ(OnDevice<float>::read_from(found.scale, wanted.scale.size()), wanted.scale);
  if (wanted.sum.empty()) return;
  compare(found.sum_hi, found.sum_lo, wanted.sum);
  EXPECT_EQ(OnDevice<float>::read_from(found.sum_scale, wanted.sum_scale.size()), wanted.sum_scale);
}

TEST(QuantisedRows, AreTheHostsIntegers) {
  for (const std::uint32_t cols : {32u, 96u, 256u, 1024u, 4096u}) {
    SCOPED_TRACE(cols);
    auto values = random_values(std::size_t{37} * cols, cols);
    std::fill_n(values.begin(), 32, 0.0f);  // a block of zeros
    values[cols + 3] = -65504;              // one that leaves nothing of its neighbours
    const DeviceIntegers x(values, 37, cols);
    expect_equal(x.at, integers_of(values, 37, cols));
  }
}

TEST(QuantisedRows, AreTheSameFromFloats) {
  const auto values = random_values(5 * 512, 1);
  const OnDevice<float> x{std::span<const float>(values)};
  const OnDevice<std::byte> memory(cuda::QuantisedRows::bytes(5, 512));
  const auto at = cuda::QuantisedRows::place(memory.data(), 5, 512);
  cuda::Launcher launcher;
  cuda::quantise_rows(launcher, x.data(), 512, 5, 512, at);
  ASSERT_EQ(launcher.error, cudaSuccess);
  expect_equal(at, integers_of(values, 5, 512));
}

TEST(QuantisedRows, ANanStaysOne) {
  auto values = random_values(512, 2);
  values[300] = NAN;
  const DeviceIntegers x(values, 1, 512);
  const auto scale = OnDevice<float>::read_from(x.at.scale, 16);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(scale[i]), i == 300 / 32);
  EXPECT_TRUE(std::isnan(OnDevice<float>::read_from(x.at.sum_scale, 2)[1]));
}

class WideProducts : public testing::TestWithParam<TensorType> {
 protected:
  const OnDevice<std::uint16_t> grid_{std::span<const std::uint16_t>(quant::kIq2XxsGrid)};
};

cuda::DeviceMatrix matrix(const OnDevice<std::byte>& weights, TensorType type, std::uint32_t rows,
                          std::uint32_t cols) {
  return {weights.data(), quant::row_bytes(type, cols), rows, cols,
          static_cast<std::uint32_t>(type)};
}

/// [n][rows] by the host's arithmetic.
std::vector<float> products_of(TensorType type, std::span<const std::byte> weights,
                               std::uint32_t rows, const HostIntegers& x) {
  std::vector<float> y(std::size_t{x.rows} * rows);
  const std::size_t row_bytes = quant::row_bytes(type, x.cols);
  for (std::uint32_t r = 0; r < rows; ++r) {
    const HostWeights row = weights_of(type, weights.subspan(r * row_bytes), x.cols);
    for (std::uint32_t n = 0; n < x.rows; ++n) y[std::size_t{n} * rows + r] = multiply(row, x, n);
  }
  return y;
}

/// As far as the activations' 15 bits allow: the values against products in doubles.
void expect_close(TensorType type, std::span<const std::byte> weights, std::uint32_t rows,
                  std::span<const float> x, std::uint32_t cols, std::span<const float> y) {
  std::vector<float> row(cols);
  double difference = 0, size = 0;
  for (std::uint32_t r = 0; r < rows; ++r) {
    quant::dequantize_row(type, weights.data() + r * quant::row_bytes(type, cols), row.data(),
                          cols);
    for (std::size_t n = 0; n < x.size() / cols; ++n) {
      double exact = 0;
      for (std::uint32_t i = 0; i < cols; ++i) exact += double{row[i]} * x[n * cols + i];
      difference += (y[n * rows + r] - exact) * (y[n * rows + r] - exact);
      size += exact * exact;
    }
  }
  // A value is off by 2^-15 of its block's largest at most, which is up to 30 times its size here.
  EXPECT_LE(std::sqrt(difference / size), 3e-4);
}

TEST_P(WideProducts, HaveTheHostsBitsWhateverTheirSizes) {
  struct Sizes {
    std::uint32_t rows, n, cols;
  };
  for (const Sizes& s : {Sizes{128, 128, 256}, Sizes{1, 1, 512}, Sizes{129, 65, 1024},
                         Sizes{200, 300, 768}, Sizes{70, 130, 4096}}) {
    SCOPED_TRACE(testing::Message() << s.rows << " x " << s.cols << ", " << s.n << " rows");
    const auto weights = random_weights(GetParam(), s.rows, s.cols, s.rows);
    const auto values = random_values(std::size_t{s.n} * s.cols, s.n);
    const OnDevice<std::byte> w{std::span<const std::byte>(weights)};
    const DeviceIntegers x(values, s.n, s.cols);
    const OnDevice<float> y(std::size_t{s.n} * s.rows);
    cuda::Product product{matrix(w, GetParam(), s.rows, s.cols), nullptr, 0, y.data(), s.rows};
    product.integers = x.at;
    ASSERT_TRUE(cuda::wide_supports(product));
    cuda::Launcher launcher;
    cuda::run_wide_products(launcher, {&product, 1}, s.n, grid_.data());
    ASSERT_EQ(launcher.error, cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const auto found = y.read(std::size_t{s.n} * s.rows);
    EXPECT_EQ(found, products_of(GetParam(), weights, s.rows, integers_of(values, s.n, s.cols)));
    expect_close(GetParam(), weights, s.rows, values, s.cols, found);
  }
}

TEST_P(WideProducts, SeveralShareALaunchWithHalvesAndPartsOfRows) {
  constexpr std::uint32_t kN = 150, kCols = 512, kStride = 1024;
  const auto values = random_values(std::size_t{kN} * kStride, 3);
  const DeviceIntegers x(values, kN, kStride);
  const std::uint32_t rows[] = {130, 16, 257};
  std::vector<std::vector<std::byte>> weights;
  std::vector<OnDevice<std::byte>> on_device;
  std::vector<cuda::Product> products;
  const OnDevice<std::uint16_t> y(std::size_t{kN} * 403);
  std::uint32_t first = 0;
  for (const std::uint32_t r : rows) {
    weights.push_back(random_weights(GetParam(), r, kCols, r));
    on_device.emplace_back(std::span<const std::byte>(weights.back()));
    cuda::Product product{
        matrix(on_device.back(), GetParam(), r, kCols), nullptr, 0, y.data() + first, 403, true};
    product.integers = x.at.from_column(512);
    products.push_back(product);
    first += r;
  }
  cuda::Launcher launcher;
  cuda::run_wide_products(launcher, products, kN, grid_.data());
  ASSERT_EQ(launcher.error, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<float> part;
  for (std::uint32_t n = 0; n < kN; ++n)
    part.insert(part.end(), values.begin() + n * kStride + 512, values.begin() + (n + 1) * kStride);
  const auto found = y.read(std::size_t{kN} * 403);
  first = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const auto wanted = products_of(GetParam(), weights[i], rows[i], integers_of(part, kN, kCols));
    for (std::uint32_t n = 0; n < kN; ++n)
      for (std::uint32_t r = 0; r < rows[i]; ++r)
        ASSERT_EQ(found[std::size_t{n} * 403 + first + r],
                  quant::float_to_half(wanted[std::size_t{n} * rows[i] + r]))
            << "product " << i << " row " << r << " of " << n;
    first += rows[i];
  }
}

/// A row's result does not depend on how many others there are.
TEST_P(WideProducts, AreThoseOfFewRows) {
  constexpr std::uint32_t kRows = 129, kN = 77, kCols = 1024;
  const auto weights = random_weights(GetParam(), kRows, kCols, 5);
  const auto values = random_values(std::size_t{kN} * kCols, 6);
  const auto half = halves(values);
  const OnDevice<std::uint16_t> x_halves{std::span<const std::uint16_t>(half)};
  const OnDevice<std::byte> w{std::span<const std::byte>(weights)};
  const DeviceIntegers x(values, kN, kCols);
  const OnDevice<float> few(std::size_t{kN} * kRows), many(std::size_t{kN} * kRows);
  cuda::Product product{matrix(w, GetParam(), kRows, kCols), as_halves(x_halves), kCols,
                        many.data(), kRows};
  product.integers = x.at;
  cuda::Launcher launcher;
  ASSERT_TRUE(cuda::wide_supports(product));
  cuda::run_wide_products(launcher, {&product, 1}, kN, grid_.data());
  for (std::uint32_t first = 0, n = 0; first < kN; first += n) {
    n = std::min(kN - first, 1 + first % 40);
    const auto skip = [&](auto* rows, std::uint32_t width) {
      return rows + std::size_t{first} * width;
    };
    cuda::Product part = product;
    part.x = skip(as_halves(x_halves), kCols), part.y = skip(few.data(), kRows);
    cuda::QuantisedRows& at = part.integers;
    at.hi = skip(at.hi, kCols), at.lo = skip(at.lo, kCols), at.scale = skip(at.scale, kCols / 32);
    at.sum_hi = skip(at.sum_hi, kCols / 16), at.sum_lo = skip(at.sum_lo, kCols / 16);
    at.sum_scale = skip(at.sum_scale, kCols / 256);
    cuda::run_products(launcher, {&part, 1}, n, grid_.data());
  }
  ASSERT_EQ(launcher.error, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(many.read(std::size_t{kN} * kRows), few.read(std::size_t{kN} * kRows));
}

/// Gate and up, then down, of 300 rows with 3 of 7 experts each, unevenly chosen.
TEST_P(WideProducts, ExpertsHaveTheHostsBits) {
  constexpr std::uint32_t kRows = 300, kUsed = 3, kExperts = 7, kE = 512, kFfn = 768;
  constexpr float kLimit = 2;
  const TensorType shared = TensorType::kQ8_0;
  std::mt19937 random(4);
  std::vector<std::vector<std::uint32_t>> of_expert(kExperts);
  for (std::uint32_t row = 0; row < kRows; ++row) {  // expert 5 is never chosen
    const std::uint32_t second = 1 + random() % 2, third = 3 + random() % 2 * 3;
    for (const std::uint32_t e : {0u, second, third}) of_expert[e].push_back(row);
  }
  std::vector<std::uint32_t> expert, begin = {0}, entry_row;
  for (std::uint32_t e = 0; e < kExperts; ++e) {
    if (of_expert[e].empty()) continue;
    expert.push_back(e);
    entry_row.insert(entry_row.end(), of_expert[e].begin(), of_expert[e].end());
    begin.push_back(static_cast<std::uint32_t>(entry_row.size()));
  }
  const std::uint32_t count[] = {static_cast<std::uint32_t>(expert.size())};
  using Numbers = OnDevice<std::uint32_t>;
  const Numbers count_d{std::span<const std::uint32_t>(count)},
      expert_d{std::span<const std::uint32_t>(expert)},
      begin_d{std::span<const std::uint32_t>(begin)},
      entry_d{std::span<const std::uint32_t>(entry_row)};

  const std::uint32_t entries = kRows * kUsed, all = entries + kRows;
  const auto gate = random_weights(GetParam(), kExperts * kFfn, kE, 1);
  const auto up = random_weights(GetParam(), kExperts * kFfn, kE, 2);
  const auto down = random_weights(GetParam(), kExperts * kE, kFfn, 3);
  const auto shared_gate = random_weights(shared, kFfn, kE, 4);
  const auto shared_up = random_weights(shared, kFfn, kE, 5);
  const auto shared_down = random_weights(shared, kE, kFfn, 6);
  const auto values = random_values(std::size_t{kRows} * kE, 7);
  using Bytes = OnDevice<std::byte>;
  using Span = std::span<const std::byte>;
  const Bytes gate_d{Span(gate)}, up_d{Span(up)}, down_d{Span(down)}, sg_d{Span(shared_gate)},
      su_d{Span(shared_up)}, sd_d{Span(shared_down)};
  const DeviceIntegers x(values, kRows, kE);
  const OnDevice<std::uint16_t> hidden(std::size_t{all} * kFfn);
  const OnDevice<float> out(std::size_t{all} * kE);
  const Bytes hidden_memory(cuda::QuantisedRows::bytes(all, kFfn));

  cuda::ExpertProducts e;
  const auto stack = [](const Bytes& w, TensorType type, std::uint32_t rows, std::uint32_t cols) {
    return cuda::ExpertStack{matrix(w, type, rows, cols), rows * quant::row_bytes(type, cols)};
  };
  e.gate = stack(gate_d, GetParam(), kFfn, kE);
  e.up = stack(up_d, GetParam(), kFfn, kE);
  e.down = stack(down_d, GetParam(), kE, kFfn);
  e.shared_gate = matrix(sg_d, shared, kFfn, kE);
  e.shared_up = matrix(su_d, shared, kFfn, kE);
  e.shared_down = matrix(sd_d, shared, kE, kFfn);
  e.groups.count = count_d.data(), e.groups.expert = expert_d.data();
  e.groups.begin = begin_d.data(), e.groups.entry_row = entry_d.data();
  e.rows = kRows, e.used = kUsed, e.n_expert = kExperts, e.limit = kLimit;
  e.x_integers = x.at;
  e.hidden = reinterpret_cast<__half*>(hidden.data());
  e.hidden_integers = cuda::QuantisedRows::place(hidden_memory.data(), all, kFfn);
  e.down_out = out.data();
  ASSERT_TRUE(cuda::wide_supports(e));
  cuda::Launcher launcher;
  cuda::run_wide_gate_up(launcher, e, grid_.data());
  cuda::quantise_rows(launcher, e.hidden, kFfn, all, kFfn, e.hidden_integers);
  cuda::run_wide_down(launcher, e, grid_.data());
  ASSERT_EQ(launcher.error, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  std::vector<float> found_hidden;
  for (const std::uint16_t h : hidden.read(std::size_t{all} * kFfn))
    found_hidden.push_back(quant::half_to_float(h));
  const auto found = out.read(std::size_t{all} * kE);
  const auto check = [&](std::uint32_t first, std::span<const std::uint32_t> rows, TensorType type,
                         Span g, Span u, Span d) {
    const auto n = static_cast<std::uint32_t>(rows.size());
    std::vector<float> in;
    for (const std::uint32_t row : rows)
      in.insert(in.end(), values.begin() + row * kE, values.begin() + (row + 1) * kE);
    const HostIntegers integers = integers_of(in, n, kE);
    const auto a = products_of(type, g, kFfn, integers), b = products_of(type, u, kFfn, integers);
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double gate_value = std::min(double{a[i]}, double{kLimit});
      const double wanted = gate_value / (1 + std::exp(-gate_value)) *
                            std::clamp(double{b[i]}, -double{kLimit}, double{kLimit});
      // A half, rounded once more behind a float exponential.
      ASSERT_NEAR(found_hidden[std::size_t{first} * kFfn + i], wanted,
                  std::fabs(wanted) * 0x1.01p-11 + 0x1p-24)
          << "entry " << first << " at " << i;
    }
    const auto hidden_rows =
        std::span(found_hidden).subspan(std::size_t{first} * kFfn, std::size_t{n} * kFfn);
    const auto wanted = products_of(type, d, kE, integers_of(hidden_rows, n, kFfn));
    ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), found.begin() + first * kE))
        << "entry " << first;
  };
  const auto part = [](Span all_experts, std::uint32_t which) {
    const std::size_t bytes = all_experts.size() / kExperts;
    return all_experts.subspan(which * bytes, bytes);
  };
  for (std::size_t i = 0; i < expert.size(); ++i)
    check(begin[i], of_expert[expert[i]], GetParam(), part(gate, expert[i]), part(up, expert[i]),
          part(down, expert[i]));
  std::vector<std::uint32_t> every(kRows);
  std::iota(every.begin(), every.end(), 0u);
  check(entries, every, shared, shared_gate, shared_up, shared_down);
}

constexpr auto kNameOfType = [](const auto& type) {
  return std::string(traits_of(type.param)->name);
};
INSTANTIATE_TEST_SUITE_P(Integers, WideProducts,
                         testing::Values(TensorType::kQ8_0, TensorType::kQ4_K, TensorType::kQ2_K,
                                         TensorType::kIQ2_XXS),
                         kNameOfType);

/// Halves: no bits of the host's, because it does not add up as a matrix instruction does.
class WideHalves : public WideProducts {};

TEST_F(WideHalves, AreTheProducts) {
  constexpr std::uint32_t kRows = 150, kN = 131, kCols = 1088;
  const auto values = random_values(std::size_t{kN} * kCols, 8);
  auto weight_values = random_values(std::size_t{kRows} * kCols, 9);
  const auto half = halves(values), weight_halves = halves(weight_values);
  const OnDevice<std::uint16_t> x{std::span<const std::uint16_t>(half)},
      w{std::span<const std::uint16_t>(weight_halves)};
  const OnDevice<float> many(std::size_t{kN} * kRows), few(std::size_t{kN} * kRows);
  cuda::Product product{{reinterpret_cast<const std::byte*>(w.data()), 2 * kCols, kRows, kCols,
                         static_cast<std::uint32_t>(TensorType::kF16)},
                        as_halves(x),
                        kCols,
                        many.data(),
                        kRows};
  ASSERT_TRUE(cuda::wide_supports(product));
  cuda::Launcher launcher;
  cuda::run_wide_products(launcher, {&product, 1}, kN, grid_.data());
  for (std::uint32_t first = 0, n = 0; first < kN; first += n) {
    n = std::min(kN - first, 1 + first % 40);
    cuda::Product part = product;
    part.x = as_halves(x) + std::size_t{first} * kCols;
    part.y = few.data() + std::size_t{first} * kRows;
    cuda::run_products(launcher, {&part, 1}, n, grid_.data());
  }
  ASSERT_EQ(launcher.error, cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const auto found = many.read(std::size_t{kN} * kRows);
  EXPECT_EQ(found, few.read(std::size_t{kN} * kRows));
  double difference = 0, size = 0;
  for (std::uint32_t n = 0; n < kN; ++n)
    for (std::uint32_t r = 0; r < kRows; ++r) {
      double exact = 0;
      for (std::uint32_t i = 0; i < kCols; ++i)
        exact += double{values[n * kCols + i]} * weight_values[r * kCols + i];
      const double d = found[n * kRows + r] - exact;
      difference += d * d, size += exact * exact;
    }
  EXPECT_LE(std::sqrt(difference / size), 1e-6);  // 1,088 additions of floats
}

}  // namespace
}  // namespace ds4::test
