// The forward pass: streams in, layer after layer, streams or logits out.
#include "engine/model/cpu_slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "engine/gguf/model_file.h"
#include "engine/model/batch.h"
#include "engine/model/blocks.h"
#include "engine/model/sampling.h"
#include "engine/model/sessions.h"
#include "engine/model/weights.h"
#include "engine/quant/quant.h"

namespace ds4 {
namespace {

constexpr std::size_t kSampledRows = 16;  // whose logits exist at the same time

/// What the vector kernels rely on beyond what HyperParams::read checks.
Result<void> check_sizes(const HyperParams& hp, Graph graph) {
  for (const std::uint32_t size :
       {hp.n_embd, hp.head_dim, hp.q_rank, hp.index_dim, hp.expert_ffn}) {
    if (size % cpu::kOpsBlock != 0)
      return fail(
          ErrorCode::kUnsupported,
          fmt::format("the CPU engine needs row lengths that are multiples of {}; this model "
                      "has one of {}",
                      cpu::kOpsBlock, size));
  }
  if (hp.n_streams != kStreams)
    return fail(ErrorCode::kUnsupported, fmt::format("the CPU engine runs models of {} residual "
                                                     "streams; this one has {}",
                                                     kStreams, hp.n_streams));
  const bool power_of_two = (hp.index_dim & (hp.index_dim - 1)) == 0;
  const std::uint32_t coded = hp.head_dim - hp.rope_dim;
  if (graph == Graph::kOfficial &&
      (!power_of_two || hp.index_dim % cpu::kFp4Block != 0 || coded % cpu::kOpsBlock != 0))
    return fail(
        ErrorCode::kUnsupported,
        fmt::format("the official graph needs index rows of a power of two from {} on and {} "
                    "to divide what is not turned of a row; this model has {} and {} (graph "
                    "plain runs it)",
                    cpu::kFp4Block, cpu::kOpsBlock, hp.index_dim, coded));
  return {};
}

class CpuSlice final : public Slice {
 public:
  CpuSlice(std::shared_ptr<const ResidentSlice> resident, const HyperParams& hp, Weights weights,
           const CpuSliceOptions& options)
      : resident_(std::move(resident)),
        hp_(hp),
        range_(resident_->range()),
        weights_(std::move(weights)),
        options_(options),
        pool_(options.threads),
        compute_{hp_,   options.graph,    options.precision, options.isa, cpu::ops_for(options.isa),
                 pool_, Rope(hp_, false), Rope(hp_, true)},
        ws_(hp_, options.precision, options.max_rows, pool_.size()),
        batch_(options.max_rows),
        sessions_(hp_, range_, options.graph, compute_.ops, options.kv_budget_bytes) {}

  const HyperParams& params() const override { return hp_; }
  const LayerRange& range() const override { return range_; }
  std::uint32_t max_rows() const override { return options_.max_rows; }

  Result<void> open_session(SessionId session, std::uint32_t context) override {
    return sessions_.open(session, context);
  }
  void close_session(SessionId session) override { sessions_.close(session); }
  Result<void> fork_session(SessionId source, SessionId target) override {
    return sessions_.fork(source, target);
  }
  Result<std::unique_ptr<DetachedSession>> detach_session(SessionId session) override {
    return sessions_.detach(session);
  }
  Result<void> restore_session(SessionId session, std::uint32_t context, std::uint32_t position,
                               const SessionSource& source) override {
    return sessions_.restore(session, context, position, source);
  }
  Result<std::uint32_t> position(SessionId session) const override {
    return sessions_.position(session);
  }
  Result<void> forward(const SliceInput& input, const SliceOutput& output) override;
  std::uint64_t kv_bytes() const override { return sessions_.bytes(); }
  std::uint64_t kv_bytes_for(std::uint32_t context) const override {
    return sessions_.bytes_for(context);
  }

 private:
  // From here on nothing can fail.
  void fill_angles();
  void load_streams(const SliceInput& input);
  void run_layer(std::uint32_t index);
  void enter_block(const HyperConnectionWeights& hc, const std::vector<float>& norm);
  void leave_block();
  void run_head(std::span<const std::uint32_t> wanted, float* logits);
  void sample(std::span<const Segment> segments, std::span<SampledToken> tokens);

