#include "ctl/ds4_eval/slice_chain.h"

#include <fmt/format.h>

#include <algorithm>

#include "ctl/common/coverage.h"
#include "engine/model/cpu_slice.h"
#include "engine/residency/resident_slice.h"

namespace ds4::eval {
namespace {

// Not locked: an evaluation is not a service, and the lock limit belongs to the agent.
const LoadOptions kUnlocked{.progress = {}, .cancel = nullptr, .lock = false};

Result<std::unique_ptr<Slice>> make_cuda_slice(CudaEngine& engine,
                                               const std::shared_ptr<const ModelFile>& model,
                                               const LayerRange& range,
                                               const ChainOptions& options) {
  std::shared_ptr<const CudaWeights> weights;
  if (options.backend == Backend::kCudaRegistered) {
    DS4_ASSIGN(auto resident, ResidentSlice::load(model, range, kUnlocked));
    DS4_ASSIGN(weights, engine.register_host(std::move(resident)));
  } else {
    DS4_ASSIGN(weights, engine.load(model, range, kUnlocked));
  }
  CudaSliceOptions slice;
  slice.graph = options.graph;
  slice.max_rows = options.chunk;
  slice.profile = options.profile;
  return engine.make_slice(std::move(weights), slice);
}

Result<std::unique_ptr<Slice>> make_cpu_slice(const std::shared_ptr<const ModelFile>& model,
                                              const LayerRange& range,
                                              const ChainOptions& options) {
  DS4_ASSIGN(std::shared_ptr<const ResidentSlice> weights,
             ResidentSlice::load(model, range, kUnlocked));
  CpuSliceOptions slice;
  slice.graph = options.graph;
  slice.precision = options.precision;
  slice.threads = options.threads;
  slice.max_rows = options.chunk;
  slice.tap = options.tap;
  return ds4::make_cpu_slice(std::move(weights), slice);
}

}  // namespace

Result<SliceChain> SliceChain::open(const ChainOptions& options) {
  if (options.chunk == 0) return fail(ErrorCode::kInvalidArgument, "a chunk has at least one row");
  SliceChain chain;
  chain.chunk_ = options.chunk;
  DS4_ASSIGN(chain.model_, ModelFile::open(options.model));
  auto params = HyperParams::read(chain.model_->gguf());
  if (!params) return fail(std::move(params).error(), options.model);
  const std::string split = options.split.empty() ? "0:output" : options.split;
  auto ranges = ctl::parse_split(split, params->n_layer);
  if (!ranges) return fail(std::move(ranges).error(), fmt::format("split '{}'", split));
  if (options.backend != Backend::kCpu) {
    DS4_ASSIGN(chain.cuda_, CudaEngine::open());
  }
  for (const LayerRange& range : *ranges) {
    auto slice = chain.cuda_ ? make_cuda_slice(*chain.cuda_, chain.model_, range, options)
                             : make_cpu_slice(chain.model_, range, options);
    if (!slice) {
      return fail(std::move(slice).error(),
                  fmt::format("{}, layers {}", options.model, range.to_string()));
    }
    chain.slices_.push_back(std::move(*slice));
  }
  if (chain.slices_.size() > 1) {
    const std::size_t floats = std::size_t{options.chunk} * params->n_streams * params->n_embd;
    for (std::vector<float>& streams : chain.streams_) streams.resize(floats);
  }
  return chain;
}

std::uint64_t SliceChain::kv_bytes_for(std::uint32_t context) const {
  std::uint64_t bytes = 0;
  for (const auto& slice : slices_) bytes += slice->kv_bytes_for(context);
  return bytes;
}

Result<void> SliceChain::open_session(SessionId session, std::uint32_t context) {
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    if (auto opened = slices_[i]->open_session(session, context); !opened) {
      while (i-- > 0) slices_[i]->close_session(session);
      return opened;
    }
  }
  return {};
}

void SliceChain::close_session(SessionId session) {
  for (const auto& slice : slices_) slice->close_session(session);
}

Result<void> SliceChain::forward(std::span<const Segment> segments, const SliceOutput& last) {
  std::size_t rows = 0;
  for (const Segment& segment : segments) rows += segment.tokens.size();
  if (rows > chunk_) {
    return fail(ErrorCode::kOutOfRange,
                fmt::format("{} rows in one pass; this chain takes {}", rows, chunk_));
  }
  const std::size_t floats = rows * params().n_streams * params().n_embd;
  SliceInput input{segments, {}};
  for (std::size_t i = 0; i < slices_.size(); ++i) {
    SliceOutput output;
    if (i + 1 < slices_.size()) {
      output.streams = std::span(streams_[i % 2]).first(floats);
    } else {
      output = last;
    }
    DS4_TRY(slices_[i]->forward(input, output));
    input.streams = output.streams;
  }
  return {};
}

Result<void> SliceChain::append(SessionId session, std::uint32_t position,
                                std::span<const std::int32_t> tokens, LogitsWanted wanted,
                                const LogitsSink& sink) {
  const std::size_t n_vocab = params().n_vocab;
  while (!tokens.empty()) {
    const std::size_t rows = std::min<std::size_t>(tokens.size(), chunk_);
    const bool last = rows == tokens.size();
    const LogitsWanted now = wanted == LogitsWanted::kLast && !last ? LogitsWanted::kNone : wanted;
    const std::size_t wanted_rows =
        now == LogitsWanted::kAll ? rows : (now == LogitsWanted::kLast ? 1 : 0);
    if (logits_.size() < wanted_rows * n_vocab) logits_.resize(wanted_rows * n_vocab);
    const std::span<float> logits = std::span(logits_).first(wanted_rows * n_vocab);
    const Segment segment{session, position, tokens.first(rows), now};
    DS4_TRY(forward(std::span(&segment, 1), {{}, logits}));
    position += static_cast<std::uint32_t>(rows);
    if (wanted_rows > 0) {
      DS4_TRY(sink(position - static_cast<std::uint32_t>(wanted_rows), logits));
    }
    tokens = tokens.subspan(rows);
  }
  return {};
}

Result<SampledToken> SliceChain::sample_after(SessionId session, std::uint32_t position,
                                              std::span<const std::int32_t> tokens,
                                              const SamplingParams& params) {
  const std::size_t last = tokens.empty() ? 0 : (tokens.size() - 1) / chunk_ * chunk_;
  DS4_TRY(append(session, position, tokens.first(last), LogitsWanted::kNone, {}));
  const Segment segment{session, position + static_cast<std::uint32_t>(last), tokens.subspan(last),
                        LogitsWanted::kLast, params};
  SampledToken token;
  DS4_TRY(forward({&segment, 1}, {{}, {}, {&token, 1}}));
  return token;
}

}  // namespace ds4::eval
