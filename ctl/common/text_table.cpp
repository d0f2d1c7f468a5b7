#include "ctl/common/text_table.h"

#include <algorithm>
#include <numeric>

namespace ds4::ctl {
namespace {

constexpr std::size_t kGap = 2;

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

std::string padded(const std::string& cell, std::size_t width, bool right) {
  const std::string blanks(width - std::min(width, characters(cell)), ' ');
  return right ? blanks + cell : cell + blanks;
}

}  // namespace

std::size_t characters(std::string_view text) {
  return text.size() -
         static_cast<std::size_t>(std::count_if(text.begin(), text.end(), continues_character));
}

std::string clipped(std::string_view text, std::size_t width) {
  std::size_t end = 0;
  for (std::size_t seen = 0; end < text.size(); ++end) {
    if (!continues_character(text[end]) && seen++ == width) break;
  }
  return std::string(text.substr(0, end));
}

std::vector<std::string> TextTable::lines(std::size_t width) const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t widest = characters(columns_[i].title);
    for (const auto& row : rows_) widest = std::max(widest, characters(row[i]));
    widths.push_back(widest);
  }
  std::vector<std::size_t> shown(columns_.size());
  std::iota(shown.begin(), shown.end(), std::size_t{0});
  const auto taken = [&] {
    std::size_t sum = 0;
    for (const std::size_t i : shown) sum += widths[i] + kGap;
    return sum - kGap;
  };
  while (taken() > width) {
    const auto least = std::max_element(shown.begin(), shown.end(), [&](auto a, auto b) {
      return columns_[a].dispensable < columns_[b].dispensable;
    });
    if (columns_[*least].dispensable == 0) break;
    shown.erase(least);
  }
  const auto line_of = [&](const auto& cell_of) {
    std::string line;
    for (const std::size_t i : shown) {
      if (i != shown.front()) line.append(kGap, ' ');
      line += padded(cell_of(i), widths[i], columns_[i].right);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return clipped(line, width);
  };
  std::vector<std::string> out;
  out.push_back(line_of([&](std::size_t i) { return columns_[i].title; }));
  for (const auto& row : rows_) out.push_back(line_of([&](std::size_t i) { return row[i]; }));
  return out;
}

}  // namespace ds4::ctl
