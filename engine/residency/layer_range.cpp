#include "engine/residency/layer_range.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace ds4 {
namespace {

constexpr std::string_view kForms = "use A:B (both inclusive) or A:output";

/// Decimal digits only, without leading zeros: no sign, no space, no overflow.
std::optional<std::uint32_t> parse_number(std::string_view text) {
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return std::nullopt;
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Result<LayerRange> LayerRange::parse(std::string_view text, std::uint32_t block_count) {
  if (block_count == 0) return fail(ErrorCode::kInvalidArgument, "the model has no layers");
  const auto malformed = [&] {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("layers '{}': malformed; {}", text.substr(0, 40), kForms));
  };
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return malformed();
  const std::string_view behind = text.substr(colon + 1);
  const auto first = parse_number(text.substr(0, colon));
  const bool output = behind == "output";
  const auto last = output ? std::optional(block_count - 1) : parse_number(behind);
  if (!first || !last) return malformed();
  if (*first >= block_count || *last >= block_count) {
    return fail(ErrorCode::kOutOfRange, fmt::format("layers '{}': the model has layers 0 to {}; {}",
                                                    text, block_count - 1, kForms));
  }
  if (*first > *last) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("layers '{}': the first layer is behind the last; {}", text, kForms));
  }
  return LayerRange{*first, *last, output};
}

bool LayerRange::owns(std::string_view tensor_name) const {
  if (tensor_name.starts_with("token_embd.")) return has_embedding();
  if (tensor_name.starts_with("output.") || tensor_name.starts_with("output_")) return output;
  constexpr std::string_view kBlock = "blk.";
  if (!tensor_name.starts_with(kBlock)) return false;
  tensor_name.remove_prefix(kBlock.size());
  const std::size_t dot = tensor_name.find('.');
  if (dot == std::string_view::npos) return false;
  const auto layer = parse_number(tensor_name.substr(0, dot));
  return layer && *layer >= first && *layer <= last;
}

std::string LayerRange::to_string() const {
  return output ? fmt::format("{}:output", first) : fmt::format("{}:{}", first, last);
}

}  // namespace ds4
