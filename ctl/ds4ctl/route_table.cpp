#include "ctl/ds4ctl/route_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/base/bytes_text.h"

namespace ds4::ctl {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kAnyWidth = 100'000;

std::string bytes_rate_text(double bytes_s) {
  return bytes_text(static_cast<std::uint64_t>(std::llround(bytes_s))) + "/s";
}

std::vector<std::string> row_of(const Hop& hop) {
  std::vector<std::string> row = {hop.stage.node, hop.stage.layers};
  row.push_back(hop.now != nullptr ? std::string(to_string(hop.now->state)) : "unreachable");
  if (hop.rates) {
    const HopRates& rates = *hop.rates;
    row.insert(row.end(), {share_text(rates.compute_share), share_text(rates.wait_share),
                           share_text(rates.send_share), milliseconds_text(rates.queue_ms)});
  } else {
    row.insert(row.end(), 4, "-");
  }
  row.push_back(hop.now != nullptr ? fmt::format("{}", hop.now->stage.waiting_rows) : "-");
  if (hop.rates) {
    const HopRates& rates = *hop.rates;
    row.insert(row.end(), {rate_text(rates.decode_rows_s), rate_text(rates.prefill_rows_s),
                           bytes_rate_text(rates.sent_bytes_s)});
  } else {
    row.insert(row.end(), 3, "-");
  }
  row.push_back(hop.next.empty() ? "-" : hop.next);
  row.push_back(hop.round_trip_ms ? milliseconds_text(*hop.round_trip_ms) : "-");
  row.push_back(hop.trouble);
  return row;
}

std::string state_sentence(const RouteFigures& figures) {
  for (const Hop& hop : figures.hops) {
    if (hop.now == nullptr) return fmt::format("{} does not answer", hop.stage.node);
    if (hop.now->epoch != figures.epoch) {
      return fmt::format("{} serves epoch {}", hop.stage.node, hop.now->epoch);
    }
    if (hop.now->state != wire::NodeState::kReady) {
      return fmt::format("{} is {}", hop.stage.node, to_string(hop.now->state));
    }
  }
  return "ready";
}

Json json_of(const HopRates& rates) {
  return {{"seconds", rates.seconds},
          {"compute_share", rates.compute_share},
          {"wait_share", rates.wait_share},
          {"send_share", rates.send_share},
          {"queue_ms", rates.queue_ms},
          {"send_ms", rates.send_ms},
          {"decode_rows_s", rates.decode_rows_s},
          {"prefill_rows_s", rates.prefill_rows_s},
          {"tokens_s", rates.tokens_s},
          {"sent_bytes_s", rates.sent_bytes_s},
          {"received_bytes_s", rates.received_bytes_s},
          {"sent_frames_s", rates.sent_frames_s}};
}

Json json_of(const Hop& hop) {
  Json json = {{"node", hop.stage.node},
               {"address", hop.stage.address},
               {"layers", hop.stage.layers},
               {"state", hop.now != nullptr ? to_string(hop.now->state) : "unreachable"},
               {"detail", hop.now != nullptr ? hop.now->detail : hop.trouble},
               {"next", hop.next}};
  json["round_trip_ms"] = hop.round_trip_ms ? Json(*hop.round_trip_ms) : Json();
  json["rates"] = hop.rates ? json_of(*hop.rates) : Json();
  json["totals"] = Json();
  if (hop.now != nullptr) {
    const Json status = Json::parse(wire::to_json_text(*hop.now, -1));
    json["totals"] = status.at("stage");
    json["links"] = status.at("links");
    json["sessions"] = hop.now->sessions;
    json["kv_bytes"] = hop.now->kv_bytes;
  }
  return json;
}

Json json_of(const std::optional<double>& value) {
  return value ? Json(*value) : Json();
}

}  // namespace

std::string share_text(double share) {
  return fmt::format("{:.0f} %", 100 * share);
}

std::string milliseconds_text(double time_ms) {
  return fmt::format("{:.{}f} ms", time_ms, time_ms < 10 ? 2 : 0);
}

std::string rate_text(double per_second) {
  return fmt::format("{:.1f}", per_second);
}

TextTable hop_table(const RouteFigures& figures) {
  TextTable table({{"NODE"},
                   {"LAYERS", false, 6},
                   {"STATE", false, 5},
                   {"COMPUTE", true},
                   {"WAIT", true},
                   {"SEND", true, 1},
                   {"QUEUE", true, 2},
                   {"WAITING", true, 8},
                   {"DECODE/s", true, 3},
                   {"PREFILL/s", true, 4},
                   {"SENT", true, 7},
                   {"TO", false, 10},
                   {"ROUND TRIP", true, 9},
                   {"", false, 11}});
  for (const Hop& hop : figures.hops) table.add(row_of(hop));
  return table;
}

std::string route_text(const RouteFigures& figures) {
  if (figures.epoch == 0) return "no route: nobody has committed one\n";
  std::string text = fmt::format("epoch {}: {}", figures.epoch, state_sentence(figures));
  if (figures.tokens_s) text += fmt::format(", {} tokens/s", rate_text(*figures.tokens_s));
  if (figures.prefill_tokens_s) {
    text += fmt::format(", {} prompt tokens/s", rate_text(*figures.prefill_tokens_s));
  }
  if (const auto& rates = figures.hops.back().rates) {
    text += fmt::format(", in the last {:.1f} s", rates->seconds);
  }
  text += '\n';
  for (const std::string& line : hop_table(figures).lines(kAnyWidth)) text += line + '\n';
  return text;
}

std::string route_json(const RouteFigures& figures, int indent) {
  Json json;
  json["epoch"] = figures.epoch;
  json["tokens_s"] = json_of(figures.tokens_s);
  json["prefill_tokens_s"] = json_of(figures.prefill_tokens_s);
  Json& hops = json["hops"] = Json::array();
  for (const Hop& hop : figures.hops) hops.push_back(json_of(hop));
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool all_hops_answer(const RouteFigures& figures) {
  return !figures.hops.empty() && std::all_of(figures.hops.begin(), figures.hops.end(),
                                              [](const Hop& hop) { return hop.now != nullptr; });
}

}  // namespace ds4::ctl
