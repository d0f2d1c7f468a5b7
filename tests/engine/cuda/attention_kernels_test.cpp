// The kernels of attention, on random inputs, against the CPU's exact path and the words of the
// paper in double precision.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/cpu/ops.h"
#include "engine/cuda/device_sessions.h"
#include "engine/model/compressor.h"
#include "engine/model/rope.h"
#include "tests/engine/cuda/kernel_fixture.h"

namespace ds4::test {
namespace {

struct Shape {
  std::uint32_t ratio, head_dim, heads;

  friend void PrintTo(const Shape& shape, std::ostream* out) {
    *out << "ratio " << shape.ratio << ", " << shape.heads << " heads of " << shape.head_dim;
  }
};

double value(__half x) {
  return static_cast<double>(__half2float(x));
}
double value(float x) {
  return static_cast<double>(x);
}

/// One layer, one session, one call of kRows tokens from `first` on.
class AttentionKernels : public KernelTest, public testing::WithParamInterface<Shape> {
 protected:
  static constexpr std::uint32_t kRows = 300, kContext = 2048, kRank = 128, kIndexHeads = 8;

  AttentionKernels() {
    sizes_.n_head = hp_.n_head, sizes_.head_dim = hp_.head_dim, sizes_.rope_dim = hp_.rope_dim;
    sizes_.q_rank = kRank, sizes_.window = hp_.window;
    sizes_.index_heads = kIndexHeads, sizes_.index_dim = hp_.index_dim, sizes_.top_k = 64;
    sizes_.rms_eps = 1e-6f;
    plan_ = cuda::DeviceCachePlan::make(hp_, {0, 0, false}, kContext);
  }

  static HyperParams hyper_params(const Shape& shape) {
    HyperParams hp;
    hp.n_layer = 1;
    hp.n_head = shape.heads;
    hp.head_dim = shape.head_dim;
    hp.rope_dim = 64;
    hp.window = 128;
    hp.index_dim = 128;
    hp.compress_ratio = {shape.ratio};
    hp.rope_base = 1e4f, hp.compress_rope_base = 1.6e5f;
    hp.yarn_factor = 16, hp.yarn_original_context = 65536;
    return hp;
  }
  /// Tables of the call. The cache holds random halves from -1 to 1 where rows are.
  void begin_call(std::uint32_t first) {
    first_ = first;
    std::vector<std::byte> bytes(plan_.bytes);
    auto* values = reinterpret_cast<__half*>(bytes.data());
    std::uniform_real_distribution<float> any(-1, 1);
    for (std::size_t i = 0; i < bytes.size() / 2; ++i) values[i] = __float2half_rn(any(engine_));
    std::memcpy(bytes.data(), plan_.layers.data(), sizeof(cuda::CacheLayer));
    cache_ = std::make_unique<OnDevice<std::byte>>(bytes);
    std::vector<cuda::RowEntry> rows;
    std::vector<float> angles;
    for (std::uint32_t i = 0; i < kRows; ++i) {
      rows.push_back({first + i, 0, 0, i + 1 == kRows});
      for (const auto& [rope, position] : {std::pair(&plain_, first + i),
                                           {&compressed_, first + i},
                                           {&compressed_, (first + i) / 4 * 4},
                                           {&compressed_, (first + i) / 128 * 128}}) {
        angles.resize(angles.size() + hp_.rope_dim);
        rope->fill(position, angles.data() + angles.size() - hp_.rope_dim);
      }
    }
    rows_ = std::make_unique<OnDevice<cuda::RowEntry>>(rows);
    angles_ = std::make_unique<OnDevice<float>>(angles);
    segments_ = std::make_unique<OnDevice<cuda::SegmentEntry>>(
        std::vector<cuda::SegmentEntry>{{cache_->data(), 0, first, kRows, 0}});
  }
  const Rope& rope() const { return ratio_ == 0 ? plain_ : compressed_; }
  /// `count` rows of `dim` halves of the cache, from `offset` on.
  std::vector<__half> cached(std::uint64_t offset, std::size_t count, std::size_t dim) const {
    const auto bytes = cache_->read();
    std::vector<__half> rows(count * dim);
    std::memcpy(rows.data(), bytes.data() + offset, rows.size() * sizeof(__half));
    return rows;
  }
  const cuda::CacheLayer& layer() const { return plan_.layers[0]; }

