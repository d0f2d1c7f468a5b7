#pragma once
// Internal to agent/config: TableReader's counterpart. What describes the keys to a reader
// describes them to this as well, and it writes down "table.key = value", one line a key. A new
// kind of key needs a method of the same name in both.
#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ds4::agent {

class TableWriter {
 public:
  /// `lines` outlives this.
  explicit TableWriter(std::vector<std::string>& lines, std::string path = {})
      : lines_(lines), path_(std::move(path)) {}

  void text(std::string_view key, const std::string& value, std::size_t /*max_bytes*/) {
    add(key, quoted(value));
  }
  void boolean(std::string_view key, bool value) { add(key, value ? "true" : "false"); }
  void size(std::string_view key, std::uint64_t value) {
    add(key, value == 0 ? quoted("auto") : quoted(fmt::format("{}MiB", value >> 20)));
  }
  void number(std::string_view key, std::uint32_t value, std::uint32_t /*low*/,
              std::uint32_t /*high*/) {
    add(key, std::to_string(value));
  }
  template <typename T>
  void choice(std::string_view key, const T& value,
              std::initializer_list<std::pair<std::string_view, T>> choices) {
    for (const auto& [name, meaning] : choices) {
      if (meaning == value) return add(key, quoted(name));
    }
  }
  TableWriter table(std::string_view key) { return TableWriter(lines_, full_name(key)); }
  void finish() {}

 private:
  std::string full_name(std::string_view key) const {
    return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  }
  /// The readers refuse control characters, so these two are all that a TOML text has to escape.
  static std::string quoted(std::string_view value) {
    std::string text = "\"";
    for (const char c : value) {
      if (c == '"' || c == '\\') text += '\\';
      text += c;
    }
    return text + '"';
  }
  void add(std::string_view key, const std::string& value) {
    lines_.push_back(fmt::format("{} = {}", full_name(key), value));
  }

  std::vector<std::string>& lines_;
  std::string path_;
};

}  // namespace ds4::agent
