#pragma once
// A whole model as a chain of slices, one after the other in one process.
//
// This is the agents' route without the agents: the same slices, the same streams handed from one
// to the next, only through memory instead of a socket. Whatever ds4-eval measures (logits,
// perplexity, speed, text) it measures through this chain, so a number found here is a number about
// the product, and comparing a split chain with an unsplit one proves that splitting changes no
// bit.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/cpu/linear.h"
#include "engine/cuda/plugin.h"
#include "engine/gguf/model_file.h"
#include "engine/model/hyper_params.h"
#include "engine/model/slice.h"

namespace ds4::eval {

/// kCuda: weights in device memory; kCudaRegistered: in host memory that the GPU reads.
enum class Backend { kCpu, kCuda, kCudaRegistered };

struct ChainOptions {
  Backend backend = Backend::kCpu;
  std::string model;  // path
  std::string split;  // "0:2,3:output"; empty: one slice
  Graph graph = Graph::kOfficial;
  cpu::Precision precision = cpu::Precision::kFast;
  unsigned threads = 1;
  std::uint32_t chunk = 512;  // most rows of one pass
  /// Sees the streams that enter each layer, {rows, n_streams, n_embd}; for tests.
  std::function<void(std::uint32_t layer, std::span<const float> streams)> tap = {};
  /// See CudaSliceOptions; of every slice.
  std::function<void(std::span<const KernelTime>)> profile = {};
};

/// Thread rule: one thread at a time, as for a Slice.
class SliceChain {
 public:
  /// Makes every range of the split resident. Errors: those of the file, the split and the slices.
  static Result<SliceChain> open(const ChainOptions& options);

  const ModelFile& model() const { return *model_; }
  const HyperParams& params() const { return slices_.front()->params(); }
  std::uint32_t chunk() const { return chunk_; }
  std::size_t slices() const { return slices_.size(); }
  /// Null on the CPU.
  const CudaEngine* cuda() const { return cuda_.get(); }
  std::uint64_t kv_bytes_for(std::uint32_t context) const;

  /// In all slices or in none.
  Result<void> open_session(SessionId session, std::uint32_t context);
  void close_session(SessionId session);

  /// One pass of at most chunk() rows through all slices. `output`: logits or tokens.
  Result<void> forward(std::span<const Segment> segments, const SliceOutput& output);

  /// Receives {rows, n_vocab} logits; the first row is that of position `first_position`.
  using LogitsSink =
      std::function<Result<void>(std::uint32_t first_position, std::span<const float> logits)>;
  /// Appends `tokens` to a session that holds `position` positions, in passes of chunk() rows.
  /// `sink` sees all positions (kAll), the last one (kLast), or is never called.
  Result<void> append(SessionId session, std::uint32_t position,
                      std::span<const std::int32_t> tokens, LogitsWanted wanted,
                      const LogitsSink& sink);
  /// The same, and then the token that follows them, sampled where the logits are.
  Result<SampledToken> sample_after(SessionId session, std::uint32_t position,
                                    std::span<const std::int32_t> tokens,
                                    const SamplingParams& params);

 private:
  SliceChain() = default;

  std::shared_ptr<const ModelFile> model_;
  std::shared_ptr<CudaEngine> cuda_;
  std::vector<std::unique_ptr<Slice>> slices_;
  std::uint32_t chunk_ = 0;
  // What one slice hands to the next: {chunk, n_streams, n_embd}, used in turns.
  std::vector<float> streams_[2];
  std::vector<float> logits_;  // grows to what append() needs, then stays
};

}  // namespace ds4::eval