  const std::uint32_t ratio_ = GetParam().ratio;
  const cpu::Ops& ops_ = cpu::ops_for(cpu::Isa::kScalar);
  const HyperParams hp_ = hyper_params(GetParam());
  const Rope plain_{hp_, false}, compressed_{hp_, true};
  cuda::Sizes sizes_{};
  cuda::DeviceCachePlan plan_;
  std::uint32_t first_ = 0;
  std::unique_ptr<OnDevice<std::byte>> cache_;
  std::unique_ptr<OnDevice<cuda::RowEntry>> rows_;
  std::unique_ptr<OnDevice<cuda::SegmentEntry>> segments_;
  std::unique_ptr<OnDevice<float>> angles_;
};

TEST_P(AttentionKernels, AnglesAreExactAtAnyPosition) {
  const std::vector<std::uint32_t> positions = {0, 1, 127, 128, 4099, 65535, 1048575};
  std::vector<cuda::RowEntry> rows;
  for (const std::uint32_t position : positions) rows.push_back({position, 0, 0, 0});
  std::vector<double> frequencies(plain_.frequencies().begin(), plain_.frequencies().end());
  frequencies.insert(frequencies.end(), compressed_.frequencies().begin(),
                     compressed_.frequencies().end());
  const OnDevice<cuda::RowEntry> d_rows(rows);
  const OnDevice<double> d_frequencies(frequencies);
  const OnDevice<float> angles(rows.size() * 4 * hp_.rope_dim);
  cuda::fill_angles(launcher_, sizes_, d_rows, static_cast<std::uint32_t>(rows.size()),
                    d_frequencies, angles);
  finish();
  std::vector<float> wanted(rows.size() * 4 * hp_.rope_dim);
  float* at = wanted.data();
  for (const std::uint32_t position : positions)
    for (const auto& [rope, of] : {std::pair(&plain_, position),
                                   {&compressed_, position},
                                   {&compressed_, position / 4 * 4},
                                   {&compressed_, position / 128 * 128}}) {
      rope->fill(of, at);
      at += hp_.rope_dim;
    }
  const auto found = angles.read();
  // Both from doubles: a last bit of floats below one.
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1.2e-7f) << i;
}

TEST_P(AttentionKernels, InputIsNormedTurnedAndPooled) {
  const std::uint32_t d = hp_.head_dim;
  begin_call(0);
  struct Pool {
    std::uint32_t dim, width;
    std::vector<float> kv, gate, ape, norm;
    OnDevice<float> d_kv, d_gate, d_ape, d_norm;

    Pool(AttentionKernels& test, std::uint32_t of, std::uint32_t ratio)
        : dim(of),
          width(Compressor::width(of, ratio)),
          kv(test.normal(kRows * width)),
          gate(test.normal(kRows * width, 2)),
          ape(test.normal(std::max(ratio, 1u) * width)),
          norm(test.normal(of, 0.2f, 1)),
          d_kv(kv),
          d_gate(gate),
          d_ape(ape),
          d_norm(norm) {}
    cuda::CompressorArgs args() const { return {d_kv, d_gate, d_ape, d_norm}; }
  };
  const Pool main(*this, d, ratio_), index(*this, hp_.index_dim, ratio_);
  const std::vector<float> qr = normal(kRows * kRank), q_norm = normal(kRank, 0.2f, 1),
                           kv = normal(kRows * d), kv_norm = normal(d, 0.2f, 1);
  const OnDevice<float> d_qr(qr), d_q_norm(q_norm), d_kv(kv), d_kv_norm(kv_norm);
  const OnDevice<__half> qr_out(kRows * kRank), kv_out(kRows * d);
  const OnDevice<float> logits(kRows * cuda::kMixOutputs), mix(kRows * cuda::kMixKept);
  cuda::AttentionInput input;
  input.ratio = ratio_;
  input.qr = d_qr, input.q_norm = d_q_norm, input.qr_out = qr_out;
  input.qr_integers = integers(kRows, kRank);
  input.kv = d_kv, input.kv_norm = d_kv_norm, input.kv_out = kv_out;
  input.main = main.args(), input.index = index.args();
  input.mix = {logits, mix};
  cuda::finish_input(launcher_, sizes_, input, *rows_, *segments_, kRows, *angles_);
  finish();

  std::vector<float> wanted_qr(kRows * kRank), wanted_kv(kRows * d), table(hp_.rope_dim);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    ops_.rms_norm(qr.data() + row * kRank, q_norm.data(), kRank, 1e-6f,
                  wanted_qr.data() + row * kRank);
    float* out = wanted_kv.data() + row * d;
    ops_.rms_norm(kv.data() + row * d, kv_norm.data(), d, 1e-6f, out);
    rope().fill(row, table.data());
    Rope::turn(out, d, table.data(), hp_.rope_dim);
  }
  EXPECT_LE(relative_error(qr_out.read(), wanted_qr), kHalfError);
  EXPECT_LE(relative_error(kv_out.read(), wanted_kv), kHalfError);

