#pragma once
// The two loops over cached rows: attention itself, and the indexer's scores.
//
// Attention walks the keys in tiles of kKeyTile and keeps a running maximum and sum per head, so it
// needs no buffer as long as the context, and a tile's rows are still in the first-level cache when
// they serve as values after having served as keys. The walk starts from the head's learned sink: a
// maximum equal to the sink's logit and a sum of one, with nothing accumulated.
#include <cstddef>

namespace ds4::cpu {

inline constexpr std::size_t kKeyTile = 64;
inline constexpr std::size_t kKeyGroup = 4;  // keys that are read together

/// Repeats the last of `count` keys up to a multiple of kKeyGroup; `keys` holds kKeyTile.
inline void fill_key_group(const float** keys, std::size_t count) {
  for (std::size_t k = count; k % kKeyGroup != 0; ++k) keys[k] = keys[count - 1];
}

/// One query row against one tile of keys; in this model a key is its own value.
struct AttentionTile {
  const float* q = nullptr;  // {heads, dim}
  std::size_t heads = 0;
  std::size_t dim = 0;                 // a multiple of kOpsBlock
  const float* const* keys = nullptr;  // `count` keys of `dim` floats; the list is filled up to a
                                       // multiple of kKeyGroup with readable ones, not used
  std::size_t count = 0;               // 1..kKeyTile
  float scale = 1;
  float* max = nullptr;  // {heads}; starts as the sink
  float* sum = nullptr;  // {heads}; starts as 1
  float* acc = nullptr;  // {heads, dim}; starts as 0; divide by sum at the end
};

/// One row's index queries against one tile of index keys.
struct IndexTile {
  const float* q = nullptr;        // {heads, dim}
  const float* weights = nullptr;  // {heads}
  std::size_t heads = 0;
  std::size_t dim = 0;
  const float* const* keys = nullptr;  // as in AttentionTile
  std::size_t count = 0;
  float* scores = nullptr;  // {kKeyTile}: sum over heads of relu(q . k) * weight
};

struct AttentionOps {
  void (*attend)(const AttentionTile& tile);
  /// acc /= sum, for every head.
  void (*finish)(const AttentionTile& tile);
  void (*index)(const IndexTile& tile);
};

}  // namespace ds4::cpu
