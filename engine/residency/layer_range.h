#pragma once
// Which layers a slice owns: `A:B` (both inclusive), `A:output` (to the last layer and the output
// head) or `0:output` (the whole model). Layer 0 brings the token embedding with it.
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4 {

struct LayerRange {
  std::uint32_t first = 0;
  std::uint32_t last = 0;  // inclusive
  bool output = false;     // owns the output head as well

  /// Parses `A:B` or `A:output` for a model of `block_count` layers. Errors name the text, the
  /// model's own bounds and the accepted forms.
  static Result<LayerRange> parse(std::string_view text, std::uint32_t block_count);

  bool has_embedding() const { return first == 0; }
  std::uint32_t count() const { return last - first + 1; }
  /// True for tensors of this range: blk.N.* inside it, token_embd.* with layer 0, output* with the
  /// head. (A model that ties its head to the embedding would need both; DeepSeek V4 does not.)
  bool owns(std::string_view tensor_name) const;
  std::string to_string() const;

  bool operator==(const LayerRange&) const = default;
};

}  // namespace ds4