  const auto expect_pooled = [&](const Pool& pool, std::uint64_t offset) {
    std::vector<float> state(3 * pool.width), rows(kRows * pool.dim), wanted;
    const cpu::SoftmaxSums sums{state.data(), state.data() + pool.width,
                                state.data() + 2 * pool.width};
    const Compressor compressor{ops_, pool.dim, ratio_};
    compressor.advance(sums, 0, kRows, pool.kv.data(), pool.gate.data(), pool.ape.data(), 0,
                       pool.dim, rows.data());
    for (std::uint32_t position = ratio_ - 1; position < kRows; position += ratio_) {
      float* row = rows.data() + position * pool.dim;
      ops_.rms_norm(row, pool.norm.data(), pool.dim, 1e-6f, row);
      compressed_.fill(position + 1 - ratio_, table.data());
      Rope::turn(row, pool.dim, table.data(), hp_.rope_dim);
      wanted.insert(wanted.end(), row, row + pool.dim);
    }
    EXPECT_LE(relative_error(cached(offset, kRows / ratio_, pool.dim), wanted), kHalfError);
  };
  if (ratio_ != 0) expect_pooled(main, layer().compressed);
  if (ratio_ == 4) expect_pooled(index, layer().index);
}

TEST_P(AttentionKernels, QueriesAreNormedAndTurned) {
  begin_call(1000);
  const std::uint32_t d = hp_.head_dim, heads = hp_.n_head;
  const std::vector<float> q = normal(kRows * heads * d, 3), w = normal(kRows * kIndexHeads),
                           index = normal(kRows * kIndexHeads * hp_.index_dim);
  const OnDevice<float> d_q(q), d_index(index), d_w(w);
  const OnDevice<__half> q_out(q.size());
  cuda::finish_queries(launcher_, sizes_, ratio_, kRows, *angles_, d_q, q_out, d_index, d_w);
  finish();
  std::vector<float> wanted_q = q, wanted_index = index, wanted_w = w, table(hp_.rope_dim);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    rope().fill(first_ + row, table.data());
    for (std::uint32_t h = 0; h < heads; ++h) {
      float* x = wanted_q.data() + (row * heads + h) * d;
      ops_.rms_norm(x, nullptr, d, 1e-6f, x);
      Rope::turn(x, d, table.data(), hp_.rope_dim);
    }
    for (std::uint32_t h = 0; h < kIndexHeads; ++h)
      Rope::turn(wanted_index.data() + (row * kIndexHeads + h) * hp_.index_dim, hp_.index_dim,
                 table.data(), hp_.rope_dim);
  }
  for (float& x : wanted_w) x /= std::sqrt(static_cast<float>(kIndexHeads * hp_.index_dim));
  EXPECT_LE(relative_error(q_out.read(), wanted_q), kHalfError);
  EXPECT_LE(relative_error(d_index.read(), wanted_index), kFloatError);
  EXPECT_LE(relative_error(d_w.read(), wanted_w), kFloatError);
}

TEST_P(AttentionKernels, TheIndexKeepsTheBestRows) {
  if (ratio_ != 4) GTEST_SKIP() << "layers of this ratio have no index";
  begin_call(400);  // from 100 visible rows on
  constexpr std::uint32_t kMostVisible = 256;
  const std::uint32_t dim = hp_.index_dim, top_k = sizes_.top_k;
  // Halves, as the values of FP4 are.
  std::vector<float> q;
  for (const __half x : halves(kRows * kIndexHeads * dim)) q.push_back(__half2float(x));
  const std::vector<float> w = normal(kRows * kIndexHeads);
  const OnDevice<float> d_q(q), d_w(w), scores(kRows * kMostVisible);
  const OnDevice<std::uint32_t> chosen(kRows * top_k);
  cuda::search_index(launcher_, sizes_, 0, ratio_, *rows_, *segments_, 0, kRows, kMostVisible, d_q,
                     d_w, scores, chosen);
  finish();
  const auto found = chosen.read();
  const auto keys = cached(layer().index, (first_ + kRows) / ratio_, dim);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    const std::uint32_t visible = (first_ + row + 1) / ratio_;
    std::vector<double> score(visible);
    for (std::uint32_t b = 0; b < visible; ++b)
      for (std::uint32_t h = 0; h < kIndexHeads; ++h) {
        double product = 0;
        for (std::uint32_t i = 0; i < dim; ++i)
          product += value(q[(row * kIndexHeads + h) * dim + i]) * value(keys[b * dim + i]);
        score[b] += std::max(0.0, product) * value(w[row * kIndexHeads + h]);
      }
    std::vector<double> sorted = score;
    std::nth_element(sorted.begin(), sorted.begin() + top_k - 1, sorted.end(), std::greater<>());
    // Sums of 128 floats of size one: two scores this near may change places.
    const double bar = sorted[top_k - 1] - 1e-4;
    const std::uint32_t* its = found.data() + row * top_k;
    for (std::uint32_t i = 0; i < top_k; ++i) {
      ASSERT_LT(its[i], visible) << row;
      ASSERT_TRUE(i == 0 || its[i - 1] < its[i]) << row;
      EXPECT_GE(score[its[i]], bar) << "row " << row << ", compressed row " << its[i];
    }
  }
}

