#pragma once
// What kernels are told about a call. Everything that changes from call to call lies in device
// tables that are filled by one copy, so that a captured graph of launches can be replayed for any
// call of the same shape.
#include <cstddef>
#include <cstdint>

namespace ds4::cuda {

struct RowEntry {
  std::uint32_t position;
  std::int32_t token;
  std::uint32_t segment;
  std::uint32_t last_of_segment;  // 1 for a segment's last row
};

struct SegmentEntry {
  std::byte* cache;  // begins with one CacheLayer per layer of the slice
  std::uint32_t first_row;
  std::uint32_t first_position;
  std::uint32_t count;
  std::uint32_t state_slot;  // 0 or 1: which of the two compressor states is current
};

/// Where the parts of a layer's cache lie, in bytes from the cache's start; see device_cache.h.
struct CacheLayer {
  std::uint64_t raw, compressed, index, state, index_state;
  std::uint32_t ring_rows, pad;
};

/// Sizes that kernels take as they are.
struct Sizes {
  std::uint32_t n_embd, n_head, head_dim, rope_dim, q_rank, n_group, o_rank, window;
  std::uint32_t index_heads, index_dim, top_k;
  std::uint32_t n_expert, n_expert_used, ffn, n_vocab;
  std::uint32_t sinkhorn_iterations;
  float hc_eps, rms_eps, expert_weights_scale;
  std::uint32_t official;  // 1: cached values are rounded as DeepSeek's own inference does
};

/// A matrix as it lies in the file: `rows` output features, row after row.
struct DeviceMatrix {
  const std::byte* data = nullptr;
  std::uint64_t row_bytes = 0;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  std::uint32_t type = 0;  // TensorType
};

}  // namespace ds4::cuda
