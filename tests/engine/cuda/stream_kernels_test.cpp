// Hyper-connections and routing on the GPU, on random inputs, against the CPU's exact path and the
// words of the paper.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>

#include "engine/cpu/ops.h"
#include "engine/model/hyper_connection.h"
#include "engine/model/weights.h"
#include "tests/engine/cuda/kernel_fixture.h"

namespace ds4::test {
namespace {

constexpr float kEps = 1e-6f;
constexpr std::uint32_t kRows = 37;

class StreamKernels : public KernelTest, public testing::WithParamInterface<std::uint32_t> {
 protected:
  StreamKernels() {
    sizes_.n_embd = GetParam();
    sizes_.n_expert = 16;
    sizes_.n_expert_used = 4;
    sizes_.sinkhorn_iterations = 20;
    sizes_.hc_eps = kEps, sizes_.rms_eps = kEps, sizes_.expert_weights_scale = 1.5f;
  }

  /// Weights of a hyper-connection of so many outputs, in both places.
  struct Weights {
    std::vector<__half> fn;
    HyperConnectionWeights host;
    OnDevice<__half> fn_on_device;
    OnDevice<float> base, scale;

    Weights(StreamKernels& test, std::uint32_t outputs, std::uint32_t width)
        : fn(test.halves(std::size_t{outputs} * width, 1 / std::sqrt(static_cast<float>(width)))),
          host{{}, test.normal(outputs, 0.5f), test.normal(3, 0.3f, 1)},
          fn_on_device(fn),
          base(host.base),
          scale(host.scale) {}
    cuda::HyperConnection on_device() const { return {fn_on_device, true, base, scale}; }
    /// fn of a row's streams, and the factor of its norm.
    std::vector<float> outputs(const float* streams, std::size_t width, float& norm) const {
      double square = 0;
      for (std::size_t i = 0; i < width; ++i) square += double{streams[i]} * streams[i];
      norm = static_cast<float>(1 / std::sqrt(square / static_cast<double>(width) + kEps));
      std::vector<float> m;
      for (std::size_t at = 0; at < fn.size(); at += width) {
        double sum = 0;
        for (std::size_t i = 0; i < width; ++i)
          sum += double{streams[i]} * static_cast<double>(static_cast<float>(fn[at + i]));
        m.push_back(static_cast<float>(sum));
      }
      return m;
    }
  };

  std::vector<float> gathered(const float* streams, const float* weights, const float* norm) const {
    const cpu::Ops& ops = cpu::ops_for(cpu::Isa::kScalar);
    std::vector<float> x(sizes_.n_embd);
    ops.gather_streams(streams, weights, sizes_.n_embd, x.data());
    ops.rms_norm(x.data(), norm, sizes_.n_embd, kEps, x.data());
    return x;
  }

