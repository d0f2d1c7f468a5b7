#include "engine/cuda/slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "engine/cuda/device_sessions.h"
#include "engine/cuda/forward_pass.h"
#include "engine/cuda/launch_times.h"
#include "engine/model/rope.h"
#include "engine/model/sampling.h"
#include "engine/model/sessions.h"
#include "engine/quant/iq2_xxs.h"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kGraphRows = 64;  // calls of more rows keep the device busy anyhow
constexpr std::size_t kMostGraphs = 256;

struct StreamDeleter {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct GraphDeleter {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using StreamPtr = std::unique_ptr<CUstream_st, StreamDeleter>;
using GraphPtr = std::unique_ptr<CUgraphExec_st, GraphDeleter>;

class WeightsSource final : public TensorSource {
 public:
  explicit WeightsSource(std::shared_ptr<const CudaWeights> weights)
      : weights_(std::move(weights)) {}
  const ModelFile& model() const override { return weights_->model(); }
  const LayerRange& range() const override { return weights_->range(); }
  int device() const override { return weights_->device(); }
  bool in_device_memory() const override { return weights_->registered_bytes() == 0; }
  Result<DeviceTensor> tensor(std::string_view name) const override {
    return weights_->tensor(name);
  }
  Result<void> read_back(std::string_view name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    return weights_->read_back(name, offset, out);
  }

 private:
  std::shared_ptr<const CudaWeights> weights_;
};

/// What the kernels rely on beyond what HyperParams::read checks.
Result<void> check_sizes(const HyperParams& hp) {
  const auto refuse = [](std::string_view what, std::uint64_t found) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the CUDA engine runs models with {}; this one has {}", what, found));
  };
  if (hp.n_streams != 4) return refuse("4 residual streams", hp.n_streams);
  if (hp.head_dim != 512 && hp.head_dim != 128) return refuse("heads of 128 or 512", hp.head_dim);
  if (hp.index_dim != 128) return refuse("index rows of 128", hp.index_dim);
  if (hp.rope_dim % 4 != 0 || (hp.head_dim - hp.rope_dim) % 64 != 0 || hp.rope_dim > 256)
    return refuse("64 dividing the part of a head that is not turned, a part of", hp.rope_dim);
  if (hp.n_embd % 256 != 0) return refuse("rows of a multiple of 256", hp.n_embd);
  if (hp.n_expert > 512) return refuse("up to 512 experts", hp.n_expert);
  if (hp.n_expert_used > 32) return refuse("up to 32 experts for a token", hp.n_expert_used);
  return {};
}

class CudaSlice final : public Slice {
 public:
  CudaSlice(std::shared_ptr<const TensorSource> source, const HyperParams& hp, SliceWeights weights,
            const CudaSliceOptions& options, const SliceTuning& tuning)
      : source_(std::move(source)),
        hp_(hp),
        range_(source_->range()),
        weights_(std::move(weights)),
        options_(options),
        tuning_(tuning),
        sessions_(hp_, range_, options.kv_budget_bytes) {}

  Result<void> prepare();

  const HyperParams& params() const override { return hp_; }
  const LayerRange& range() const override { return range_; }
  std::uint32_t max_rows() const override { return options_.max_rows; }

