#include "ctl/ds4ctl/status_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

constexpr std::array<std::string_view, 10> kColumns = {
    "NODE", "STATE", "LAYERS", "COVER", "IN CORE", "LOCKED", "OUTSIDE", "SESSIONS", "KV", "DETAIL"};
constexpr std::size_t kStateColumn = 1;
constexpr std::size_t kFirstNumber = 3;  // these columns are right-aligned, but for the last
constexpr std::size_t kDetailColumn = kColumns.size() - 1;

using Row = std::array<std::string, kColumns.size()>;

std::string preparation_text(const wire::NodeStatus& status) {
  const wire::Preparation& preparation = *status.preparation;
  std::string text = fmt::format("{} {} for epoch {}", to_string(preparation.phase),
                                 preparation.layers, preparation.epoch);
  if (preparation.phase == wire::PreparePhase::kLoading && status.load.bytes_total > 0) {
    text += fmt::format(", {:.0f} %", 100.0 * static_cast<double>(status.load.bytes_done) /
                                          static_cast<double>(status.load.bytes_total));
  }
  if (!preparation.detail.empty()) text += ": " + preparation.detail;
  return text;
}

std::string in_core_text(const wire::ResidentReport& resident) {
  std::string text = bytes_text(resident.incore_bytes);
  if (resident.device_bytes > 0)
    text += fmt::format(" + {} GPU", bytes_text(resident.device_bytes));
  return text;
}

Row row_of(const NodeView& view) {
  if (!view.status) {
    return {view.node.name,
            "unreachable",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            view.status.error().message};
  }
  const wire::NodeStatus& status = *view.status;
  std::string detail = status.detail;
  if (!view.node.unnamed && status.name != view.node.name) {
    if (!detail.empty()) detail += "; ";
    detail += fmt::format("the cluster file calls it {}", view.node.name);
  }
  if (status.preparation) {
    if (!detail.empty()) detail += "; ";
    detail += preparation_text(status);
  }
  return {status.name.empty() ? view.node.name : status.name,
          std::string(to_string(status.state)),
          status.layers.empty() ? "-" : status.layers,
          bytes_text(status.cover.cover_bytes),
          in_core_text(status.resident),
          bytes_text(status.resident.locked_bytes),
          bytes_text(status.resident.outside_cover_bytes),
          fmt::format("{}", status.sessions),
          bytes_text(status.kv_bytes),
          detail};
}

std::string_view colour_of(std::string_view state) {
  if (state == "ready") return "\x1b[32m";
  if (state == "failed" || state == "unreachable") return "\x1b[31m";
  if (state == "idle") return "";
  return "\x1b[33m";
}

void append_row(std::string& out, const Row& row,
                const std::array<std::size_t, kColumns.size()>& widths, bool colour) {
  for (std::size_t column = 0; column < row.size(); ++column) {
    if (column > 0) out += "  ";
    if (column == kDetailColumn) {
      out += row[column];
    } else if (column >= kFirstNumber) {
      out += fmt::format("{:>{}}", row[column], widths[column]);
    } else {
      const std::string_view paint =
          colour && column == kStateColumn ? colour_of(row[column]) : std::string_view();
      out += paint;
      out += row[column];
      if (!paint.empty()) out += "\x1b[0m";
      out.append(widths[column] - row[column].size(), ' ');
    }
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  out += '\n';
}

}  // namespace

bool all_reachable(std::span<const NodeView> views) {
  return std::all_of(views.begin(), views.end(),
                     [](const NodeView& view) { return view.status.has_value(); });
}

std::string status_table(std::span<const NodeView> views, bool colour) {
  std::vector<Row> rows(1);
  std::copy(kColumns.begin(), kColumns.end(), rows[0].begin());
  for (const NodeView& view : views) rows.push_back(row_of(view));
  std::array<std::size_t, kColumns.size()> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (std::size_t i = 0; i < rows.size(); ++i) append_row(out, rows[i], widths, colour && i > 0);
  return out;
}

std::string status_json(std::span<const NodeView> views, int indent) {
  using Json = nlohmann::ordered_json;
  Json nodes = Json::array();
  for (const NodeView& view : views) {
    Json node;
    if (view.status) {
      node = Json::parse(wire::to_json_text(*view.status, -1));
      node["address"] = view.node.address;
    } else {
      node = {{"name", view.node.name},
              {"state", "unreachable"},
              {"detail", view.status.error().message},
              {"address", view.node.address}};
    }
    nodes.push_back(std::move(node));
  }
  return Json{{"nodes", std::move(nodes)}}.dump(indent, ' ', false,
                                                Json::error_handler_t::replace) +
         "\n";
}

}  // namespace ds4::ctl
