#include "agent/wire/status_json.h"

#include <array>

namespace ds4::wire {
namespace {

// More than any model has tensors; bounds what a peer can make us hold.
constexpr std::size_t kMaxIntervals = 32768;

constexpr std::array kNodeStates = {
    NodeState::kIdle,  NodeState::kLoading,  NodeState::kPrepared, NodeState::kJoining,
    NodeState::kReady, NodeState::kDegraded, NodeState::kFailed,   NodeState::kStopping,
};
constexpr std::array kPreparePhases = {PreparePhase::kLoading, PreparePhase::kPrepared,
                                       PreparePhase::kFailed};

template <typename Enum, std::size_t N>
void read_enum(Fields& fields, const char* key, const std::array<Enum, N>& all, Enum& out) {
  std::string text;
  fields.name(key, text);
  for (const Enum one : all) {
    if (to_string(one) == text) {
      out = one;
      return;
    }
  }
  fields.reject(key, "one of the known states");
}

Json to_json(const ByteInterval& interval) {
  return {{"offset", interval.offset}, {"bytes", interval.bytes}};
}

Json to_json(const IntervalReport& interval) {
  return {{"offset", interval.offset},
          {"bytes", interval.bytes},
          {"mapped_bytes", interval.mapped_bytes},
          {"incore_bytes", interval.incore_bytes},
          {"locked_bytes", interval.locked_bytes},
          {"registered_bytes", interval.registered_bytes},
          {"device_bytes", interval.device_bytes}};
}

Json to_json(const ResidentReport& resident) {
  Json json = {{"strategy", resident.strategy},
               {"mapped_bytes", resident.mapped_bytes},
               {"incore_bytes", resident.incore_bytes},
               {"locked_bytes", resident.locked_bytes},
               {"registered_bytes", resident.registered_bytes},
               {"device_bytes", resident.device_bytes},
               {"outside_cover_bytes", resident.outside_cover_bytes},
               {"load_peak_bytes", resident.load_peak_bytes},
               {"group_peak_bytes", resident.group_peak_bytes},
               {"read_bytes", resident.read_bytes},
               {"kept_bytes", resident.kept_bytes},
               {"adopted_bytes", resident.adopted_bytes},
               {"load_us", resident.load_us},
               {"note", resident.note}};
  if (resident.intervals.empty()) return json;
  Json& intervals = json["intervals"] = Json::array();
  for (const IntervalReport& interval : resident.intervals) intervals.push_back(to_json(interval));
  return json;
}

Json to_json(const Preparation& preparation) {
  return {{"epoch", preparation.epoch},
          {"phase", to_string(preparation.phase)},
          {"layers", preparation.layers},
          {"detail", preparation.detail}};
}

void read(Fields& fields, ByteInterval& interval) {
  fields.u64("offset", interval.offset);
  fields.u64("bytes", interval.bytes);
}

void read(Fields& fields, CoverReport& cover) {
  fields.u64("file_bytes", cover.file_bytes);
  fields.u64("page_bytes", cover.page_bytes);
  fields.u64("tensor_bytes", cover.tensor_bytes);
  fields.u64("cover_bytes", cover.cover_bytes);
  fields.u64("spans", cover.spans);
  fields.array("intervals", kMaxIntervals,
               [&](Fields& inner) { read(inner, cover.intervals.emplace_back()); });
  fields.object("hull", [&](Fields& inner) { read(inner, cover.hull); });
}

void read(Fields& fields, IntervalReport& interval) {
  fields.u64("offset", interval.offset);
  fields.u64("bytes", interval.bytes);
  fields.u64("mapped_bytes", interval.mapped_bytes);
  fields.u64("incore_bytes", interval.incore_bytes);
  fields.u64("locked_bytes", interval.locked_bytes);
  fields.u64("registered_bytes", interval.registered_bytes);
  fields.u64("device_bytes", interval.device_bytes);
}

void read(Fields& fields, ResidentReport& resident) {
  fields.name("strategy", resident.strategy);
  fields.text("note", resident.note);
  fields.u64("registered_bytes", resident.registered_bytes);
  fields.u64("group_peak_bytes", resident.group_peak_bytes);
  fields.u64("read_bytes", resident.read_bytes);
  fields.u64("kept_bytes", resident.kept_bytes);
  fields.u64("adopted_bytes", resident.adopted_bytes);
  fields.u64("load_us", resident.load_us);
  if (fields.has("intervals")) {
    fields.array("intervals", kMaxIntervals,
                 [&](Fields& inner) { read(inner, resident.intervals.emplace_back()); });
  }
  fields.u64("mapped_bytes", resident.mapped_bytes);
  fields.u64("incore_bytes", resident.incore_bytes);
  fields.u64("locked_bytes", resident.locked_bytes);
  fields.u64("device_bytes", resident.device_bytes);
  fields.u64("outside_cover_bytes", resident.outside_cover_bytes);
  fields.u64("load_peak_bytes", resident.load_peak_bytes);
}

void read(Fields& fields, Preparation& preparation) {
  fields.u64("epoch", preparation.epoch);
  read_enum(fields, "phase", kPreparePhases, preparation.phase);
  fields.name("layers", preparation.layers);
  fields.text("detail", preparation.detail);
}

}  // namespace

std::string_view to_string(NodeState state) {
  switch (state) {
    case NodeState::kIdle:
      return "idle";
    case NodeState::kLoading:
      return "loading";
    case NodeState::kPrepared:
      return "prepared";
    case NodeState::kJoining:
      return "joining";
    case NodeState::kReady:
      return "ready";
    case NodeState::kDegraded:
      return "degraded";
    case NodeState::kFailed:
      return "failed";
    case NodeState::kStopping:
      return "stopping";
  }
  return "unknown";
}

std::string_view to_string(PreparePhase phase) {
  switch (phase) {
    case PreparePhase::kLoading:
      return "loading";
    case PreparePhase::kPrepared:
      return "prepared";
    case PreparePhase::kFailed:
      return "failed";
  }
  return "unknown";
}

Json to_json(const CoverReport& cover) {
  Json intervals = Json::array();
  for (const ByteInterval& interval : cover.intervals) intervals.push_back(to_json(interval));
  return {{"file_bytes", cover.file_bytes},
          {"page_bytes", cover.page_bytes},
          {"tensor_bytes", cover.tensor_bytes},
          {"cover_bytes", cover.cover_bytes},
          {"spans", cover.spans},
          {"intervals", std::move(intervals)},
          {"hull", to_json(cover.hull)}};
}

Json to_json(const std::vector<StageSpec>& route) {
  Json stages = Json::array();
  for (const StageSpec& stage : route) {
    stages.push_back({{"node", stage.node},
                      {"address", stage.address},
                      {"layers", stage.layers},
                      {"key", stage.key}});
  }
  return stages;
}

Json to_json(const NodeStatus& status) {
  Json json = {{"name", status.name},
               {"state", to_string(status.state)},
               {"detail", status.detail},
               {"version", status.version},
               {"model", status.model},
               {"fingerprint", status.fingerprint},
               {"block_count", status.block_count},
               {"layers", status.layers},
               {"epoch", status.epoch},
               {"highest_epoch", status.highest_epoch}};
  json["preparation"] = status.preparation ? to_json(*status.preparation) : Json();
  json["cover"] = to_json(status.cover);
  json["resident"] = to_json(status.resident);
  json["sessions"] = status.sessions;
  json["requests"] = status.requests;
  json["draining"] = status.draining;
  json["kv_bytes"] = status.kv_bytes;
  json["kv_formula"] = status.kv_formula;
  json["load"] = {{"bytes_done", status.load.bytes_done},
                  {"bytes_total", status.load.bytes_total},
                  {"seconds_left", status.load.seconds_left}};
  json["route"] = to_json(status.route);
  json["stage"] = to_json(status.stage);
  Json& links = json["links"] = Json::array();
  for (const LinkFigures& link : status.links) links.push_back(to_json(link));
  json["clients"] = to_json(status.clients);
  json["dropped_messages"] = status.dropped_messages;
  return json;
}

void read_route(Fields& fields, std::vector<StageSpec>& route) {
  fields.array("route", kMaxStages, [&](Fields& inner) {
    StageSpec& stage = route.emplace_back();
    inner.name("node", stage.node);
    inner.name("address", stage.address);
    inner.name("layers", stage.layers);
    if (inner.has("key")) inner.name("key", stage.key);  // ledgers of earlier releases have none
  });
}

void read(Fields& fields, NodeStatus& status) {
  fields.name("name", status.name);
  read_enum(fields, "state", kNodeStates, status.state);
  fields.text("detail", status.detail);
  fields.name("version", status.version);
  fields.text("model", status.model);
  fields.name("fingerprint", status.fingerprint);
  fields.u64("block_count", status.block_count);
  fields.name("layers", status.layers);
  fields.u64("epoch", status.epoch);
  fields.u64("highest_epoch", status.highest_epoch);
  if (fields.has("preparation")) {
    fields.object("preparation", [&](Fields& inner) { read(inner, status.preparation.emplace()); });
  }
  fields.object("cover", [&](Fields& inner) { read(inner, status.cover); });
  fields.object("resident", [&](Fields& inner) { read(inner, status.resident); });
  fields.u64("sessions", status.sessions);
  fields.u64("requests", status.requests);
  fields.boolean("draining", status.draining);
  fields.u64("kv_bytes", status.kv_bytes);
  fields.text("kv_formula", status.kv_formula);
  fields.object("load", [&](Fields& inner) {
    inner.u64("bytes_done", status.load.bytes_done);
    inner.u64("bytes_total", status.load.bytes_total);
    inner.u64("seconds_left", status.load.seconds_left);
  });
  read_route(fields, status.route);
  fields.object("stage", [&](Fields& inner) { read(inner, status.stage); });
  fields.array("links", kMaxStages,
               [&](Fields& inner) { read(inner, status.links.emplace_back()); });
  fields.object("clients", [&](Fields& inner) { read(inner, status.clients); });
  fields.u64("dropped_messages", status.dropped_messages);
}

std::string to_json_text(const NodeStatus& status, int indent) {
  return dump(to_json(status), indent);
}

std::string to_json_text(const CoverReport& cover, int indent) {
  return dump(to_json(cover), indent);
}

}  // namespace ds4::wire
