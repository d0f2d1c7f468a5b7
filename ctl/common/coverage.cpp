#include "ctl/common/coverage.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4::ctl {
namespace {

std::string text_of(const OwnedRange& owned) {
  if (owned.owner.empty()) return owned.range.to_string();
  return fmt::format("{} ({})", owned.owner, owned.range.to_string());
}

std::string layers_text(std::uint32_t first, std::uint32_t last) {
  return first == last ? fmt::format("layer {}", first)
                       : fmt::format("layers {} to {}", first, last);
}

tl::unexpected<Error> invalid(std::string message) {
  return fail(ErrorCode::kInvalidArgument, std::move(message));
}

Result<void> check_neighbours(const OwnedRange& left, const OwnedRange& right) {
  const LayerRange& a = left.range;
  const LayerRange& b = right.range;
  if (b.first <= a.last) {
    return invalid(fmt::format("{} and {} both own {}: let the ranges follow one another",
                               text_of(left), text_of(right),
                               layers_text(b.first, std::min(a.last, b.last))));
  }
  if (b.first > a.last + 1) {
    return invalid(fmt::format("nobody owns {}, between {} and {}",
                               layers_text(a.last + 1, b.first - 1), text_of(left),
                               text_of(right)));
  }
  return {};
}

}  // namespace

Result<std::vector<OwnedRange>> check_coverage(std::span<const OwnedRange> ranges,
                                               std::uint32_t block_count) {
  if (ranges.empty()) return invalid("no layers are given to anybody");
  std::vector<OwnedRange> sorted(ranges.begin(), ranges.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const OwnedRange& a, const OwnedRange& b) {
    return a.range.first < b.range.first;
  });
  const OwnedRange& first = sorted.front();
  if (first.range.first != 0) {
    return invalid(fmt::format(
        "nobody owns {} and the token embedding: the first is {}; somebody must have 0:{}",
        layers_text(0, first.range.first - 1), text_of(first), first.range.first - 1));
  }
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    DS4_TRY(check_neighbours(sorted[i - 1], sorted[i]));
  }
  const OwnedRange& last = sorted.back();
  if (last.range.last + 1 != block_count) {
    return invalid(fmt::format(
        "nobody owns {} and the output head: the last is {}; somebody must "
        "have {}:output",
        layers_text(last.range.last + 1, block_count - 1), text_of(last), last.range.last + 1));
  }
  if (!last.range.output) {
    return invalid(fmt::format("nobody owns the output head: {} must be {}:output", text_of(last),
                               last.range.first));
  }
  return sorted;
}

Result<std::vector<LayerRange>> parse_split(std::string_view text, std::uint32_t block_count) {
  std::vector<OwnedRange> ranges;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    DS4_ASSIGN(LayerRange range, LayerRange::parse(text.substr(begin, end - begin), block_count));
    ranges.push_back({"", range});
    begin = end + 1;
  }
  DS4_ASSIGN(const std::vector<OwnedRange> sorted, check_coverage(ranges, block_count));
  std::vector<LayerRange> out;
  for (const OwnedRange& owned : sorted) out.push_back(owned.range);
  return out;
}

}  // namespace ds4::ctl
