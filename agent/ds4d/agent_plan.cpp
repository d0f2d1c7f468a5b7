// What the agent tells a planner: its memory, its speed, its way to other agents. Measuring takes a
// moment and happens on other threads, so these answers are sent when they are known.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "agent/ds4d/agent.h"
#include "agent/log/log.h"
#include "agent/plan/layer_loads.h"
#include "engine/residency/span_map.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostAskers = 32;

Result<keys::PublicKey> parse_node_key(const std::string& text) {
  DS4_ASSIGN(const keys::PublicKey key, keys::parse_public_key(text));
  if (key.role != keys::KeyRole::kNode) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{} is not a node's key", text));
  }
  return key;
}

}  // namespace

void Agent::answer(const Asker& asker, wire::Reply reply) {
  reply.id = asker.id;
  reply.status = status({.audit = false});
  links_->reply(asker.sender, encode(reply));
}

// ---- offers ----------------------------------------------------------------------------------

Result<void> Agent::ask_offer(const wire::OfferRequest& request, const Asker& asker) {
  if (machine_->state() == wire::NodeState::kLoading ||
      (machine_->preparing() != nullptr &&
       machine_->preparation()->phase == wire::PreparePhase::kLoading)) {
    return fail(ErrorCode::kUnavailable,
                "this node is loading layers: ask again when it has them, `ds4ctl status` tells");
  }
  // The layers of a preparation that somebody left may have come from another file.
  std::optional<LayerRange> held;
  if (plane_->weights() != nullptr && machine_->preparing() == nullptr) {
    held = plane_->weights()->range();
  }
  const bool known = measured_ && (measured_on_layers_ || !held);
  if (known && !request.measure) {
    wire::Reply reply;
    DS4_ASSIGN(reply.offer, make_offer());
    answer(asker, std::move(reply));
    return {};
  }
  if (offer_askers_.size() >= kMostAskers) {
    return fail(ErrorCode::kUnavailable, "too many ask for this node's speed: ask again");
  }
  if (offer_askers_.empty()) {
    DS4_ASSIGN(auto loads, own_layer_loads());
    loader_->measure(held, std::move(loads));
    measured_on_layers_ = held.has_value();
  }
  offer_askers_.push_back(asker);
  return {};
}

void Agent::take_measured() {
  auto measured = loader_->take_measured();
  if (!measured) return;
  wire::Reply reply;
  if (*measured) {
    measured_ = **std::move(measured);
    if (auto offer = make_offer()) {
      reply.offer = *std::move(offer);
    } else {
      reply.error = std::move(offer).error();
    }
  } else {
    reply.error = std::move(*measured).error();
  }
  for (const Asker& asker : std::exchange(offer_askers_, {})) answer(asker, reply);
}

Result<std::vector<wire::LayerLoad>> Agent::own_layer_loads() const {
  plan::LoadSettings settings;
  settings.graph = config_.engine.graph;
  settings.context = config_.engine.context;
  settings.kv_fixed = config_.memory.kv_mib > 0;
  settings.page_bytes = system_page_bytes();
  const Residence* serving = plane_->weights();
  return plan::layer_loads(
      model_->gguf(), params_, settings,
      serving != nullptr ? serving->cover().intervals() : std::span<const Interval>());
}

Result<wire::NodeOffer> Agent::make_offer() const {
  const Residence* serving = plane_->weights();
  wire::NodeOffer offer;
  offer.held_bytes = serving != nullptr ? serving->cover().cover_bytes() : 0;
  offer.device_memory = !measured_->host_memory;
  offer.budget_bytes =
      measured_->host_memory ? host_budget() : measured_->device_free_bytes + offer.held_bytes;
  offer.kv_fixed_bytes = std::uint64_t{config_.memory.kv_mib} << 20;
  offer.scratch_bytes = plan::scratch_bytes(params_, config_.engine.max_rows);
  offer.page_bytes = system_page_bytes();
  offer.context = config_.engine.context;
  offer.max_rows = config_.engine.max_rows;
  offer.graph = to_string(config_.engine.graph);
  offer.stream_row_bytes = plan::stream_row_bytes(params_);
  if (config_.link.activations == wire::Activations::kBf16) offer.stream_row_bytes /= 2;
  DS4_ASSIGN(offer.layers, own_layer_loads());
  offer.rates = measured_->rates;
  offer.overall = measured_->overall;
  offer.measured = measured_->how;
  return offer;
}

// ---- probes ----------------------------------------------------------------------------------

Result<void> Agent::expect_probes(const wire::ExpectRequest& request, const Asker& asker) {
  std::vector<keys::KeyBytes> probers;
  for (const std::string& text : request.keys) {
    DS4_ASSIGN(const keys::PublicKey key, parse_node_key(text));
    probers.push_back(key.bytes);
  }
  DS4_TRY(expected_probers_.expect(asker.sender, std::move(probers), Clock::now()));
  gate_.set_probers(expected_probers_.probers());
  return {};
}

void Agent::forget_probers() {
  if (expected_probers_.expire(Clock::now())) gate_.set_probers(expected_probers_.probers());
}

Result<void> Agent::start_probe(const wire::ProbeRequest& request, const Asker& asker) {
  if (prober_.busy()) {
    return fail(ErrorCode::kUnavailable, "this node is measuring another link: ask again");
  }
  DS4_TRY(check_address(request.address));
  ProbeTarget target{request.address};
  if (request.key.empty() == key_.has_value()) {
    return fail(ErrorCode::kMismatch,
                key_ ? "this node links with encryption: the probe needs the other node's key"
                     : "this node links without encryption (insecure = true): the probe has a key");
  }
  if (key_) {
    DS4_ASSIGN(target.key, parse_node_key(request.key));
    if (gate_.list().is_revoked(target.key->bytes)) {
      return fail(ErrorCode::kPermission, "that node's key was revoked here");
    }
  }
  DS4_TRY(prober_.start(std::move(target), key_));
  probe_asker_ = asker;
  return {};
}

void Agent::take_probe() {
  auto outcome = prober_.take();
  if (!outcome) return;
  wire::Reply reply;
  if (*outcome) {
    reply.probe = **outcome;
  } else {
    reply.error = std::move(*outcome).error();
  }
  answer(probe_asker_, std::move(reply));
}

}  // namespace ds4::agent
