#include "agent/wire/status_json.h"

namespace ds4::wire {

Json to_json(const StageFigures& stage) {
  return {{"clock_us", stage.clock_us},
          {"batches", stage.batches},
          {"decode_rows", stage.decode_rows},
          {"prefill_rows", stage.prefill_rows},
          {"tokens", stage.tokens},
          {"compute_us", stage.compute_us},
          {"wait_us", stage.wait_us},
          {"queue_us", stage.queue_us},
          {"queue_items", stage.queue_items},
          {"waiting_rows", stage.waiting_rows},
          {"stored_sessions", stage.stored_sessions},
          {"stored_bytes", stage.stored_bytes},
          {"saves", stage.saves},
          {"restores", stage.restores},
          {"send_us", stage.send_us},
          {"send_frames", stage.send_frames}};
}

Json to_json(const LinkFigures& link) {
  return {{"node", link.node},
          {"frames_sent", link.frames_sent},
          {"bytes_sent", link.bytes_sent},
          {"frames_received", link.frames_received},
          {"bytes_received", link.bytes_received},
          {"round_trip_us", link.round_trip_us}};
}

Json to_json(const ClientFigures& clients) {
  return {{"connected", clients.connected},
          {"requests", clients.requests},
          {"failed", clients.failed},
          {"prompt_tokens", clients.prompt_tokens},
          {"tokens", clients.tokens}};
}

void read(Fields& fields, StageFigures& stage) {
  fields.u64("clock_us", stage.clock_us);
  fields.u64("batches", stage.batches);
  fields.u64("decode_rows", stage.decode_rows);
  fields.u64("prefill_rows", stage.prefill_rows);
  fields.u64("tokens", stage.tokens);
  fields.u64("compute_us", stage.compute_us);
  fields.u64("wait_us", stage.wait_us);
  fields.u64("queue_us", stage.queue_us);
  fields.u64("queue_items", stage.queue_items);
  fields.u64("waiting_rows", stage.waiting_rows);
  fields.u64("stored_sessions", stage.stored_sessions);
  fields.u64("stored_bytes", stage.stored_bytes);
  fields.u64("saves", stage.saves);
  fields.u64("restores", stage.restores);
  fields.u64("send_us", stage.send_us);
  fields.u64("send_frames", stage.send_frames);
}

void read(Fields& fields, LinkFigures& link) {
  fields.name("node", link.node);
  fields.u64("frames_sent", link.frames_sent);
  fields.u64("bytes_sent", link.bytes_sent);
  fields.u64("frames_received", link.frames_received);
  fields.u64("bytes_received", link.bytes_received);
  fields.u64("round_trip_us", link.round_trip_us);
}

void read(Fields& fields, ClientFigures& clients) {
  fields.u64("connected", clients.connected);
  fields.u64("requests", clients.requests);
  fields.u64("failed", clients.failed);
  fields.u64("prompt_tokens", clients.prompt_tokens);
  fields.u64("tokens", clients.tokens);
}

}  // namespace ds4::wire
