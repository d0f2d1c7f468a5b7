#pragma once
// One call's launches, layer after layer: what engine/model/cpu_slice.cpp computes, as kernels on a
// stream. Nothing here waits or copies to the host.
#include <cstdint>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/slice_weights.h"
#include "engine/model/hyper_params.h"

namespace ds4::cuda {

/// What shapes a call's launches: two calls of equal shapes differ in their tables only. Bounds are
/// rounded up, so that a growing context changes the shape now and then, not with every token.
struct CallShape {
  std::uint32_t rows = 0;
  std::uint32_t wanted = 0;
  std::uint32_t parts_plain = 0, parts_4 = 0, parts_128 = 0;  // of attention, at most
  std::uint32_t most_visible = 0;  // rows that the indexer scores; 0: it leaves nothing out
  bool sampled = false;            // wanted are tokens, not logits

  static CallShape make(const HyperParams& params, std::uint32_t rows, std::uint32_t wanted,
                        std::uint32_t last_position);
  auto operator<=>(const CallShape&) const = default;
  std::uint32_t parts(std::uint32_t ratio) const {
    return ratio == 0 ? parts_plain : (ratio == 4 ? parts_4 : parts_128);
  }
};

/// Rows whose logits are computed together.
inline constexpr std::uint32_t kHeadRows = 64;

/// Every intermediate value of a call, on the device.
struct DeviceWorkspace {
  static Result<DeviceWorkspace> make(const HyperParams& params, const LayerRange& range,
                                      std::uint32_t max_rows);

  DeviceBuffer<std::byte> memory;  // all of the following
  std::byte* tables = nullptr;     // rows, segments, wanted: see CudaSlice
  float* streams = nullptr;        // [N][4][E]
  float* mix = nullptr;            // [N][20]
  float* mix_logits = nullptr;     // [N][24]
  float* angles = nullptr;         // [N][4][R]
  BlockInput x;                    // [N][E]
  float* y = nullptr;              // [N][E]
  float *qr = nullptr, *kv = nullptr;
  __half *qr_half = nullptr, *kv_half = nullptr;
  QuantisedRows qr_integers;
  float *pool_kv = nullptr, *pool_gate = nullptr;              // [N][2D]
  float *index_pool_kv = nullptr, *index_pool_gate = nullptr;  // [N][2 * 128]
  float *index_w = nullptr, *index_q = nullptr;
  float* q = nullptr;  // [N][H][D]
  __half* q_half = nullptr;
  __half* heads = nullptr;       // [N][H][D]
  QuantisedRows heads_integers;  // the same memory: a layer has one of them
  __half* groups = nullptr;      // [N][G][O]
  QuantisedRows groups_integers;
  float* scores = nullptr;
  std::uint64_t score_floats = 0;
  std::uint32_t* chosen = nullptr;  // [N][top_k]
  float *part_acc = nullptr, *part_max = nullptr, *part_sum = nullptr;
  std::uint64_t part_heads = 0;  // (part, head) pairs that the parts' buffers hold
  float* router = nullptr;       // [N][experts]
  std::uint32_t* row_expert = nullptr;
  Groups grouped{};
  __half* hidden = nullptr;  // [N * (used + 1)][F]
  QuantisedRows hidden_integers;
  float* down = nullptr;    // [N * (used + 1)][E]
  BlockInput head_x;        // [kHeadRows][E]
  float* logits = nullptr;  // [kHeadRows][V]
};

/// The tables of a call, wherever they lie on the device.
struct CallTables {
  const RowEntry* rows = nullptr;
  const SegmentEntry* segments = nullptr;
  const std::uint32_t* wanted = nullptr;
};

class ForwardPass {
 public:
  ForwardPass(const HyperParams& params, const LayerRange& range, Graph graph,
              const SliceWeights& weights, const DeviceWorkspace& ws, const double* frequencies,
              const std::uint16_t* iq2_grid);

  /// From token ids (if the slice owns layer 0) or ws.streams to the last layer's ws.streams.
  void run_layers(Launcher& launcher, const CallShape& shape, const CallTables& tables) const;
  /// ws.logits of `n` wanted rows from `first` on. Behind run_layers.
  void run_head(Launcher& launcher, const CallTables& tables, std::uint32_t first,
                std::uint32_t n) const;

 private:
  struct Layer;
  void attention(Layer& layer) const;
  void project_input(Layer& layer, bool searching) const;
  void project_queries(Layer& layer, bool searching) const;
  void search(Layer& layer) const;
  void attend_in_passes(Layer& layer) const;
  void project_output(Layer& layer) const;
  Pending experts(Layer& layer) const;

  const HyperParams& hp_;
  const LayerRange range_;
  const SliceWeights& weights_;
  const DeviceWorkspace& ws_;
  const double* frequencies_;
  const std::uint16_t* iq2_grid_;
  Sizes sizes_{};
};

}  // namespace ds4::cuda
