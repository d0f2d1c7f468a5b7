#include "agent/wire/status_json.h"

namespace ds4::wire {
namespace {

Json to_json(const LayerLoad& layer) {
  return {{"kind", layer.kind},
          {"cover_bytes", layer.cover_bytes},
          {"held_bytes", layer.held_bytes},
          {"kv_bytes", layer.kv_bytes},
          {"decode_bytes", layer.decode_bytes},
          {"row_macs", layer.row_macs}};
}

Json to_json(const SpeedRate& rate) {
  return {{"kind", rate.kind},
          {"decode_bytes_per_s", rate.decode_bytes_per_s},
          {"row_macs_per_s", rate.row_macs_per_s}};
}

template <typename T>
Json array_of(const std::vector<T>& values) {
  Json array = Json::array();
  for (const T& value : values) array.push_back(to_json(value));
  return array;
}

void read(Fields& fields, LayerLoad& layer) {
  fields.u64("kind", layer.kind);
  fields.u64("cover_bytes", layer.cover_bytes);
  fields.u64("held_bytes", layer.held_bytes);
  fields.u64("kv_bytes", layer.kv_bytes);
  fields.u64("decode_bytes", layer.decode_bytes);
  fields.u64("row_macs", layer.row_macs);
}

void read(Fields& fields, SpeedRate& rate) {
  fields.u64("kind", rate.kind);
  fields.u64("decode_bytes_per_s", rate.decode_bytes_per_s);
  fields.u64("row_macs_per_s", rate.row_macs_per_s);
}

}  // namespace

Json to_json(const NodeOffer& offer) {
  return {{"budget_bytes", offer.budget_bytes},
          {"device_memory", offer.device_memory},
          {"held_bytes", offer.held_bytes},
          {"kv_fixed_bytes", offer.kv_fixed_bytes},
          {"scratch_bytes", offer.scratch_bytes},
          {"page_bytes", offer.page_bytes},
          {"context", offer.context},
          {"max_rows", offer.max_rows},
          {"graph", offer.graph},
          {"stream_row_bytes", offer.stream_row_bytes},
          {"layers", array_of(offer.layers)},
          {"rates", array_of(offer.rates)},
          {"overall", to_json(offer.overall)},
          {"measured", offer.measured}};
}

Json to_json(const ProbeFigures& probe) {
  return {{"round_trip_us", probe.round_trip_us},
          {"bytes_per_s", probe.bytes_per_s},
          {"probe_bytes", probe.probe_bytes}};
}

void read(Fields& fields, NodeOffer& offer) {
  fields.u64("budget_bytes", offer.budget_bytes);
  fields.boolean("device_memory", offer.device_memory);
  fields.u64("held_bytes", offer.held_bytes);
  fields.u64("kv_fixed_bytes", offer.kv_fixed_bytes);
  fields.u64("scratch_bytes", offer.scratch_bytes);
  fields.u64("page_bytes", offer.page_bytes);
  fields.u64("context", offer.context);
  fields.u64("max_rows", offer.max_rows);
  fields.name("graph", offer.graph);
  fields.u64("stream_row_bytes", offer.stream_row_bytes);
  fields.array("layers", kMaxLayers,
               [&](Fields& inner) { read(inner, offer.layers.emplace_back()); });
  fields.array("rates", kMaxSpeedRates,
               [&](Fields& inner) { read(inner, offer.rates.emplace_back()); });
  fields.object("overall", [&](Fields& inner) { read(inner, offer.overall); });
  fields.text("measured", offer.measured);
}

void read(Fields& fields, ProbeFigures& probe) {
  fields.u64("round_trip_us", probe.round_trip_us);
  fields.u64("bytes_per_s", probe.bytes_per_s);
  fields.u64("probe_bytes", probe.probe_bytes);
}

}  // namespace ds4::wire