  std::shared_ptr<const ResidentSlice> resident_;
  const HyperParams hp_;
  const LayerRange range_;
  const Weights weights_;
  const CpuSliceOptions options_;
  cpu::ThreadPool pool_;
  const Compute compute_;
  Workspace ws_;
  Batch batch_;
  Sessions sessions_;
  // Made when the first token is sampled.
  std::vector<Sampler> samplers_;  // one for each thread
  std::vector<Draw> draws_;
  FloatBuffer logits_;  // {kSampledRows, n_vocab}
};

Result<void> CpuSlice::forward(const SliceInput& input, const SliceOutput& output) {
  DS4_TRY(sessions_.plan(input.segments, options_.max_rows, batch_));
  DS4_TRY(check_buffers(hp_, range_, batch_.n(), batch_.wanted.size(), input, output));
  fill_angles();
  load_streams(input);
  for (std::uint32_t index = 0; index < range_.count(); ++index) run_layer(index);
  if (!range_.output)
    std::copy_n(ws_.streams.data(), output.streams.size(), output.streams.data());
  else if (!output.tokens.empty())
    sample(input.segments, output.tokens);
  else if (!batch_.wanted.empty())
    run_head(batch_.wanted, output.logits.data());
  for (const BatchSegment& segment : batch_.segments) segment.cache->position += segment.count;
  return {};
}

void CpuSlice::fill_angles() {
  compute_.for_rows(batch_.n(), 16 * hp_.rope_dim, [&](std::uint32_t row) {
    const std::uint32_t position = batch_.rows[row].position;
    compute_.plain_rope.fill(position, ws_.plain_angles.at(row));
    compute_.compressed_rope.fill(position, ws_.compressed_angles.at(row));
    if ((position + 1) % 4 == 0)
      compute_.compressed_rope.fill(position - 3, ws_.block4_angles.at(row));
    if ((position + 1) % 128 == 0)
      compute_.compressed_rope.fill(position - 127, ws_.block128_angles.at(row));
  });
}

void CpuSlice::load_streams(const SliceInput& input) {
  if (!weights_.embedding) {
    std::copy_n(input.streams.data(), input.streams.size(), ws_.streams.data());
    return;
  }
  const cpu::Matrix& embedding = *weights_.embedding;
  const std::size_t row_bytes = quant::row_bytes(embedding.type, embedding.cols);
  compute_.for_rows(batch_.n(), ws_.streams.width(), [&](std::uint32_t row) {
    const auto token = static_cast<std::size_t>(batch_.rows[row].token);
    float* streams = ws_.streams.at(row);
    quant::dequantize_row(embedding.type, embedding.data + token * row_bytes, streams, hp_.n_embd);
    for (std::uint32_t s = 1; s < kStreams; ++s)
      std::copy_n(streams, hp_.n_embd, streams + std::size_t{s} * hp_.n_embd);
  });
}

void CpuSlice::run_layer(std::uint32_t index) {
  const LayerWeights& layer = weights_.layers[index];
  const std::uint32_t number = range_.first + index;
  if (options_.tap) options_.tap(number, {ws_.streams.data(), batch_.n() * ws_.streams.width()});
  enter_block(layer.hc_attn, layer.attn_norm);
  attention_block(compute_, batch_, ws_, layer, index, hp_.compress_ratio[number]);
  leave_block();
  enter_block(layer.hc_ffn, layer.ffn_norm);
  expert_block(compute_, batch_, ws_, layer, hp_.swiglu_clamp[number]);
  leave_block();
}

/// x = rmsnorm(sum_s pre[s] * streams[s]), with the row's mixing kept for leave_block.
void CpuSlice::enter_block(const HyperConnectionWeights& hc, const std::vector<float>& norm) {
  const std::uint32_t n = batch_.n();
  const auto width = static_cast<std::uint32_t>(ws_.streams.width());
  ws_.act_streams.prepare(pool_, options_.isa, ws_.streams.data(), n, width, width);
  const cpu::Product product{hc.fn, &ws_.act_streams, {}, ws_.stream_outputs.data(), kMixOutputs};
  cpu::run_products(pool_, options_.isa, cpu::Precision::kExact, {&product, 1});
  compute_.for_rows(n, width, [&](std::uint32_t row) {
    const float* streams = ws_.streams.at(row);
    const float mean = compute_.ops.sum_squares(streams, width) / static_cast<float>(width);
    ws_.mix[row] = mix_streams(hc, ws_.stream_outputs.at(row), 1.0f / std::sqrt(mean + hp_.rms_eps),
                               hp_.hc_eps, hp_.sinkhorn_iterations);
    float* x = ws_.x.at(row);
    compute_.ops.gather_streams(streams, ws_.mix[row].pre.data(), hp_.n_embd, x);
    compute_.ops.rms_norm(x, norm.data(), hp_.n_embd, hp_.rms_eps, x);
  });
  ws_.act_x.prepare(pool_, options_.isa, ws_.x.data(), n, hp_.n_embd, ws_.x.width());
}

/// streams[d] = post[d] * y + sum_s cross[s][d] * streams[s].
void CpuSlice::leave_block() {
  compute_.for_rows(batch_.n(), ws_.streams.width(), [&](std::uint32_t row) {
    const StreamMix& mix = ws_.mix[row];
    compute_.ops.spread_streams(ws_.streams.at(row), mix.post.data(), mix.cross.data(),
                                ws_.y.at(row), hp_.n_embd);
  });
}

/// Logits exist for a few rows at a time only.
void CpuSlice::sample(std::span<const Segment> segments, std::span<SampledToken> tokens) {
  const std::size_t n_vocab = hp_.n_vocab;
  if (samplers_.empty()) {
    samplers_.assign(pool_.size(), Sampler(hp_.n_vocab, options_.isa));
    logits_ = FloatBuffer(std::min<std::size_t>(kSampledRows, options_.max_rows) * n_vocab);
    draws_.reserve(options_.max_rows);
  }
  draws_.clear();
  for_wanted(segments, [&](const SamplingParams& params, std::uint32_t position) {
    draws_.push_back(make_draw(params, position));
  });
  const std::span<const std::uint32_t> wanted = batch_.wanted;
  for (std::size_t first = 0; first < wanted.size(); first += kSampledRows) {
    const std::size_t n = std::min(kSampledRows, wanted.size() - first);
    run_head(wanted.subspan(first, n), logits_.data());
    pool_.parallel_for(n, 1, [&](std::size_t begin, std::size_t end, unsigned thread) {
      for (std::size_t i = begin; i < end; ++i)
        tokens[first + i] = to_token(
            samplers_[thread].pick({logits_.data() + i * n_vocab, n_vocab}, draws_[first + i]));
    });
  }
}

/// logits = output . rmsnorm(sum_s w[s] * streams[s]), for the rows that are wanted.
void CpuSlice::run_head(std::span<const std::uint32_t> wanted, float* logits) {
  const HeadWeights& head = *weights_.head;
  const auto n = static_cast<std::uint32_t>(wanted.size());
  const auto width = static_cast<std::uint32_t>(ws_.streams.width());
  ws_.act_streams.prepare(pool_, options_.isa, ws_.streams.data(), batch_.n(), width, width);
  const cpu::Product product{head.hc.fn, &ws_.act_streams, wanted, ws_.stream_outputs.data(),
                             kStreams};
  cpu::run_products(pool_, options_.isa, cpu::Precision::kExact, {&product, 1});
  compute_.for_rows(n, width, [&](std::uint32_t i) {
    const float* streams = ws_.streams.at(wanted[i]);
    const float mean = compute_.ops.sum_squares(streams, width) / static_cast<float>(width);
    const auto w = mix_for_head(head.hc, ws_.stream_outputs.data() + std::size_t{i} * kStreams,
                                1.0f / std::sqrt(mean + hp_.rms_eps), hp_.hc_eps);
    compute_.ops.gather_streams(streams, w.data(), hp_.n_embd, ws_.x.at(i));
    compute_.ops.rms_norm(ws_.x.at(i), head.norm.data(), hp_.n_embd, hp_.rms_eps, ws_.x.at(i));
  });
  ws_.act_x.prepare(pool_, options_.isa, ws_.x.data(), n, hp_.n_embd, ws_.x.width());
  const cpu::Product output{head.output, &ws_.act_x, {}, logits, hp_.n_vocab};
  compute_.run({&output, 1});
}

}  // namespace

Result<std::unique_ptr<Slice>> make_cpu_slice(std::shared_ptr<const ResidentSlice> weights,
                                              const CpuSliceOptions& options) {
  if (options.max_rows == 0)
    return fail(ErrorCode::kInvalidArgument, "a slice that takes no rows: max_rows is 0");
  DS4_ASSIGN(const HyperParams hp, HyperParams::read(weights->model().gguf()));
  DS4_TRY(check_sizes(hp, options.graph));
  DS4_ASSIGN(Weights views, Weights::load(*weights, hp));
  return std::make_unique<CpuSlice>(std::move(weights), hp, std::move(views), options);
}

}  // namespace ds4
