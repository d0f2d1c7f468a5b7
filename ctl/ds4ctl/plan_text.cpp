#include "ctl/ds4ctl/plan_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ctl/common/text_table.h"
#include "ctl/ds4ctl/link_survey.h"
#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

using Json = nlohmann::ordered_json;

std::string ms_text(double seconds) {
  return seconds > 0 ? fmt::format("{:.3g}", seconds * 1e3) : "-";
}

/// To the next stage; from the last one back to the first, where the token goes.
std::string hop_text(const PlanInput& input, const RoutePlan& plan, std::size_t i) {
  if (plan.stages.size() == 1) return "-";
  const std::size_t next = (i + 1) % plan.stages.size();
  const std::size_t from = plan.stages[i].node;
  const std::size_t to = plan.stages[next].node;
  const wire::ProbeFigures* link = input.link(from, to);
  const std::string figures = link != nullptr ? link_text(*link) : "not measured";
  return fmt::format("{} {} {}", figures, next == 0 ? "back to" : "to", input.nodes[to].name);
}

TextTable table_of(const PlanInput& input, const RoutePlan& plan) {
  constexpr bool kRight = true;
  TextTable table({{"NODE"},
                   {"LAYERS"},
                   {"COVER", kRight},
                   {"NEEDS", kRight},
                   {"BUDGET", kRight},
                   {"MS/TOKEN", kRight},
                   {"MS/ROW", kRight},
                   {"LINK"}});
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const PlannedStage& stage = plan.stages[i];
    const PlanNode& node = input.nodes[stage.node];
    table.add({node.name, stage.range.to_string(), bytes_text(stage.cover_bytes),
               bytes_text(stage.need.total()), budget_text(node.offer.budget_bytes),
               ms_text(stage.decode_s), ms_text(stage.row_s), hop_text(input, plan, i)});
  }
  return table;
}

std::string sum_text(const RoutePlan& plan) {
  if (!plan.times_known) return "";
  return fmt::format(
      "slowest is {}, {} ms a token: at most {:.0f} tokens/s of all sessions together; {} ms for a "
      "token through all, {:.0f} tokens/s of one session\n",
      plan.slowest, ms_text(plan.slowest_s), 1 / plan.slowest_s, ms_text(plan.token_s),
      1 / plan.token_s);
}

Json milliseconds(double seconds) {
  return seconds > 0 ? Json(seconds * 1e3) : Json();
}

Json stage_json(const PlanInput& input, const PlannedStage& stage) {
  const PlanNode& node = input.nodes[stage.node];
  Json json = {{"node", node.name},
               {"layers", stage.range.to_string()},
               {"cover_bytes", stage.cover_bytes},
               {"need",
                {{"weight_bytes", stage.need.weight_bytes},
                 {"kv_bytes", stage.need.kv_bytes},
                 {"scratch_bytes", stage.need.scratch_bytes},
                 {"total_bytes", stage.need.total()}}},
               {"decode_ms", milliseconds(stage.decode_s)},
               {"row_ms", milliseconds(stage.row_s)},
               {"link_ms", milliseconds(stage.link_s)},
               {"speed", node.offer.measured}};
  json["budget_bytes"] =
      node.offer.budget_bytes == wire::kNoLimit ? Json() : Json(node.offer.budget_bytes);
  return json;
}

Json links_json(const PlanInput& input) {
  Json links = Json::array();
  for (std::size_t from = 0; from < input.nodes.size(); ++from) {
    for (std::size_t to = 0; to < input.nodes.size(); ++to) {
      const wire::ProbeFigures* link = input.link(from, to);
      if (link == nullptr) continue;
      links.push_back({{"from", input.nodes[from].name},
                       {"to", input.nodes[to].name},
                       {"round_trip_us", link->round_trip_us},
                       {"bytes_per_s", link->bytes_per_s},
                       {"probe_bytes", link->probe_bytes}});
    }
  }
  return links;
}

}  // namespace

std::string plan_text(const PlanInput& input, const RoutePlan& plan) {
  std::string out;
  for (const std::string& line : table_of(input, plan).lines(std::string::npos)) out += line + "\n";
  out += sum_text(plan);
  for (const std::string& reason : plan.reasons) out += reason + "\n";
  std::string command = "ds4ctl assign";
  for (const PlannedStage& stage : plan.stages) {
    const PlanNode& node = input.nodes[stage.node];
    command += fmt::format(" {}={}", node.name, stage.range.to_string());
    if (!node.offer.measured.empty()) {
      out += fmt::format("{}: speed {}\n", node.name, node.offer.measured);
    }
  }
  for (const std::string& note : plan.notes) out += "note: " + note + "\n";
  return out + command + "\n";
}

std::string plan_json(const PlanInput& input, const RoutePlan& plan, int indent) {
  Json stages = Json::array();
  for (const PlannedStage& stage : plan.stages) stages.push_back(stage_json(input, stage));
  const Json json = {{"stages", std::move(stages)},
                     {"links", links_json(input)},
                     {"slowest", plan.slowest},
                     {"slowest_ms", milliseconds(plan.slowest_s)},
                     {"token_ms", milliseconds(plan.token_s)},
                     {"reasons", plan.reasons},
                     {"notes", plan.notes}};
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace ds4::ctl
