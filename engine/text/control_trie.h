#pragma once
// Finds control tokens in a text: at each position the longest one that begins there, in one walk
// however many there are (real vocabularies have hundreds).
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "engine/text/vocabulary.h"

namespace ds4 {

class ControlTrie {
 public:
  struct Match {
    std::size_t begin = 0;
    std::size_t bytes = 0;
    Token token = -1;  // -1: none
  };

  /// `text` is not empty.
  void add(std::string_view text, Token token);
  /// The first match at or after `from`; the longest of those that begin there.
  Match find(std::string_view text, std::size_t from) const;

 private:
  struct Edge {
    std::uint32_t node = 0;
    Token token = -1;  // of the text that ends with this edge
  };

  Match match_at(std::string_view text, std::size_t begin) const;

  std::unordered_map<std::uint64_t, Edge> edges_;  // node << 8 | byte
  std::array<bool, 256> starts_{};                 // can a control token begin with this byte?
  std::uint32_t nodes_ = 1;
};

}  // namespace ds4
