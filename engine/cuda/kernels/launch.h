#pragma once
// The kernels of a forward pass, as functions that put them on a stream. Nothing here waits, and
// nothing fails by itself: a launch that CUDA refuses is kept in the launcher, and what follows is
// left out.
//
// The rule of engine/model/slice.h, a row's bits depend on its session alone, is kept here: every
// value is computed by one piece of code whose order of operations depends on sizes and the row's
// own position. In products that order is: 32 columns at a time (16 where weights are halves)
// within a segment of 512, then the segments one after the other, whatever the number of rows; in
// attention: 64 keys at a time, then these parts one after the other.
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "engine/cuda/kernels/quantised_rows.h"
#include "engine/cuda/kernels/tables.h"
#include "engine/text/draw.h"

namespace ds4::cuda {

/// For --profile: told after each launch.
class LaunchObserver {
 public:
  virtual ~LaunchObserver() = default;
  virtual void launched(cudaStream_t stream, const char* name) = 0;
};

struct Launcher {
  cudaStream_t stream = nullptr;
  bool overlap = true;         // kernels may start before their predecessor ends
  bool device_weights = true;  // weights lie in device memory, not in the host's
  cudaError_t error = cudaSuccess;
  LaunchObserver* observer = nullptr;
  const char* name = "";

