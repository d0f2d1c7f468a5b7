#include "engine/cuda/descriptor_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace ds4 {
namespace {

constexpr std::string_view kPrefix = "ds4-cuda";
constexpr std::uint32_t kMaxParts = 4096;

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Exactly six fields between dots.
std::optional<std::array<std::string_view, 6>> split(std::string_view text) {
  std::array<std::string_view, 6> fields;
  for (std::size_t i = 0; i + 1 < fields.size(); ++i) {
    const std::size_t dot = text.find('.');
    if (dot == std::string_view::npos) return std::nullopt;
    fields[i] = text.substr(0, dot);
    text.remove_prefix(dot + 1);
  }
  fields.back() = text;
  return fields;
}

}  // namespace

std::string descriptor_layers(const LayerRange& range) {
  std::string text = range.to_string();
  std::ranges::replace(text, ':', '-');
  return text;
}

std::string DescriptorName::to_string() const {
  return fmt::format("{}.{}.{}.{}.{}.{}", kPrefix, fingerprint, layers, part, parts, bytes);
}

std::optional<DescriptorName> DescriptorName::parse(std::string_view text) {
  const auto fields = split(text);
  if (!fields || (*fields)[0] != kPrefix) return std::nullopt;
  const auto part = parse_number<std::uint32_t>((*fields)[3]);
  const auto parts = parse_number<std::uint32_t>((*fields)[4]);
  const auto bytes = parse_number<std::uint64_t>((*fields)[5]);
  if (!part || !parts || !bytes || *part >= *parts || *parts > kMaxParts) return std::nullopt;
  return DescriptorName{std::string((*fields)[1]), std::string((*fields)[2]), *part, *parts,
                        *bytes};
}

Result<std::vector<StoredDescriptor>> take_set(std::vector<StoredDescriptor>& stored,
                                               std::string_view fingerprint,
                                               const LayerRange& range) {
  const std::string layers = descriptor_layers(range);
  std::vector<std::pair<std::uint32_t, std::size_t>> found;  // part, index in `stored`
  std::uint32_t parts = 0;
  for (std::size_t i = 0; i < stored.size(); ++i) {
    const auto name = DescriptorName::parse(stored[i].name);
    if (!name || name->fingerprint != fingerprint || name->layers != layers) continue;
    found.emplace_back(name->part, i);
    parts = std::max(parts, name->parts);
  }
  std::ranges::sort(found);
  bool whole = parts > 0 && found.size() == parts;
  for (std::size_t i = 0; whole && i < found.size(); ++i) whole = found[i].first == i;
  if (!whole) {
    return fail(ErrorCode::kNotFound,
                found.empty() ? fmt::format("no descriptors of layers {} are kept", layers)
                              : fmt::format("of the {} descriptors of layers {} that belong "
                                            "together, {} are kept",
                                            parts, layers, found.size()));
  }
  std::vector<StoredDescriptor> set;
  for (const auto& [part, index] : found) set.push_back(std::move(stored[index]));
  std::erase_if(stored, [](const StoredDescriptor& left) { return !left.fd; });
  return set;
}

}  // namespace ds4