  cuda::Sizes sizes_{};
};

/// Before a block, through the Sinkhorn rounds, and behind it.
TEST_P(StreamKernels, MixAsTheExactPathDoes) {
  const std::size_t e = sizes_.n_embd, width = 4 * e;
  const Weights hc(*this, kMixOutputs, static_cast<std::uint32_t>(width));
  const std::vector<float> streams = normal(kRows * width), y = normal(kRows * e, 2),
                           norm = normal(e, 0.2f, 1), router = normal(kRows * sizes_.n_expert);
  const OnDevice<float> d_streams(streams), d_y(y), d_norm(norm), d_router(router);
  const OnDevice<float> mix(kRows * cuda::kMixKept), logits(kRows * cuda::kMixOutputs);
  const OnDevice<__half> x(kRows * e);
  cuda::enter_block(launcher_, sizes_, hc.on_device(), d_norm, {}, kRows, d_streams, mix, logits,
                    {x, integers(kRows, sizes_.n_embd)});
  const OnDevice<std::uint32_t> count(1), expert(16), begin(17), entry_row(kRows * 4),
      row_entry(kRows * 4), row_expert(kRows * 4);
  const OnDevice<float> row_weight(kRows * 4);
  const OnDevice<cuda::RowEntry> rows(kRows);
  cuda::route(launcher_, sizes_, d_router, nullptr, nullptr, rows, kRows, row_expert,
              {count, expert, begin, entry_row, row_entry, row_weight}, {logits, mix});
  cuda::Pending pending;
  pending.y = d_y;
  cuda::leave_last_block(launcher_, sizes_, pending, kRows, d_streams, mix);
  finish();

  std::vector<float> wanted_x, wanted_mix, wanted_streams = streams;
  for (std::size_t row = 0; row < kRows; ++row) {
    float factor = 0;
    const auto m = hc.outputs(streams.data() + row * width, width, factor);
    const StreamMix one = mix_streams(hc.host, m.data(), factor, kEps, sizes_.sinkhorn_iterations);
    const auto gather = gathered(streams.data() + row * width, one.pre.data(), norm.data());
    wanted_x.insert(wanted_x.end(), gather.begin(), gather.end());
    wanted_mix.insert(wanted_mix.end(), one.post.begin(), one.post.end());
    wanted_mix.insert(wanted_mix.end(), one.cross.begin(), one.cross.end());
    cpu::ops_for(cpu::Isa::kScalar)
        .spread_streams(wanted_streams.data() + row * width, one.post.data(), one.cross.data(),
                        y.data() + row * e, e);
  }
  EXPECT_LE(relative_error(x.read(), wanted_x), kHalfError);
  // Forty reciprocals that are a last bit off.
  EXPECT_LE(relative_error(mix.read(), wanted_mix), 2e-5);
  EXPECT_LE(relative_error(d_streams.read(), wanted_streams), 2e-5);
}

TEST_P(StreamKernels, TheHeadReadsTheWantedRows) {
  const std::size_t e = sizes_.n_embd, width = 4 * e;
  const Weights hc(*this, kStreams, static_cast<std::uint32_t>(width));
  const std::vector<float> streams = normal(kRows * width), norm = normal(e, 0.2f, 1);
  const std::vector<std::uint32_t> wanted = {2, 3, 5, 36};
  const OnDevice<float> d_streams(streams), d_norm(norm);
  const OnDevice<std::uint32_t> d_wanted(wanted);
  const OnDevice<__half> x(wanted.size() * e);
  cuda::enter_head(launcher_, sizes_, hc.on_device(), d_norm, d_wanted,
                   static_cast<std::uint32_t>(wanted.size()), d_streams,
                   {x, integers(wanted.size(), sizes_.n_embd)});
  finish();
  std::vector<float> expected;
  for (const std::uint32_t row : wanted) {
    float factor = 0;
    const auto m = hc.outputs(streams.data() + row * width, width, factor);
    const auto weights = mix_for_head(hc.host, m.data(), factor, kEps);
    const auto one = gathered(streams.data() + row * width, weights.data(), norm.data());
    expected.insert(expected.end(), one.begin(), one.end());
  }
  EXPECT_LE(relative_error(x.read(), expected), kHalfError);
}

/// What enter_block() makes of so many rows, together or in smaller calls.
class EnteredRows {
 public:
  static constexpr std::uint32_t kUsed = 6;
  struct Out {
    std::vector<float> streams, logits;
    std::vector<__half> halves;
    std::vector<std::byte> integers;
  };

  EnteredRows(KernelTest& test, std::uint32_t rows, std::uint32_t width)
      : rows_(rows),
        width_(width),
        streams_(test.normal(std::size_t{rows} * 4 * width)),
        mix_(test.normal(std::size_t{rows} * cuda::kMixKept, 0.4f)),
        y_(test.normal(std::size_t{rows} * width)),
        down_(test.normal(std::size_t{rows} * (kUsed + 1) * width, 0.5f)),
        weight_(test.normal(std::size_t{rows} * kUsed)),
        entry_(rows * kUsed) {
    std::iota(entry_.begin(), entry_.end(), 0u);
    std::shuffle(entry_.begin(), entry_.end(), test.engine());
  }

