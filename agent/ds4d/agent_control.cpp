// The agent's answers to ds4ctl.

#include <chrono>
#include <string>
#include <variant>

#include "agent/ds4d/agent.h"
#include "agent/ds4d/request_id.h"
#include "agent/log/log.h"

namespace ds4::agent {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_answered_later(const wire::Request& request) {
  return std::holds_alternative<wire::OfferRequest>(request.body) ||
         std::holds_alternative<wire::ProbeRequest>(request.body);
}

bool concerns_keys(const wire::Request& request) {
  return std::holds_alternative<wire::KeysRequest>(request.body) ||
         std::holds_alternative<wire::TrustRequest>(request.body) ||
         std::holds_alternative<wire::RevokeRequest>(request.body);
}

}  // namespace

void Agent::on_control(const Incoming& message) {
  wire::Reply reply;
  const std::string_view text = text_of(message.parts[0]);
  auto request = wire::decode_request(text);
  if (request) {
    reply.id = request->id;
    if (!message.may_command) {
      reply.error = Error{ErrorCode::kPermission,
                          "this key is a node's of the route, and may not command its agents"};
    } else {
      if (auto handled = handle(*request, {std::string(message.sender), request->id}); !handled) {
        reply.error = std::move(handled).error();
      } else if (is_answered_later(*request)) {
        return;
      }
      const auto* asked = std::get_if<wire::StatusRequest>(&request->body);
      reply.status = status(asked != nullptr ? *asked : wire::StatusRequest{});
      if (concerns_keys(*request)) reply.keys = known_keys();
    }
    if (reply.error) {
      log(LogLevel::kNotice, "{} refused: {}", name_of(*request), reply.error->message);
    }
  } else {
    const auto id = read_request_id(text);
    if (!id) return;  // nobody could tell what this would answer
    reply.id = *id;
    reply.error = std::move(request).error();
  }
  links_->reply(message.sender, encode(reply));
}

template <typename Event>
Result<void> Agent::change(Event&& event) {
  RouteMachine next = *machine_;
  DS4_ASSIGN(Actions actions, event(next));
  if (next.ledger() != machine_->ledger()) {
    if (auto saved = ledger_file_->save(next.ledger()); !saved) {
      return fail(std::move(saved).error(), "nothing was changed, because it could not be kept");
    }
  }
  machine_ = std::move(next);
  act(std::move(actions));
  plane_->flush();
  publish();
  return {};
}

Result<void> Agent::handle(const wire::Request& request, const Asker& asker) {
  const auto now = std::chrono::steady_clock::now();
  if (const auto* body = std::get_if<wire::PrepareRequest>(&request.body)) return prepare(*body);
  if (const auto* body = std::get_if<wire::CommitRequest>(&request.body)) {
    return change([&](RouteMachine& machine) { return machine.commit(body->epoch, now); });
  }
  if (const auto* body = std::get_if<wire::AbortRequest>(&request.body)) {
    return change(
        [&](RouteMachine& machine) -> Result<Actions> { return machine.abort(body->epoch); });
  }
  if (std::holds_alternative<wire::ReleaseRequest>(request.body)) {
    return change([](RouteMachine& machine) -> Result<Actions> { return machine.release(); });
  }
  if (const auto* body = std::get_if<wire::DrainRequest>(&request.body)) {
    plane_->set_draining(body->on);
    log(LogLevel::kNotice, "{}",
        body->on ? "draining: local programs get no new requests answered" : "no longer draining");
    return {};
  }
  if (const auto* body = std::get_if<wire::TrustRequest>(&request.body)) return trust(*body);
  if (const auto* body = std::get_if<wire::RevokeRequest>(&request.body)) return revoke(*body);
  if (const auto* body = std::get_if<wire::OfferRequest>(&request.body)) {
    return ask_offer(*body, asker);
  }
  if (const auto* body = std::get_if<wire::ExpectRequest>(&request.body)) {
    return expect_probes(*body, asker);
  }
  if (const auto* body = std::get_if<wire::ProbeRequest>(&request.body)) {
    return start_probe(*body, asker);
  }
  return {};  // status comes with every reply; so do keys with those about them
}

Result<void> Agent::prepare(const wire::PrepareRequest& request) {
  DS4_TRY(follow_model_file());
  DS4_ASSIGN(const Assignment assignment, check_prepare(request, facts_));
  DS4_TRY(check_not_revoked(assignment));
  if (surely_takes_host_memory(config_)) {  // else the load finds out, once it knows the GPU
    DS4_TRY(check_memory(range_of(assignment, params_.n_layer)));
  }
  return change([&](RouteMachine& machine) { return machine.prepare(assignment); });
}

wire::NodeStatus Agent::status(const wire::StatusRequest& asked) {
  StatusInputs inputs{.facts = facts_, .machine = *machine_};
  inputs.stage = plane_->stage();
  inputs.load = loader_->progress();
  inputs.spans = asked.spans;
  inputs.audit = asked.audit;
  inputs.kv_formula = kv_formula();
  const Assignment* shown = machine_->committed();
  if (shown == nullptr) shown = machine_->preparing();
  if (shown != nullptr) {
    if (const auto found = covers_.find(shown->epoch); found != covers_.end()) {
      inputs.cover = &found->second;
    }
    if (const auto found = prepared_.find(shown->epoch); found != prepared_.end()) {
      inputs.weights = found->second.weights.get();
    }
  }
  if (plane_->weights() != nullptr) inputs.weights = plane_->weights();
  wire::NodeStatus status = report_status(inputs, residency_);
  status.requests = plane_->active_requests();
  status.draining = plane_->draining();
  status.stage = plane_->stage_figures();
  status.links = links_->figures();
  status.clients = plane_->client_figures();
  status.dropped_messages = links_->dropped();
  return status;
}

}  // namespace ds4::agent
