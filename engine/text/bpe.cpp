#include "engine/text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <string>

#include "engine/text/byte_map.h"

namespace ds4 {
namespace {

constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::size_t kNone = static_cast<std::size_t>(-1);

std::uint64_t pair_of(Token left, Token right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

struct ParsedMerge {
  Token left;
  Token right;
  Token merged;
};

/// One line of the merge list: two tokens' mapped texts with a space between.
Result<ParsedMerge> parse_merge(std::string_view text, std::size_t rank,
                                const Vocabulary& vocabulary) {
  const auto wrong = [&](std::string_view what) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: merge {} {}", kMergesKey, rank, what));
  };
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos) return wrong("is not two tokens with a space between");
  const auto left = bytes_of_mapped(text.substr(0, space));
  const auto right = bytes_of_mapped(text.substr(space + 1));
  if (!left || !right) return wrong("has a character that stands for no byte");

  const ParsedMerge merge = {vocabulary.find(*left), vocabulary.find(*right),
                             vocabulary.find(*left + *right)};
  for (const Token token : {merge.left, merge.right, merge.merged}) {
    if (token < 0) return wrong("names or makes a token that is not in the vocabulary");
    if (vocabulary.type(token) != TokenType::kNormal) {
      return wrong("names or makes a control token; plain text could forge it");
    }
  }
  return merge;
}

}  // namespace

void MergeTable::reserve(std::size_t merges) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(merges * 2, 2));
  slots_.assign(slots, Slot{});
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(slots));
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  // Fibonacci hashing: the product's high bits depend on all bits of the pair.
  std::size_t slot = static_cast<std::size_t>(pair * 0x9E3779B97F4A7C15u >> shift_);
  while (slots_[slot].merge.token >= 0 && slots_[slot].pair != pair) {
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return slot;
}

Result<MergeTable> MergeTable::load(const GgufFile& file, const Vocabulary& vocabulary) {
  DS4_ASSIGN(const auto texts, file.string_array(kMergesKey));
  MergeTable table;
  table.reserve(texts.size());
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    DS4_ASSIGN(const ParsedMerge merge, parse_merge(texts[rank], rank, vocabulary));
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    Slot& slot = table.slots_[table.slot_of(pair)];
    if (slot.merge.token >= 0) continue;  // repeated: the first, lower rank holds
    slot = {pair, {static_cast<std::uint32_t>(rank), merge.merged}};
  }
  return table;
}

MergeTable::Merge MergeTable::find(Token left, Token right) const {
  return slots_[slot_of(pair_of(left, right))].merge;
}

bool WordMerger::comes_after(const Candidate& a, const Candidate& b) {
  return a.merge.rank != b.merge.rank ? a.merge.rank > b.merge.rank : a.left > b.left;
}

void WordMerger::push_candidate(std::size_t left) {
  const std::size_t right = symbols_[left].next;
  if (right == kNone) return;
  const Token left_token = symbols_[left].token;
  const Token right_token = symbols_[right].token;
  const MergeTable::Merge merge = merges_.find(left_token, right_token);
  if (merge.token < 0) return;
  heap_.push_back({merge, left, left_token, right_token});
  std::push_heap(heap_.begin(), heap_.end(), comes_after);
}

WordMerger::Candidate WordMerger::pop_candidate() {
  std::pop_heap(heap_.begin(), heap_.end(), comes_after);
  const Candidate candidate = heap_.back();
  heap_.pop_back();
  return candidate;
}

bool WordMerger::is_stale(const Candidate& candidate) const {
  const Symbol& left = symbols_[candidate.left];
  return left.token != candidate.left_token || left.next == kNone ||
         symbols_[left.next].token != candidate.right_token;
}

void WordMerger::encode(std::string_view word, std::vector<Token>& out) {
  symbols_.clear();
  heap_.clear();
  for (std::size_t i = 0; i < word.size(); ++i) {
    const Token token = vocabulary_.byte_token(static_cast<unsigned char>(word[i]));
    symbols_.push_back({token, i == 0 ? kNone : i - 1, i + 1 == word.size() ? kNone : i + 1});
  }
  for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) push_candidate(i);

  while (!heap_.empty()) {
    const Candidate candidate = pop_candidate();
    if (is_stale(candidate)) continue;
    Symbol& left = symbols_[candidate.left];
    Symbol& right = symbols_[left.next];
    left.token = candidate.merge.token;
    left.next = right.next;
    right.token = -1;
    if (left.next != kNone) symbols_[left.next].previous = candidate.left;
    if (left.previous != kNone) push_candidate(left.previous);
    push_candidate(candidate.left);
  }
  for (const Symbol& symbol : symbols_) {
    if (symbol.token >= 0) out.push_back(symbol.token);
  }
}

}  // namespace ds4
