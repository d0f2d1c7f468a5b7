#pragma once
// Lines for a terminal of any width; pure. Widths count characters (UTF-8), one cell each.
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ds4::ctl {

std::size_t characters(std::string_view text);
/// The first `width` characters.
std::string clipped(std::string_view text, std::size_t width);

/// A table that leaves columns out where there is no room for all.
class TextTable {
 public:
  struct Column {
    std::string title;
    bool right = false;        // aligned, as numbers are
    unsigned dispensable = 0;  // where room is short, the columns with the most go first; 0: never
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  /// One cell for each column.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// The titles, then a line for each row, none wider than `width`.
  std::vector<std::string> lines(std::size_t width) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace ds4::ctl