  enum class Left { kNothing, kY, kDown };
  /// In calls of `at_once` rows, which all write into one place.
  template <typename Enter>
  Out enter(Left left, std::uint32_t at_once, const Enter& enter) const {
    const OnDevice<float> streams(streams_), mix(mix_), y(y_), weight(weight_);
    const OnDevice<float> logits(std::size_t{rows_} * cuda::kMixOutputs);
    const OnDevice<__half> halves(std::size_t{rows_} * width_);
    const OnDevice<std::byte> memory(cuda::QuantisedRows::bytes(rows_, width_));
    for (std::uint32_t first = 0; first < rows_; first += at_once) {
      const std::uint32_t n = std::min(at_once, rows_ - first);
      const OnDevice<float> down(down_of(first, n));
      const OnDevice<std::uint32_t> entry(entries_of(n));
      cuda::Pending pending;
      if (left == Left::kY) pending.y = y + std::size_t{first} * width_;
      if (left == Left::kDown) {
        pending.down = down, pending.row_entry = entry;
        pending.row_weight = weight + std::size_t{first} * kUsed;
      }
      enter(pending, n, streams + std::size_t{first} * 4 * width_,
            mix + std::size_t{first} * cuda::kMixKept,
            logits + std::size_t{first} * cuda::kMixOutputs,
            cuda::BlockInput{halves + std::size_t{first} * width_,
                             from_row(cuda::QuantisedRows::place(memory, rows_, width_), first)});
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    return {streams.read(), logits.read(), halves.read(), memory.read()};
  }

 private:
  static cuda::QuantisedRows from_row(cuda::QuantisedRows x, std::size_t row) {
    x.hi += row * x.stride, x.lo += row * x.stride;
    x.scale += row * x.stride / cuda::kQuantColumns;
    x.sum_hi += row * x.stride / cuda::kSumColumns, x.sum_lo += row * x.stride / cuda::kSumColumns;
    x.sum_scale += row * x.stride / cuda::kSumBlockColumns;
    return x;
  }
  /// Entries of a call of rows [first, first + n) in the order of its rows, then the shared
  /// expert's.
  std::vector<float> down_of(std::uint32_t first, std::uint32_t n) const {
    std::vector<float> down(std::size_t{n} * (kUsed + 1) * width_);
    const std::vector<std::uint32_t> places = entries_of(n);
    const auto copy = [&](std::size_t from, std::size_t to) {
      std::copy_n(down_.begin() + static_cast<std::ptrdiff_t>(from * width_), width_,
                  down.begin() + static_cast<std::ptrdiff_t>(to * width_));
    };
    for (std::uint32_t i = 0; i < n * kUsed; ++i) copy(std::size_t{first} * kUsed + i, places[i]);
    for (std::uint32_t row = 0; row < n; ++row)
      copy(std::size_t{rows_} * kUsed + first + row, std::size_t{n} * kUsed + row);
    return down;
  }
  /// A permutation of the call's entries.
  std::vector<std::uint32_t> entries_of(std::uint32_t n) const {
    std::vector<std::uint32_t> places;
    std::copy_if(entry_.begin(), entry_.end(), std::back_inserter(places),
                 [&](std::uint32_t entry) { return entry < n * kUsed; });
    return places;
  }

  std::uint32_t rows_, width_;
  std::vector<float> streams_, mix_, y_, down_, weight_;
  std::vector<std::uint32_t> entry_;
};

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

TEST_P(StreamKernels, ManyRowsAreEachAsInSmallerCalls) {
  const std::uint32_t e = sizes_.n_embd;
  sizes_.n_expert_used = EnteredRows::kUsed;
  const Weights hc(*this, kMixOutputs, 4 * e);
  const OnDevice<float> norm(normal(e, 0.2f, 1));
  for (const std::uint32_t rows : {7u, 64u, 65u, 128u, 131u, 200u}) {
    const EnteredRows entered(*this, rows, e);
    for (const auto left :
         {EnteredRows::Left::kNothing, EnteredRows::Left::kY, EnteredRows::Left::kDown}) {
      const auto enter = [&](const cuda::Pending& pending, std::uint32_t n, float* streams,
                             const float* mix, float* logits, const cuda::BlockInput& x) {
        cuda::enter_block(launcher_, sizes_, hc.on_device(), norm, pending, n, streams, mix, logits,
                          x);
      };
      const auto together = entered.enter(left, rows, enter);
      const auto apart = entered.enter(left, rows < 10 ? 1 : 13, enter);
      finish();
      SCOPED_TRACE(testing::Message() << rows << " rows, pending " << static_cast<int>(left));
      EXPECT_TRUE(same_bits(together.streams, apart.streams));
      EXPECT_TRUE(same_bits(together.logits, apart.logits));
      EXPECT_TRUE(same_bits(together.halves, apart.halves));
      EXPECT_TRUE(same_bits(together.integers, apart.integers));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, StreamKernels, testing::Values(256, 4096));

class Routing : public KernelTest, public testing::WithParamInterface<std::uint32_t> {
 protected:
  static constexpr std::uint32_t kUsed = 6, kTokens = 50;

  void SetUp() override {
    sizes_.n_expert = experts_, sizes_.n_expert_used = kUsed, sizes_.expert_weights_scale = 1.5f;
    for (std::uint32_t row = 0; row < n_; ++row)
      rows_.push_back({row, static_cast<std::int32_t>(row * 7 % kTokens), 0, 0});
  }
  void run(const float* bias, const std::int32_t* token_experts) {
    const OnDevice<float> logits(logits_);
    const OnDevice<cuda::RowEntry> rows(rows_);
    const OnDevice<std::uint32_t> count(1), expert(experts_), begin(experts_ + 1),
        entry_row(n_ * kUsed), row_entry(n_ * kUsed), row_expert(n_ * kUsed);
    const OnDevice<float> row_weight(n_ * kUsed);
    const OnDevice<float> mix_logits(n_ * cuda::kMixOutputs), mix(n_ * cuda::kMixKept);
    cuda::route(launcher_, sizes_, logits, bias, token_experts, rows, n_, row_expert,
                {count, expert, begin, entry_row, row_entry, row_weight}, {mix_logits, mix});
    finish();
    row_expert_ = row_expert.read(), row_weight_ = row_weight.read();
    expect_groups(count.read()[0], expert.read(), begin.read(), entry_row.read(), row_entry.read());
  }
  /// Every (row, expert) pair has an entry, among those of its expert.
  void expect_groups(std::uint32_t count, const std::vector<std::uint32_t>& expert,
                     const std::vector<std::uint32_t>& begin,
                     const std::vector<std::uint32_t>& entry_row,
                     const std::vector<std::uint32_t>& row_entry) const {
    ASSERT_LE(count, experts_);
    ASSERT_EQ(begin[0], 0);
    ASSERT_EQ(begin[count], n_ * kUsed);
    std::vector<std::uint32_t> expert_of_entry(n_ * kUsed), seen(n_ * kUsed);
    for (std::uint32_t g = 0; g < count; ++g) {
      ASSERT_LT(begin[g], begin[g + 1]);
      for (std::uint32_t i = begin[g]; i < begin[g + 1]; ++i) expert_of_entry[i] = expert[g];
    }
    for (std::uint32_t i = 0; i < n_ * kUsed; ++i) {
      ASSERT_LT(row_entry[i], n_ * kUsed);
      EXPECT_EQ(entry_row[row_entry[i]], i / kUsed);
      EXPECT_EQ(expert_of_entry[row_entry[i]], row_expert_[i]);
      EXPECT_EQ(++seen[row_entry[i]], 1);
    }
  }
  double p(std::uint32_t row, std::uint32_t expert) const {
    return std::sqrt(std::log1p(std::exp(double{logits_[row * experts_ + expert]})));
  }
  /// The chosen experts' weights, given which were chosen.
  void expect_weights() const {
    std::vector<double> wanted;
    for (std::uint32_t row = 0; row < n_; ++row) {
      double sum = 0;
      for (std::uint32_t i = 0; i < kUsed; ++i) sum += p(row, row_expert_[row * kUsed + i]);
      for (std::uint32_t i = 0; i < kUsed; ++i)
        wanted.push_back(p(row, row_expert_[row * kUsed + i]) / sum * 1.5);
    }
    EXPECT_LE(relative_error(row_weight_, wanted), kFloatError);
  }

  const std::uint32_t n_ = GetParam();
  const std::uint32_t experts_ = 256;
  const std::vector<float> logits_ = normal(n_ * experts_, 3);
  cuda::Sizes sizes_{};
  std::vector<cuda::RowEntry> rows_;
  std::vector<std::uint32_t> row_expert_;
  std::vector<float> row_weight_;
};

TEST_P(Routing, TakesTheBestByBiasAndWeighsWithoutIt) {
  const std::vector<float> bias = normal(experts_, 0.3f);
  const OnDevice<float> d_bias(bias);
  run(d_bias, nullptr);
  expect_weights();
  for (std::uint32_t row = 0; row < n_; ++row) {
    std::vector<double> score(experts_);
    for (std::uint32_t e = 0; e < experts_; ++e) score[e] = p(row, e) + double{bias[e]};
    std::vector<double> sorted = score;
    std::sort(sorted.rbegin(), sorted.rend());
    // Floats may take either of two that differ in the seventh digit.
    for (std::uint32_t i = 0; i < kUsed; ++i)
      EXPECT_NEAR(score[row_expert_[row * kUsed + i]], sorted[i], 1e-6) << row << ' ' << i;
  }
}

TEST_P(Routing, HashLayersTakeTheTokensExperts) {
  std::vector<std::int32_t> table(kTokens * kUsed);
  for (std::uint32_t i = 0; i < table.size(); ++i)
    table[i] = static_cast<std::int32_t>((i / kUsed * 31 + i % kUsed * 41) % experts_);
  const OnDevice<std::int32_t> d_table(table);
  run(nullptr, d_table);
  expect_weights();
  for (std::uint32_t i = 0; i < n_ * kUsed; ++i)
    EXPECT_EQ(row_expert_[i],
              table[static_cast<std::size_t>(rows_[i / kUsed].token) * kUsed + i % kUsed]);
}

INSTANTIATE_TEST_SUITE_P(Rows, Routing, testing::Values(1, 16, 32, 33, 700));

}  // namespace
}  // namespace ds4::test
