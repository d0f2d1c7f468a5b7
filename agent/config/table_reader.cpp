#include "agent/config/table_reader.h"

#include <fmt/format.h>

#include <charconv>

namespace ds4::agent {

const toml::node* TableReader::find(std::string_view key) {
  known_.emplace(key);
  return table_ == nullptr ? nullptr : table_->get(key);
}

std::string TableReader::full_name(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void TableReader::reject(const toml::node& node, std::string_view key, std::string_view why) {
  if (error_) return;
  error_ = Error{ErrorCode::kInvalidArgument,
                 fmt::format("{}:{}: {} {}", file_, node.source().begin.line, full_name(key), why)};
}

void TableReader::text(std::string_view key, std::string& out, std::size_t max_bytes) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  const auto value = node->value_exact<std::string>();
  if (!value || value->empty() || value->size() > max_bytes) {
    return reject(*node, key, fmt::format("must be a text of 1 to {} bytes", max_bytes));
  }
  for (const char c : *value) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) return reject(*node, key, "must not hold control characters");
  }
  out = *value;
}

void TableReader::boolean(std::string_view key, bool& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  const auto value = node->value_exact<bool>();
  if (!value) return reject(*node, key, "must be true or false");
  out = *value;
}

void TableReader::size(std::string_view key, std::uint64_t& out) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  const auto value = node->value_exact<std::string>();
  const std::string_view text = value ? std::string_view(*value) : std::string_view();
  if (text == "auto") {
    out = 0;
    return;
  }
  std::uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
  const unsigned shift = unit == "MiB" ? 20 : unit == "GiB" ? 30 : unit == "TiB" ? 40 : 0;
  if (error != std::errc() || shift == 0 || count == 0 || count > (UINT64_MAX >> (shift + 1))) {
    return reject(*node, key, "must be \"auto\" or a size such as \"96GiB\" or \"512MiB\"");
  }
  out = count << shift;
}

void TableReader::number(std::string_view key, std::uint32_t& out, std::uint32_t low,
                         std::uint32_t high) {
  const toml::node* node = find(key);
  if (node == nullptr) return;
  const auto value = node->value_exact<std::int64_t>();
  if (!value || *value < low || *value > high) {
    return reject(*node, key, fmt::format("must be a whole number from {} to {}", low, high));
  }
  out = static_cast<std::uint32_t>(*value);
}

TableReader TableReader::table(std::string_view key) {
  const toml::node* node = find(key);
  if (node != nullptr && !node->is_table()) {
    reject(*node, key, fmt::format("must be a table: write [{}]", full_name(key)));
    node = nullptr;
  }
  return {node == nullptr ? nullptr : node->as_table(), full_name(key), file_, error_};
}

void TableReader::finish() {
  if (table_ == nullptr) return;
  for (const auto& [key, node] : *table_) {
    if (known_.contains(key.str())) continue;
    std::string names;
    for (const auto& name : known_) names += (names.empty() ? "" : ", ") + name;
    return reject(node, key.str(),
                  fmt::format("is not a key that ds4d knows; here it knows {}", names));
  }
}

}  // namespace ds4::agent
