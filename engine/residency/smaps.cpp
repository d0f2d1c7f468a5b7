// Text of /proc -> numbers. Pure.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "engine/residency/residency_audit.h"

namespace ds4 {
namespace {

/// Cuts the first line off `text`.
std::string_view next_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

/// Cuts the first word off `line`.
std::string_view next_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}

std::optional<std::uint64_t> number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// "7f00-7f01 r--s 00000000 08:01 1234   /path": anything else is not a header.
std::optional<SmapsEntry> parse_header(std::string_view line) {
  const std::string_view addresses = next_word(line);
  const std::size_t dash = addresses.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  next_word(line);  // permissions
  const auto begin = number(addresses.substr(0, dash), 16);
  const auto end = number(addresses.substr(dash + 1), 16);
  const auto offset = number(next_word(line), 16);
  next_word(line);  // device
  const auto inode = number(next_word(line), 10);
  if (!begin || !end || *end < *begin || !offset || !inode) return std::nullopt;
  return SmapsEntry{*begin, *end, *offset, *inode, 0, false};
}

/// "Rss:  12 kB" -> 12 * 1024.
std::optional<std::uint64_t> kilobytes(std::string_view rest) {
  const auto value = number(next_word(rest), 10);
  if (!value || next_word(rest) != "kB" || *value > UINT64_MAX / 1024) return std::nullopt;
  return *value * 1024;
}

bool has_flag(std::string_view flags, std::string_view wanted) {
  for (auto flag = next_word(flags); !flag.empty(); flag = next_word(flags)) {
    if (flag == wanted) return true;
  }
  return false;
}

}  // namespace

Result<std::vector<SmapsEntry>> parse_smaps(std::string_view text) {
  std::vector<SmapsEntry> entries;
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    if (line.empty()) continue;
    std::string_view rest = line;
    const std::string_view field = next_word(rest);
    if (!field.ends_with(':')) {
      const auto header = parse_header(line);
      if (!header) {
        return fail(ErrorCode::kCorrupt,
                    fmt::format("smaps: cannot read '{}'", line.substr(0, 80)));
      }
      entries.push_back(*header);
    } else if (entries.empty()) {
      return fail(ErrorCode::kCorrupt, "smaps: a field before the first mapping");
    } else if (field == "Rss:") {
      const auto bytes = kilobytes(rest);
      if (!bytes) {
        return fail(ErrorCode::kCorrupt,
                    fmt::format("smaps: cannot read '{}'", line.substr(0, 80)));
      }
      entries.back().rss_bytes = *bytes;
    } else if (field == "VmFlags:") {
      // Not the field `Locked:`, which shares each page's bytes among the processes that map it.
      entries.back().locked = has_flag(rest, "lo");
    }
  }
  return entries;
}

namespace {

std::uint64_t overlap_bytes(const Interval& a, const Interval& b) {
  const std::uint64_t begin = std::max(a.begin, b.begin);
  const std::uint64_t end = std::min(a.end, b.end);
  return begin < end ? end - begin : 0;
}

std::uint64_t overlap_bytes(const Interval& a, std::span<const Interval> sorted) {
  std::uint64_t total = 0;
  auto next = std::ranges::upper_bound(sorted, a.begin, {}, &Interval::end);
  for (; next != sorted.end() && next->begin < a.end; ++next) total += overlap_bytes(a, *next);
  return total;
}

}  // namespace

Residency account(const std::vector<SmapsEntry>& smaps, std::uint64_t base,
                  std::uint64_t reserved_bytes, const SpanCover& cover,
                  std::span<const Interval> claimed) {
  Residency out;
  for (const Interval& interval : cover.intervals()) out.intervals.push_back({interval});
  for (const SmapsEntry& entry : smaps) {
    const bool inside = entry.begin >= base && entry.begin - base < reserved_bytes;
    if (!inside || entry.inode == 0) continue;
    const std::uint64_t file_bytes = cover.file_bytes();
    const std::uint64_t begin = std::min(entry.file_offset, file_bytes);
    const std::uint64_t length = std::min(entry.end - entry.begin, file_bytes - begin);
    const Interval bytes{begin, begin + length};
    const std::uint64_t absent = length - std::min(entry.rss_bytes, length);
    auto next = std::ranges::upper_bound(
        out.intervals, begin, {}, [](const IntervalResidency& one) { return one.planned.end; });
    for (; next != out.intervals.end() && next->planned.begin < bytes.end; ++next) {
      const std::uint64_t mapped = overlap_bytes(bytes, next->planned);
      // A mapping may reach beyond the interval; what is absent of it may all be absent here.
      const std::uint64_t present = mapped - std::min(mapped, absent);
      next->mapped_bytes += mapped;
      next->incore_bytes += present;
      if (entry.locked) next->locked_bytes += present;
    }
    out.outside_cover_bytes += length - overlap_bytes(bytes, claimed);
  }
  out.add_up();
  return out;
}

std::optional<std::uint64_t> parse_status_bytes(std::string_view text, std::string_view field) {
  while (!text.empty()) {
    std::string_view line = next_line(text);
    const std::string_view name = next_word(line);
    if (name.size() == field.size() + 1 && name.ends_with(':') && name.starts_with(field)) {
      return kilobytes(line);
    }
  }
  return std::nullopt;
}

}  // namespace ds4
