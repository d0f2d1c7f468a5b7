#include "engine/text/control_trie.h"

namespace ds4 {
namespace {

std::uint64_t edge_key(std::uint32_t node, char c) {
  return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
}

}  // namespace

void ControlTrie::add(std::string_view text, Token token) {
  starts_[static_cast<unsigned char>(text.front())] = true;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto [edge, inserted] = edges_.try_emplace(edge_key(node, text[i]));
    if (inserted) edge->second.node = nodes_++;
    if (i + 1 == text.size()) edge->second.token = token;
    node = edge->second.node;
  }
}

ControlTrie::Match ControlTrie::match_at(std::string_view text, std::size_t begin) const {
  Match longest;
  std::uint32_t node = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    const auto edge = edges_.find(edge_key(node, text[i]));
    if (edge == edges_.end()) break;
    node = edge->second.node;
    if (edge->second.token >= 0) longest = {begin, i + 1 - begin, edge->second.token};
  }
  return longest;
}

ControlTrie::Match ControlTrie::find(std::string_view text, std::size_t from) const {
  for (std::size_t i = from; i < text.size(); ++i) {
    if (!starts_[static_cast<unsigned char>(text[i])]) continue;
    const Match match = match_at(text, i);
    if (match.token >= 0) return match;
  }
  return {};
}

}  // namespace ds4
