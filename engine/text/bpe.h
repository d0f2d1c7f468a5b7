#pragma once
// Byte-pair merging: from the bytes of one word to its tokens.
//
// The rule: of all neighbouring pairs that have a merge, the one with the lowest rank (the leftmost
// of equals) becomes one token, until none is left. Looking for it anew each time would be
// quadratic in the word, and a word may be a megabyte; a heap of candidates, checked for staleness
// when popped, makes it n log n.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/gguf/gguf.h"
#include "engine/text/vocabulary.h"

namespace ds4 {

/// Immutable after load(); any thread may read.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank = 0;
    Token token = -1;  // -1: the pair does not merge
  };

  /// Reads `tokenizer.ggml.merges`. Errors name the merge. Merges take and make normal tokens only:
  /// one that made a control token would let plain text forge it.
  static Result<MergeTable> load(const GgufFile& file, const Vocabulary& vocabulary);

  Merge find(Token left, Token right) const;

 private:
  struct Slot {
    std::uint64_t pair = 0;
    Merge merge;  // token -1: empty
  };

  MergeTable() = default;
  void reserve(std::size_t merges);
  /// Where the pair is, or the empty slot where it belongs.
  std::size_t slot_of(std::uint64_t pair) const;

  // Open addressing, at most half full, a power of two: one cache line per look-up, of which
  // encoding makes about three per byte.
  std::vector<Slot> slots_;
  unsigned shift_ = 0;
};

/// Applies the merges to words. Holds scratch memory: one per thread.
class WordMerger {
 public:
  WordMerger(const Vocabulary& vocabulary, const MergeTable& merges)
      : vocabulary_(vocabulary), merges_(merges) {}

  /// Appends the tokens of `word`.
  void encode(std::string_view word, std::vector<Token>& out);

 private:
  // A token of the word so far, in a doubly linked list; -1: merged into its left neighbour.
  struct Symbol {
    Token token;
    std::size_t previous;
    std::size_t next;
  };
  struct Candidate {
    MergeTable::Merge merge;
    std::size_t left;  // index of the left symbol
    Token left_token;  // what both were when the candidate was found
    Token right_token;
  };

  static bool comes_after(const Candidate& a, const Candidate& b);
  void push_candidate(std::size_t left);
  Candidate pop_candidate();
  bool is_stale(const Candidate& candidate) const;

  const Vocabulary& vocabulary_;
  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace ds4
