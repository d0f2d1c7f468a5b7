#include "engine/text/pretokenizer.h"

#include <utf8proc.h>

#include <array>
#include <cstdint>
#include <span>

#include "engine/text/utf8.h"

namespace ds4 {
namespace {

// The sets of characters that the patterns speak of, as bits.
enum CharClass : std::uint16_t {
  kLetter = 1 << 0,       // \p{L}
  kMark = 1 << 1,         // \p{M}
  kNumber = 1 << 2,       // \p{N}
  kPunct = 1 << 3,        // \p{P}
  kSymbol = 1 << 4,       // \p{S}
  kSpace = 1 << 5,        // \s
  kNewline = 1 << 6,      // [\r\n]
  kBlank = 1 << 7,        // ' '
  kAsciiLetter = 1 << 8,  // [A-Za-z]
  kAsciiPunct = 1 << 9,   // P: punctuation marks and symbols of ASCII
  kCjk = 1 << 10,         // [一-龥぀-ゟ゠-ヿ]
  kInvalid = 1 << 11,     // not UTF-8
};

struct Char {
  std::uint16_t classes = 0;
  std::uint8_t bytes = 1;

  bool is(unsigned any_of) const { return (classes & any_of) != 0; }
};

using Chars = std::span<const Char>;

unsigned general_category(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kLetter;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kMark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return kPunct;
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
      return kSymbol;
    default:
      return 0;
  }
}

// Unicode's White_Space property; utf8proc does not offer it.
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::uint16_t classify(char32_t c) {
  unsigned classes = general_category(c);
  if (is_white_space(c)) classes |= kSpace;
  if (c == '\r' || c == '\n') classes |= kNewline;
  if (c == ' ') classes |= kBlank;
  if (c < 0x80 && (classes & kLetter)) classes |= kAsciiLetter;
  if (c < 0x80 && (classes & (kPunct | kSymbol))) classes |= kAsciiPunct;
  if ((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF)) classes |= kCjk;
  return static_cast<std::uint16_t>(classes);
}

std::vector<Char> read_chars(std::string_view text) {
  static const std::array<std::uint16_t, 128> ascii = [] {
    std::array<std::uint16_t, 128> table{};
    for (char32_t c = 0; c < table.size(); ++c) table[c] = classify(c);
    return table;
  }();
  std::vector<Char> chars;
  chars.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char c = next_utf8(text);
    Char entry;
    if (c.status != Utf8Status::kValid) {
      entry = {kInvalid, 1};  // and the bytes after it are looked at on their own
    } else {
      entry.classes = c.code_point < 0x80 ? ascii[c.code_point] : classify(c.code_point);
      entry.bytes = static_cast<std::uint8_t>(c.bytes);
    }
    chars.push_back(entry);
    text.remove_prefix(entry.bytes);
  }
  return chars;
}

/// First index from `begin` on whose character is in none of the classes.
std::size_t skip(Chars chars, std::size_t begin, unsigned any_of) {
  while (begin < chars.size() && chars[begin].is(any_of)) ++begin;
  return begin;
}

/// Pattern 3 at the start of `chars`: how many characters it takes; 0 if it does not match there.
/// The alternatives stand in the pattern's order, for the first that matches wins.
std::size_t match_word(Chars chars) {
  const Char first = chars[0];
  const Char second = chars.size() > 1 ? chars[1] : Char{};
  if (first.is(kAsciiPunct) && second.is(kAsciiLetter)) return skip(chars, 1, kAsciiLetter);

  if (first.is(kLetter | kMark)) return skip(chars, 0, kLetter | kMark);
  if (!first.is(kNewline | kPunct | kSymbol) && second.is(kLetter | kMark)) {
    return skip(chars, 1, kLetter | kMark);
  }

  const std::size_t mark = first.is(kBlank) ? 1 : 0;
  if ((mark == 0 ? first : second).is(kPunct | kSymbol)) {
    return skip(chars, skip(chars, mark, kPunct | kSymbol), kNewline);
  }

  const std::size_t spaces = skip(chars, 0, kSpace);
  for (std::size_t i = spaces; i > 0; --i) {
    if (chars[i - 1].is(kNewline)) return i;  // white space up to its last line break
  }
  // The last space before a word belongs to the word, unless it is the only one.
  return spaces == chars.size() || spaces <= 1 ? spaces : spaces - 1;
}

std::size_t count_bytes(Chars chars) {
  std::size_t bytes = 0;
  for (const Char c : chars) bytes += c.bytes;
  return bytes;
}

class Splitter {
 public:
  explicit Splitter(std::vector<std::size_t>& lengths) : lengths_(lengths) {}

  /// Pattern 1, and the cuts around invalid bytes.
  void split_numbers(Chars chars) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < chars.size();) {
      if (!chars[i].is(kNumber | kInvalid)) {
        ++i;
        continue;
      }
      split_cjk(chars.subspan(begin, i - begin));
      begin = i++;
      if (chars[begin].is(kNumber)) {
        while (i < chars.size() && i < begin + 3 && chars[i].is(kNumber)) ++i;
      }
      emit(chars.subspan(begin, i - begin));
      begin = i;
    }
    split_cjk(chars.subspan(begin));
  }

 private:
  /// Pattern 2.
  void split_cjk(Chars chars) {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < chars.size();) {
      const bool cjk = chars[i].is(kCjk);
      while (i < chars.size() && chars[i].is(kCjk) == cjk) ++i;
      split_rest(chars.subspan(begin, i - begin));
      begin = i;
    }
  }

  /// Pattern 3.
  void split_rest(Chars chars) {
    std::size_t begin = 0;  // of what no alternative has matched
    for (std::size_t i = 0; i < chars.size();) {
      const std::size_t matched = match_word(chars.subspan(i));
      if (matched == 0) {
        ++i;
        continue;
      }
      emit(chars.subspan(begin, i - begin));
      emit(chars.subspan(i, matched));
      i += matched;
      begin = i;
    }
    emit(chars.subspan(begin));
  }

  void emit(Chars chars) {
    if (!chars.empty()) lengths_.push_back(count_bytes(chars));
  }

  std::vector<std::size_t>& lengths_;
};

}  // namespace

std::vector<std::size_t> split_words(std::string_view text) {
  const std::vector<Char> chars = read_chars(text);
  std::vector<std::size_t> lengths;
  Splitter(lengths).split_numbers(chars);
  return lengths;
}

}  // namespace ds4
