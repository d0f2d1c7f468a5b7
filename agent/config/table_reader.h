#pragma once
// Internal to agent/config: reads typed keys of one TOML table, keeps the first error, and knows at
// the end which keys nobody asked for.
#include <toml++/toml.h>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/result.h"

namespace ds4::agent {

class TableReader {
 public:
  /// `path` is "" for the file itself, else the table's name. All references outlive this.
  TableReader(const toml::table* table, std::string path, std::string_view file,
              std::optional<Error>& error)
      : table_(table), path_(std::move(path)), file_(file), error_(error) {}

  void text(std::string_view key, std::string& out, std::size_t max_bytes);
  void boolean(std::string_view key, bool& out);
  /// "auto" (0), or a whole number with its unit: "96GiB", "512MiB".
  void size(std::string_view key, std::uint64_t& out);
  void number(std::string_view key, std::uint32_t& out, std::uint32_t low, std::uint32_t high);

  template <typename T>
  void choice(std::string_view key, T& out,
              std::initializer_list<std::pair<std::string_view, T>> choices) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    std::string accepted;
    const auto value = node->value_exact<std::string>();
    for (const auto& [name, meaning] : choices) {
      if (value && *value == name) {
        out = meaning;
        return;
      }
      accepted += (accepted.empty() ? "\"" : ", \"") + std::string(name) + "\"";
    }
    reject(*node, key, "must be one of " + accepted);
  }

  /// The reader of a table inside; of nothing if the file has none.
  TableReader table(std::string_view key);
  /// Refuses the keys that were never asked for.
  void finish();

 private:
  const toml::node* find(std::string_view key);
  std::string full_name(std::string_view key) const;
  void reject(const toml::node& node, std::string_view key, std::string_view why);

  const toml::table* table_;
  std::string path_;
  std::string_view file_;
  std::optional<Error>& error_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace ds4::agent