  void observe() { observer->launched(stream, name); }
};

// quantise.cu ---------------------------------------------------------------------------------

/// `n` rows of `cols` values (a multiple of 32), `x_stride` apart, as integers.
void quantise_rows(Launcher& launcher, const __half* x, std::uint32_t x_stride, std::uint32_t n,
                   std::uint32_t cols, const QuantisedRows& out);
void quantise_rows(Launcher& launcher, const float* x, std::uint32_t x_stride, std::uint32_t n,
                   std::uint32_t cols, const QuantisedRows& out);

// products.cu ---------------------------------------------------------------------------------

/// y[n][r] = weights row r . x[n], as floats or halves. `cols` of all products of a call agree.
struct Product {
  DeviceMatrix weights;
  const __half* x = nullptr;
  std::uint32_t x_stride = 0;
  void* y = nullptr;
  std::uint32_t y_stride = 0;
  bool half_out = false;
  QuantisedRows integers = {};    // x again, for weights that are integers
  QuantisedRows y_integers = {};  // of halves, without sums; y may be null then; few rows only
};
inline constexpr std::size_t kMostProducts = 8;
/// `iq2_grid`: see formats.cuh.
void run_products(Launcher& launcher, std::span<const Product> products, std::uint32_t n,
                  const std::uint16_t* iq2_grid);

/// (row, expert) entries, those of one expert next to one another, as route() leaves them.
struct Groups {
  std::uint32_t* count;      // [1] experts that were chosen
  std::uint32_t* expert;     // [experts] of each group
  std::uint32_t* begin;      // [experts + 1] first entry
  std::uint32_t* entry_row;  // [rows * used]
  std::uint32_t* row_entry;  // [rows][used]
  float* row_weight;         // [rows][used]
};

/// The experts of a layer: matrix e begins `stride` bytes behind matrix e - 1.
struct ExpertStack {
  DeviceMatrix first;
  std::uint64_t stride = 0;
};

struct ExpertProducts {
  ExpertStack gate, up, down;
  DeviceMatrix shared_gate, shared_up, shared_down;
  Groups groups;
  std::uint32_t rows = 0, used = 0, n_expert = 0;
  float limit = 0;
  const __half* x = nullptr;  // [rows][gate.cols]
  QuantisedRows x_integers{};
  __half* hidden = nullptr;         // [rows * used + rows][ffn]; the shared expert's stand last
  QuantisedRows hidden_integers{};  // the same; run_down() of few rows makes its own
  float* down_out = nullptr;        // [rows * used + rows][E]
};
void run_gate_up(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* iq2_grid);
void run_down(Launcher& launcher, const ExpertProducts& experts, const std::uint16_t* iq2_grid);

// streams.cu ----------------------------------------------------------------------------------

/// streams[row] = four times the token's embedding.
void embed(Launcher& launcher, const Sizes& sizes, const DeviceMatrix& embedding,
           const RowEntry* rows, std::uint32_t n, float* streams, const std::uint16_t* iq2_grid);
/// Angles of every row: [row][4][R] for plain layers, compressed layers, and the first tokens of
/// the blocks of 4 and of 128 that the row is in. `frequencies`: [2][R / 2], plain and compressed.
void fill_angles(Launcher& launcher, const Sizes& sizes, const RowEntry* rows, std::uint32_t n,
                 const double* frequencies, float* angles);

struct HyperConnection {
  const void* fn = nullptr;  // [24 or 4][4E], half or float
  bool fn_is_half = false;
  const float* base = nullptr;
  const float* scale = nullptr;
};
/// What the block before left, not yet in the streams.
struct Pending {
  const float* y = nullptr;     // [rows][E]; null: see experts
  const float* down = nullptr;  // entries of run_down; null: nothing is pending
  const std::uint32_t* row_entry = nullptr;
  const float* row_weight = nullptr;
};
/// What a block reads, in both forms that products take.
struct BlockInput {
  __half* halves = nullptr;  // [rows][E]
  QuantisedRows integers;
};
inline constexpr std::uint32_t kMixOutputs = 24;  // of 4 streams: 4 pre, 4 post, 16 cross
inline constexpr std::uint32_t kMixKept = 20;     // post and cross
/// Spreads what is pending over the streams by `mix` [rows][20], then reads the streams for the
/// next block: x = rmsnorm(...) * norm to `x`, and to `logits` [rows][24] what finish_mix() makes
/// the next `mix` from.
void enter_block(Launcher& launcher, const Sizes& sizes, const HyperConnection& hc,
                 const float* norm, const Pending& pending, std::uint32_t n, float* streams,
                 const float* mix, float* logits, const BlockInput& x);
/// The slow part of a mixing, which nobody needs before the block ends: kernels beside the critical
/// path take it along.
struct MixArgs {
  const float* logits = nullptr;
  float* mix = nullptr;
};
/// The last spread, without another block behind it.
void leave_last_block(Launcher& launcher, const Sizes& sizes, const Pending& pending,
                      std::uint32_t n, float* streams, const float* mix);
/// x[i] of streams[wanted[i]] for the output product.
void enter_head(Launcher& launcher, const Sizes& sizes, const HyperConnection& hc,
                const float* norm, const std::uint32_t* wanted, std::uint32_t n,
                const float* streams, const BlockInput& x);

// attention_input.cu --------------------------------------------------------------------------

struct CompressorArgs {
  const float* kv = nullptr;    // [rows][width]
  const float* gate = nullptr;  // [rows][width]
  const float* ape = nullptr;   // [ratio][width]
  const float* norm = nullptr;  // [dim]
};
struct AttentionInput {
  std::uint32_t layer = 0;  // in the slice
  std::uint32_t ratio = 0;
  const float* qr = nullptr;  // [rows][Q]
  const float* q_norm = nullptr;
  __half* qr_out = nullptr;  // [rows][Q]
  QuantisedRows qr_integers{};
  const float* kv = nullptr;  // [rows][D]
  const float* kv_norm = nullptr;
  __half* kv_out = nullptr;  // [rows][D]
  CompressorArgs main, index;
  MixArgs mix;
};
/// Norms of qr and kv; the compressors' states, and the rows they complete, into the caches.
void finish_input(Launcher& launcher, const Sizes& sizes, const AttentionInput& input,
                  const RowEntry* rows, const SegmentEntry* segments, std::uint32_t n,
                  const float* angles);
/// Queries: norm, rotary positions; index queries: rotary positions and rounding.
void finish_queries(Launcher& launcher, const Sizes& sizes, std::uint32_t ratio, std::uint32_t n,
                    const float* angles, const float* q, __half* q_out, float* index_q,
                    float* index_w);

// index_search.cu -----------------------------------------------------------------------------

/// The best top_k compressed rows of each row, ascending, where there are more; `chosen`
/// [rows][top_k], `scores` [rows][most_visible].
void search_index(Launcher& launcher, const Sizes& sizes, std::uint32_t layer, std::uint32_t ratio,
                  const RowEntry* rows, const SegmentEntry* segments, std::uint32_t first_row,
                  std::uint32_t n, std::uint32_t most_visible, const float* index_q,
                  const float* index_w, float* scores, std::uint32_t* chosen);

// attention.cu --------------------------------------------------------------------------------

inline constexpr std::uint32_t kKeyPart = 64;
struct Attention {
  std::uint32_t layer = 0, ratio = 0;
  bool has_index = false;
  const __half* q = nullptr;   // [rows][H][D]
  const __half* kv = nullptr;  // [rows][D] the call's own raw rows
  const float* sinks = nullptr;
  const std::uint32_t* chosen = nullptr;
  float* part_acc = nullptr;  // [rows of a pass][parts][H][D]
  float* part_max = nullptr;  // [rows of a pass][parts][H]
  float* part_sum = nullptr;
  std::uint32_t parts = 0;  // most parts of any row
  __half* out = nullptr;    // [rows][H][D]; or, if this is null,
  QuantisedRows integers{};
};
/// Rows [first_row, first_row + n). The last pass of a call copies the raw rows of all the call's
/// `rows_of_call` into the rings, where later calls find them.
void attend(Launcher& launcher, const Sizes& sizes, const Attention& attention,
            const RowEntry* rows, const SegmentEntry* segments, std::uint32_t first_row,
            std::uint32_t n, std::uint32_t rows_of_call, const float* angles);
bool attention_supports(const Sizes& sizes);
/// Whether a pass of `n` rows needs no room for parts.
bool attends_at_once(const Sizes& sizes, std::uint32_t n);

// routing.cu ----------------------------------------------------------------------------------

/// Chooses every row's experts from the router's `logits` [rows][experts] and groups them.
void route(Launcher& launcher, const Sizes& sizes, const float* logits, const float* bias,
           const std::int32_t* token_experts, const RowEntry* rows, std::uint32_t n,
           std::uint32_t* row_expert, const Groups& groups, const MixArgs& mix);

// sampling.cu ---------------------------------------------------------------------------------

/// What Sampler::pick() gives for `n` rows of `logits` [n][vocabulary]. `draws` and `picks` may be
/// in pinned memory of the host: each is read or written once.
void sample_rows(Launcher& launcher, const float* logits, std::uint32_t vocabulary,
                 const Draw* draws, std::uint32_t n, Pick* picks);

}  // namespace ds4::cuda