  Result<void> open_session(SessionId session, std::uint32_t context) override {
    DS4_TRY(use_device());
    return sessions_.open(session, context);
  }
  void close_session(SessionId session) override { sessions_.close(session); }
  Result<void> fork_session(SessionId source, SessionId target) override {
    DS4_TRY(use_device());
    return sessions_.fork(source, target);
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
  Launcher launcher() const;
  std::size_t stream_floats() const { return call_.n() * std::size_t{hp_.n_streams} * hp_.n_embd; }
  Result<void> use_device() const;
  CallTables tables(const CallShape& shape) const;
  void stage_tables();
  void stage_draws(std::span<const Segment> segments);
  /// Puts a call on the stream: tables and streams in, layers, streams or first logits out.
  cudaError_t enqueue(const CallShape& shape);
  /// Logits of `n` wanted rows from `first` on, and they or their tokens to the host.
  void enqueue_head(Launcher& launcher, const CallShape& shape, std::uint32_t first,
                    std::uint32_t n);
  Result<GraphPtr> capture(const CallShape& shape);
  Result<void> start(const CallShape& shape);
  Result<void> finish(const CallShape& shape, const SliceOutput& output);
  Result<void> compute(const SliceInput& input, const SliceOutput& output);
  Result<void> report_times();

  std::shared_ptr<const TensorSource> source_;
  const HyperParams hp_;
  const LayerRange range_;
  const SliceWeights weights_;
  const CudaSliceOptions options_;
  const SliceTuning tuning_;
  DeviceSessions sessions_;
  CallPlan call_;
  DeviceWorkspace ws_;
  DeviceBuffer<double> frequencies_;
  DeviceBuffer<std::uint16_t> iq2_grid_;
  PinnedBuffer<std::byte> staged_tables_;
  PinnedBuffer<float> staged_streams_;  // in and out; none if the slice is the whole model
  PinnedBuffer<float> staged_logits_;   // [kHeadRows][V]
  PinnedBuffer<Draw> staged_draws_;     // [max_rows] of wanted rows; read by the device
  PinnedBuffer<Pick> staged_picks_;     // [kHeadRows] written by the device
  std::unique_ptr<ForwardPass> pass_;
  StreamPtr stream_;
  std::unique_ptr<LaunchTimes> times_;  // if they are asked for
  std::map<CallShape, GraphPtr> graphs_;
  bool failed_ = false;
};

Result<void> CudaSlice::use_device() const {
  if (failed_)
    return fail(ErrorCode::kUnavailable,
                "the GPU failed in an earlier call: this slice computes no more");
  DS4_CUDA_TRY(cudaSetDevice(source_->device()), fmt::format("use GPU {}", source_->device()));
  return {};
}

Result<void> CudaSlice::prepare() {
  DS4_ASSIGN(ws_, DeviceWorkspace::make(hp_, range_, options_.max_rows));
  std::vector<double> frequencies;
  for (const bool compressed : {false, true}) {
    const Rope rope(hp_, compressed);
    frequencies.insert(frequencies.end(), rope.frequencies().begin(), rope.frequencies().end());
  }
  DS4_ASSIGN(frequencies_, device_buffer<double>(frequencies.size(), "frequencies"));
  DS4_CUDA_TRY(cudaMemcpy(frequencies_.data(), frequencies.data(),
                          frequencies.size() * sizeof(double), cudaMemcpyHostToDevice),
               "copy frequencies to the device");
  DS4_ASSIGN(iq2_grid_, device_buffer<std::uint16_t>(256, "the grid of IQ2_XXS"));
  DS4_CUDA_TRY(cudaMemcpy(iq2_grid_.data(), quant::kIq2XxsGrid, sizeof quant::kIq2XxsGrid,
                          cudaMemcpyHostToDevice),
               "copy the grid of IQ2_XXS to the device");
  DS4_ASSIGN(staged_tables_,
             pinned_buffer<std::byte>(options_.max_rows * (sizeof(RowEntry) + sizeof(SegmentEntry) +
                                                           sizeof(std::uint32_t)),
                                      "tables"));
  if (!range_.has_embedding() || !range_.output) {
    DS4_ASSIGN(staged_streams_,
               pinned_buffer<float>(std::size_t{options_.max_rows} * hp_.n_streams * hp_.n_embd,
                                    "streams"));
  }
  if (range_.output) {
    DS4_ASSIGN(staged_logits_,
               pinned_buffer<float>(std::size_t{kHeadRows} * hp_.n_vocab, "logits"));
    DS4_ASSIGN(staged_draws_, pinned_buffer<Draw>(options_.max_rows, "draws"));
    DS4_ASSIGN(staged_picks_, pinned_buffer<Pick>(kHeadRows, "sampled tokens"));
  }
  cudaStream_t stream = nullptr;
  DS4_CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a CUDA stream");
  stream_.reset(stream);
  if (options_.profile) times_ = std::make_unique<LaunchTimes>();
  pass_ = std::make_unique<ForwardPass>(hp_, range_, options_.graph, weights_, ws_,
                                        frequencies_.data(), iq2_grid_.data());
  return {};
}

/// Rows, then room for as many segments and wanted rows: places that the shape fixes.
CallTables CudaSlice::tables(const CallShape& shape) const {
  const std::byte* rows = ws_.tables;
  const std::byte* segments = rows + shape.rows * sizeof(RowEntry);
  const std::byte* wanted = segments + shape.rows * sizeof(SegmentEntry);
  return {reinterpret_cast<const RowEntry*>(rows), reinterpret_cast<const SegmentEntry*>(segments),
          reinterpret_cast<const std::uint32_t*>(wanted)};
}

void CudaSlice::stage_tables() {
  std::byte* to = staged_tables_.data();
  std::memcpy(to, call_.rows.data(), call_.n() * sizeof(RowEntry));
  to += call_.n() * sizeof(RowEntry);
  std::memcpy(to, call_.segments.data(), call_.segments.size() * sizeof(SegmentEntry));
  to += call_.n() * sizeof(SegmentEntry);
  std::memcpy(to, call_.wanted.data(), call_.wanted.size() * sizeof(std::uint32_t));
}

void CudaSlice::stage_draws(std::span<const Segment> segments) {
  Draw* to = staged_draws_.data();
  for_wanted(segments, [&](const SamplingParams& params, std::uint32_t position) {
    *to++ = make_draw(params, position);
  });
}

Launcher CudaSlice::launcher() const {
  Launcher launcher;
  launcher.stream = stream_.get();
  launcher.overlap = tuning_.overlap;
  launcher.device_weights = source_->in_device_memory();
  launcher.observer = times_.get();
  return launcher;
}

cudaError_t CudaSlice::enqueue(const CallShape& shape) {
  Launcher launcher = this->launcher();
  const auto copy = [&](void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (launcher.error == cudaSuccess)
      launcher.error = cudaMemcpyAsync(to, from, bytes, kind, launcher.stream);
  };
  const std::size_t stream_bytes =
      shape.rows * std::size_t{hp_.n_streams} * hp_.n_embd * sizeof(float);
  copy(ws_.tables, staged_tables_.data(),
       shape.rows * (sizeof(RowEntry) + sizeof(SegmentEntry) + sizeof(std::uint32_t)),
       cudaMemcpyHostToDevice);
  if (!range_.has_embedding())
    copy(ws_.streams, staged_streams_.data(), stream_bytes, cudaMemcpyHostToDevice);
  const CallTables at = tables(shape);
  pass_->run_layers(launcher, shape, at);
  if (!range_.output) {
    copy(staged_streams_.data(), ws_.streams, stream_bytes, cudaMemcpyDeviceToHost);
  } else if (shape.wanted != 0) {
    enqueue_head(launcher, shape, 0, std::min(shape.wanted, kHeadRows));
  }
  return launcher.error;
}

void CudaSlice::enqueue_head(Launcher& launcher, const CallShape& shape, std::uint32_t first,
                             std::uint32_t n) {
  pass_->run_head(launcher, tables(shape), first, n);
  if (shape.sampled) {
    launcher.name = "sampling";
    sample_rows(launcher, ws_.logits, hp_.n_vocab, staged_draws_.data() + first, n,
                staged_picks_.data());
  } else if (launcher.error == cudaSuccess) {
    launcher.error = cudaMemcpyAsync(staged_logits_.data(), ws_.logits,
                                     n * std::size_t{hp_.n_vocab} * sizeof(float),
                                     cudaMemcpyDeviceToHost, launcher.stream);
  }
}

Result<GraphPtr> CudaSlice::capture(const CallShape& shape) {
  DS4_CUDA_TRY(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
               "capture a call");
  const cudaError_t enqueued = enqueue(shape);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &graph);
  DS4_CUDA_TRY(enqueued, "launch a kernel");
  DS4_CUDA_TRY(ended, "capture a call");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  DS4_CUDA_TRY(made, "make a graph of a call");
  return GraphPtr(exec);
}

Result<void> CudaSlice::start(const CallShape& shape) {
  if (times_) times_->begin(stream_.get());
  if (!tuning_.graphs || times_ || shape.rows > kGraphRows) {
    DS4_CUDA_TRY(enqueue(shape), "launch a kernel");
    return {};
  }
  if (graphs_.size() >= kMostGraphs && !graphs_.contains(shape)) graphs_.clear();
  GraphPtr& graph = graphs_[shape];
  if (!graph) {
    auto captured = capture(shape);
    if (!captured) {
      graphs_.erase(shape);
      return tl::unexpected<Error>(std::move(captured).error());
    }
    graph = std::move(*captured);
  }
  DS4_CUDA_TRY(cudaGraphLaunch(graph.get(), stream_.get()), "start a call");
  return {};
}

/// Waits for the call; fetches what is not staged yet.
Result<void> CudaSlice::finish(const CallShape& shape, const SliceOutput& output) {
  const auto wait = [&]() -> Result<void> {
    DS4_CUDA_TRY(cudaStreamSynchronize(stream_.get()), "compute a call on the GPU");
    return {};
  };
  DS4_TRY(wait());
  if (!range_.output) {
    std::memcpy(output.streams.data(), staged_streams_.data(), output.streams.size_bytes());
    return {};
  }
  for (std::uint32_t first = 0; first < shape.wanted; first += kHeadRows) {
    const std::uint32_t n = std::min(shape.wanted - first, kHeadRows);
    if (first != 0) {
      Launcher launcher = this->launcher();
      enqueue_head(launcher, shape, first, n);
      DS4_CUDA_TRY(launcher.error, "launch a kernel");
      DS4_TRY(wait());
    }
    if (shape.sampled)
      std::transform(staged_picks_.data(), staged_picks_.data() + n, output.tokens.begin() + first,
                     to_token);
    else
      std::memcpy(output.logits.data() + std::size_t{first} * hp_.n_vocab, staged_logits_.data(),
                  n * std::size_t{hp_.n_vocab} * sizeof(float));
  }
  return {};
}

Result<void> CudaSlice::compute(const SliceInput& input, const SliceOutput& output) {
  stage_tables();
  if (!range_.has_embedding())
    std::memcpy(staged_streams_.data(), input.streams.data(), input.streams.size_bytes());
  CallShape shape = CallShape::make(hp_, call_.n(), static_cast<std::uint32_t>(call_.wanted.size()),
                                    call_.last_position);
  shape.sampled = !output.tokens.empty();
  if (shape.sampled) stage_draws(input.segments);
  DS4_TRY(start(shape));
  return finish(shape, output);
}

Result<void> CudaSlice::forward(const SliceInput& input, const SliceOutput& output) {
  DS4_TRY(use_device());
  DS4_TRY(sessions_.plan(input.segments, options_.max_rows, call_));
  DS4_TRY(check_buffers(hp_, range_, call_.n(), call_.wanted.size(), input, output));
  if (auto computed = compute(input, output); !computed) {
    // Caches may be half written, and a device error is not one that goes away.
    failed_ = true;
    return computed;
  }
  DeviceSessions::advance(call_);
  return report_times();
}

Result<void> CudaSlice::report_times() {
  if (!times_) return {};
  DS4_ASSIGN(const KernelTimes times, times_->take());
  options_.profile(times.all());
  return {};
}

}  // namespace

Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const TensorSource> source,
                                          const CudaSliceOptions& options,
                                          const SliceTuning& tuning) {
  if (options.max_rows == 0)
    return fail(ErrorCode::kInvalidArgument, "a slice that takes no rows: max_rows is 0");
  DS4_CUDA_TRY(cudaSetDevice(source->device()), fmt::format("use GPU {}", source->device()));
  DS4_ASSIGN(const HyperParams hp, HyperParams::read(source->model().gguf()));
  DS4_TRY(check_sizes(hp));
  DS4_ASSIGN(SliceWeights weights, SliceWeights::load(*source, hp));
  auto slice =
      std::make_unique<CudaSlice>(std::move(source), hp, std::move(weights), options, tuning);
  DS4_TRY(slice->prepare());
  return std::unique_ptr<Slice>(std::move(slice));
}

Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                          const CudaSliceOptions& options) {
  return make_slice(std::make_shared<WeightsSource>(std::move(weights)), options, SliceTuning{});
}

}  // namespace ds4::cuda
