#include "agent/metrics/prometheus.h"

#include <fmt/format.h>

#include <array>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <string_view>
#include <utility>

namespace ds4::agent {
namespace {

using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

std::string escaped(std::string_view value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

/// Families one after the other, each with its help and type before its samples.
class Families {
 public:
  Families& gauge(std::string_view name, std::string_view help) {
    return begin(name, help, "gauge");
  }
  /// By Prometheus' convention its name ends with _total.
  Families& counter(std::string_view name, std::string_view help) {
    return begin(name, help, "counter");
  }
  Families& sample(std::uint64_t value, Labels labels = {}) {
    return line(fmt::format("{}", value), labels);
  }
  Families& seconds(std::uint64_t microseconds, Labels labels = {}) {
    return line(fmt::format("{}.{:06}", microseconds / 1'000'000, microseconds % 1'000'000),
                labels);
  }
  std::string take() { return std::move(out_); }

 private:
  Families& begin(std::string_view name, std::string_view help, std::string_view type) {
    name_ = name;
    fmt::format_to(std::back_inserter(out_), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
    return *this;
  }
  Families& line(std::string_view value, Labels labels) {
    out_ += name_;
    char before = '{';
    for (const auto& [key, text] : labels) {
      fmt::format_to(std::back_inserter(out_), "{}{}=\"{}\"", before, key, escaped(text));
      before = ',';
    }
    if (labels.size() > 0) out_ += '}';
    fmt::format_to(std::back_inserter(out_), " {}\n", value);
    return *this;
  }

  std::string name_;
  std::string out_;
};

void put_node(const wire::NodeStatus& status, Families& out) {
  using wire::NodeState;
  out.gauge("ds4d_info", "Always 1; what this node is.")
      .sample(1, {{"node", status.name},
                  {"version", status.version},
                  {"fingerprint", status.fingerprint},
                  {"layers", status.layers}});
  out.gauge("ds4d_ready", "1 if a canary token has crossed the route as it is now.")
      .sample(status.state == NodeState::kReady);
  out.gauge("ds4d_state", "1 for the state that the node is in.");
  for (const NodeState state :
       {NodeState::kIdle, NodeState::kLoading, NodeState::kPrepared, NodeState::kJoining,
        NodeState::kReady, NodeState::kDegraded, NodeState::kFailed, NodeState::kStopping}) {
    out.sample(status.state == state, {{"state", to_string(state)}});
  }
  out.gauge("ds4d_epoch", "Of the committed route; 0 if there was none yet.").sample(status.epoch);
  out.gauge("ds4d_draining", "1 while new requests are refused for planned work.")
      .sample(status.draining);
}

void put_memory(const wire::NodeStatus& status, Families& out) {
  const wire::ResidentReport& resident = status.resident;
  out.gauge("ds4d_cover_bytes", "Of the model file that the node's layers take.")
      .sample(status.cover.cover_bytes);
  out.gauge("ds4d_resident_bytes", "Of them, in host memory when the kernel was last asked.")
      .sample(resident.incore_bytes);
  out.gauge("ds4d_locked_bytes", "Of them, locked there.").sample(resident.locked_bytes);
  out.gauge("ds4d_device_bytes", "Of them, in a GPU's memory.").sample(resident.device_bytes);
  out.gauge("ds4d_outside_cover_bytes", "Of the model file mapped that are not the node's.")
      .sample(resident.outside_cover_bytes);
  out.gauge("ds4d_load_done_bytes", "Of the load going on, or of the last one.")
      .sample(status.load.bytes_done);
  out.gauge("ds4d_load_size_bytes", "What that load has to make resident.")
      .sample(status.load.bytes_total);
  out.gauge("ds4d_kv_bytes", "That the caches of sessions take.").sample(status.kv_bytes);
}

void put_clients(const wire::NodeStatus& status, Families& out) {
  const wire::ClientFigures& clients = status.clients;
  out.gauge("ds4d_clients", "Local programs that are connected.").sample(clients.connected);
  out.gauge("ds4d_requests_active", "Requests of local programs that have not ended.")
      .sample(status.requests);
  out.counter("ds4d_requests_total", "Requests of local programs that have ended.")
      .sample(clients.requests);
  out.counter("ds4d_requests_failed_total", "Of them, those that ended with an error.")
      .sample(clients.failed);
  out.counter("ds4d_prompt_tokens_total", "Tokens of their prompts.").sample(clients.prompt_tokens);
  out.counter("ds4d_tokens_total", "Tokens of their answers.").sample(clients.tokens);
}

void put_stage(const wire::NodeStatus& status, Families& out) {
  const wire::StageFigures& stage = status.stage;
  out.gauge("ds4d_sessions", "Sessions that the stage holds caches of.").sample(status.sessions);
  out.gauge("ds4d_stored_sessions", "Sessions whose caches were put away on disk.")
      .sample(stage.stored_sessions);
  out.gauge("ds4d_stored_bytes", "That their files take.").sample(stage.stored_bytes);
  out.counter("ds4d_session_saves_total", "Caches written to disk.").sample(stage.saves);
  out.counter("ds4d_session_restores_total", "Sessions that went on from disk.")
      .sample(stage.restores);
  out.gauge("ds4d_waiting_rows", "Rows that wait for a batch.").sample(stage.waiting_rows);
  out.counter("ds4d_batches_total", "Passes through the node's layers.").sample(stage.batches);
  out.counter("ds4d_rows_total", "Rows that went through the node's layers.")
      .sample(stage.decode_rows, {{"kind", "decode"}})
      .sample(stage.prefill_rows, {{"kind", "prefill"}});
  out.counter("ds4d_sampled_tokens_total", "Tokens drawn, on the node with the output head.")
      .sample(stage.tokens);
  out.counter("ds4d_compute_seconds_total", "Inside passes.").seconds(stage.compute_us);
  out.counter("ds4d_wait_seconds_total", "Without work between passes, with sessions open.")
      .seconds(stage.wait_us);
  out.counter("ds4d_queue_seconds_total", "From the arrival of work to its pass, summed up.")
      .seconds(stage.queue_us);
  out.counter("ds4d_queue_items_total", "Pieces of work that ds4d_queue_seconds_total is of.")
      .sample(stage.queue_items);
  out.counter("ds4d_send_seconds_total", "From the end of a pass to its sending, summed up.")
      .seconds(stage.send_us);
  out.counter("ds4d_send_frames_total", "Frames that ds4d_send_seconds_total is of.")
      .sample(stage.send_frames);
}

void put_links(const wire::NodeStatus& status, Families& out) {
  using Member = std::uint64_t wire::LinkFigures::*;
  struct Family {
    std::string_view name;
    std::string_view help;
    Member member;
  };
  constexpr std::array kFamilies = {
      Family{"ds4d_link_sent_bytes_total", "To another node of the route, pings not counted.",
             &wire::LinkFigures::bytes_sent},
      Family{"ds4d_link_sent_frames_total", "To another node of the route, pings not counted.",
             &wire::LinkFigures::frames_sent},
      Family{"ds4d_link_received_bytes_total", "From another node of the route, proven by its key.",
             &wire::LinkFigures::bytes_received},
      Family{"ds4d_link_received_frames_total",
             "From another node of the route, proven by its key.",
             &wire::LinkFigures::frames_received}};
  for (const Family& family : kFamilies) {
    out.counter(family.name, family.help);
    for (const wire::LinkFigures& link : status.links) {
      out.sample(link.*family.member, {{"peer", link.node}});
    }
  }
  out.gauge("ds4d_link_round_trip_seconds", "Of the last ping to another node of the route.");
  for (const wire::LinkFigures& link : status.links) {
    if (link.round_trip_us > 0) out.seconds(link.round_trip_us, {{"peer", link.node}});
  }
  out.counter("ds4d_dropped_messages_total", "From the network, refused or not understood.")
      .sample(status.dropped_messages);
}

}  // namespace

std::string prometheus_text(const wire::NodeStatus& status) {
  Families out;
  put_node(status, out);
  put_memory(status, out);
  put_clients(status, out);
  put_stage(status, out);
  put_links(status, out);
  return out.take();
}

}  // namespace ds4::agent