TEST_P(AttentionKernels, AttendsToRawAndCompressedRowsAndTheSink) {
  begin_call(1100);
  const std::uint32_t d = hp_.head_dim, heads = hp_.n_head, top_k = sizes_.top_k;
  const auto q = halves(kRows * heads * d), kv = halves(kRows * d);
  const std::vector<float> sinks = normal(heads, 2);
  std::vector<std::uint32_t> chosen;
  for (std::uint32_t row = 0; row < kRows; ++row)
    for (std::uint32_t i = 0; i < top_k; ++i) chosen.push_back(row % 3 + 4 * i);
  constexpr std::uint32_t kParts = (128 + 350) / cuda::kKeyPart + 1;
  const OnDevice<__half> d_q(q), d_kv(kv), out(q.size());
  const OnDevice<float> d_sinks(sinks), acc(std::size_t{kRows} * kParts * heads * d),
      max(kRows * kParts * heads), sum(kRows * kParts * heads);
  const OnDevice<std::uint32_t> d_chosen(chosen);
  cuda::Attention attention;
  attention.ratio = ratio_, attention.has_index = ratio_ == 4;
  attention.q = d_q, attention.kv = d_kv, attention.sinks = d_sinks, attention.chosen = d_chosen;
  attention.part_acc = acc, attention.part_max = max, attention.part_sum = sum;
  attention.parts = kParts;
  attention.out = out;
  const auto ring = cached(layer().raw, hp_.window, d);
  cuda::attend(launcher_, sizes_, attention, *rows_, *segments_, 0, kRows, kRows, *angles_);
  finish();

  const auto compressed = cached(layer().compressed, ratio_ == 0 ? 0 : kContext / ratio_, d);
  std::vector<float> wanted(q.size()), table(hp_.rope_dim);
  for (std::uint32_t row = 0; row < kRows; ++row) {
    const std::uint32_t position = first_ + row;
    std::vector<const __half*> keys;
    for (std::uint32_t p = position - 127; p <= position; ++p)
      keys.push_back(p < first_ ? ring.data() + p % hp_.window * d : kv.data() + (p - first_) * d);
    const std::uint32_t visible = ratio_ == 0 ? 0 : (position + 1) / ratio_;
    for (std::uint32_t i = 0; i < (ratio_ == 4 ? top_k : visible); ++i)
      keys.push_back(compressed.data() + (ratio_ == 4 ? chosen[row * top_k + i] : i) * d);
    rope().fill(position, table.data());
    for (std::uint32_t h = 0; h < heads; ++h) {
      const std::size_t at = (row * heads + h) * std::size_t{d};
      std::vector<double> total(d);
      double weights = std::exp(value(sinks[h]));
      for (const __half* key : keys) {
        double product = 0;
        for (std::uint32_t i = 0; i < d; ++i) product += value(q[at + i]) * value(key[i]);
        const double weight = std::exp(product / std::sqrt(static_cast<double>(d)));
        weights += weight;
        for (std::uint32_t i = 0; i < d; ++i) total[i] += weight * value(key[i]);
      }
      for (std::uint32_t i = 0; i < d; ++i) wanted[at + i] = static_cast<float>(total[i] / weights);
      Rope::turn_back(wanted.data() + at, d, table.data(), hp_.rope_dim);
    }
  }
  // Weights are multiplied as halves too, and hundreds of values nearly cancel.
  EXPECT_LE(relative_error(out.read(), wanted), 2 * kHalfError);

  // Later calls find the last raw rows.
  const auto remembered = cached(layer().raw, hp_.window, d);
  for (std::uint32_t row = kRows - hp_.window; row < kRows; ++row)
    EXPECT_EQ(std::memcmp(remembered.data() + (first_ + row) % hp_.window * d, kv.data() + row * d,
                          d * sizeof(__half)),
              0)
        << row;
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionKernels,
                         testing::Values(Shape{0, 128, 4}, Shape{4, 128, 4}, Shape{128, 128, 4},
                                         Shape{4, 512, 8}, Shape{128, 512, 8}));

}  // namespace
}  // namespace ds4::test
