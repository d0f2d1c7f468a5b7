#include "agent/ds4d/agent.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "agent/config/reload.h"
#include "agent/ds4d/version.h"
#include "agent/keys/key_files.h"
#include "agent/loader/budget.h"
#include "agent/log/log.h"
#include "agent/metrics/prometheus.h"
#include "engine/residency/span_map.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kIdleTurn{500};  // no route, hence no pings
constexpr int kMessagesPerTurn = 256;  // so that clients and the engine are heard in between

/// Below 2^62, so that what counts on from it stays clear of the canaries' bit.
std::uint64_t random_base() {
  std::uint64_t value = 0;
  if (::getrandom(&value, sizeof(value), 0) != static_cast<ssize_t>(sizeof(value))) {
    value = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  }
  return (value >> 2) | 1;
}

ipc::RouteState client_state(wire::NodeState state) {
  switch (state) {
    case wire::NodeState::kIdle:
      return ipc::RouteState::kIdle;
    case wire::NodeState::kLoading:
    case wire::NodeState::kPrepared:
    case wire::NodeState::kJoining:
      return ipc::RouteState::kLoading;
    case wire::NodeState::kReady:
      return ipc::RouteState::kReady;
    case wire::NodeState::kDegraded:
    case wire::NodeState::kFailed:
      return ipc::RouteState::kDegraded;
    case wire::NodeState::kStopping:
      return ipc::RouteState::kStopping;
  }
  return ipc::RouteState::kIdle;
}

LogLevel level_for(wire::NodeState state) {
  switch (state) {
    case wire::NodeState::kFailed:
      return LogLevel::kError;
    case wire::NodeState::kDegraded:
      return LogLevel::kWarning;
    case wire::NodeState::kReady:
      return LogLevel::kNotice;
    default:
      return LogLevel::kInfo;
  }
}

}  // namespace

Agent::Agent(const Config& config, Signals signals, ConfigSource reload)
    : config_(config),
      signals_(std::move(signals)),
      reload_(std::move(reload)),
      instance_(random_base()) {}

Agent::~Agent() = default;

// ---- start -----------------------------------------------------------------------------------

Result<std::unique_ptr<Agent>> Agent::create(const Config& config, Signals signals,
                                             ConfigSource reload) {
  std::unique_ptr<Agent> agent(new Agent(config, std::move(signals), std::move(reload)));
  DS4_TRY(agent->open_model());
  DS4_TRY(agent->open_state());
  DS4_TRY(agent->open_sockets());
  agent->start();
  return agent;
}

Result<void> Agent::open_model() {
  DS4_ASSIGN(model_, ModelFile::open(config_.model));
  auto params = HyperParams::read(model_->gguf());
  if (!params) return fail(std::move(params).error(), config_.model);
  params_ = *std::move(params);
  facts_ = {config_.name, config_.model, model_->fingerprint(), params_.n_layer};
  context_ = config_.engine.context;
  if (params_.context_length > 0 && context_ > params_.context_length) {
    log(LogLevel::kNotice, "engine.context {} is above the model's own {}: using that", context_,
        params_.context_length);
    context_ = params_.context_length;
  }
  return {};
}

Result<void> Agent::open_state() {
  DS4_ASSIGN(ledger_file_, LedgerFile::open(config_.state_dir));
  DS4_TRY(open_keys());  // under the directory's lock
  open_kv_directory();
  DS4_ASSIGN(Ledger ledger, ledger_file_->load());
  if (config_.standalone && ledger == Ledger{}) ledger = standalone_ledger(facts_);
  RouteTiming timing;
  timing.ping = std::chrono::milliseconds(config_.link.ping_ms);
  timing.timeout = std::chrono::milliseconds(config_.link.timeout_ms);
  timing.forget = std::chrono::milliseconds(config_.link.forget_ms);
  machine_.emplace(timing, instance_, ledger);
  return {};
}

Result<void> Agent::open_sockets() {
  const std::uint64_t floats_per_row = std::uint64_t{params_.n_streams} * params_.n_embd;
  LinkConfig link;
  link.address = config_.listen.address;
  // Rows of a peer may be more than ours: as many as the configuration allows anyone.
  link.max_message_bytes = std::max<std::uint64_t>(8U << 20, 4096 * floats_per_row * sizeof(float));
  link.timeout = std::chrono::milliseconds(config_.link.timeout_ms);
  link.key = key_;
  link.activations = config_.link.activations;
  DS4_ASSIGN(links_, Links::bind(link, gate_));
  DS4_TRY(keys::save_card(
      config_.state_dir,
      {config_.name, key_ ? std::optional(key_->public_key) : std::nullopt, links_->address()}));

  EntryConfig entry;
  entry.context = context_;
  entry.prefill_chunk = config_.engine.prefill_chunk;
  entry.session_base = instance_;
  entry.lost_after = std::chrono::milliseconds(config_.link.lost_ms);
  RouteEvents& events = *this;
  plane_ = std::make_unique<DataPlane>(entry, floats_per_row, *links_, events);

  ipc::ServerConfig server;
  server.socket_path = config_.client.socket;
  server.group = config_.client.group;
  DS4_ASSIGN(server_, ipc::Server::listen(server, *plane_));
  plane_->serve(server_.get());
  const auto metadata = model_->metadata_image();
  ipc::ModelCard card;
  card.model = std::filesystem::path(config_.model).filename().string();
  card.limits.vocabulary = params_.n_vocab;
  card.limits.context = context_;
  card.fingerprint = std::strtoull(model_->fingerprint().substr(0, 16).c_str(), nullptr, 16);
  card.metadata = metadata;
  return server_->set_model(card);
}

/// A node that cannot be watched still serves.
void Agent::open_metrics() {
  if (config_.metrics.listen == "off") return;
  auto port = MetricsPort::listen(config_.metrics.listen,
                                  [this] { return prometheus_text(status({.audit = false})); });
  if (!port) {
    log(LogLevel::kError, "no metrics until the next start: {}", port.error().message);
    return;
  }
  metrics_ = *std::move(port);
  log(LogLevel::kInfo, "metrics for this machine's programs: http://{}/metrics",
      metrics_->address());
}

void Agent::start() {
  loader_ = std::make_unique<Loader>(model_, config_, fd_store_);
  service_.emplace(watchdog_interval(), std::chrono::milliseconds(config_.engine.stuck_ms));
  log(LogLevel::kInfo, "ds4d {}: node {}, model {} ({} layers, fingerprint {}), listening on {}",
      kVersion, config_.name, config_.model, params_.n_layer, model_->fingerprint(),
      links_->address());
  if (!key_) {
    log(LogLevel::kWarning,
        "INSECURE: the configuration says insecure = true, so links carry plain text and whoever "
        "reaches {} can command this agent",
        links_->address());
  }
  Result<void> fit;
  if (const Assignment* restored = machine_->committed()) {
    fit = check_restored(*restored, facts_);
  }
  act(machine_->start(fit, Clock::now()));
  open_metrics();
  if (machine_->state() != wire::NodeState::kLoading) fd_store_.forget_waiting();
  publish();
}

// ---- the loop --------------------------------------------------------------------------------

void Agent::run() {
  while (!stop_) turn();
  shut_down();
}

void Agent::turn() {
  std::vector<pollfd> fds = {{signals_.fd(), POLLIN, 0},
                             {server_->poll_fd(), POLLIN, 0},
                             {loader_->event_fd(), POLLIN, 0}};
  if (const Stage* stage = plane_->stage()) fds.push_back({stage->event_fd(), POLLIN, 0});
  fds.push_back({prober_.event_fd(), POLLIN, 0});
  if (metrics_) fds.push_back({metrics_->poll_fd(), POLLIN, 0});  // the last one
  const bool pinging = machine_->committed() != nullptr;
  links_->wait(fds, pinging ? std::chrono::milliseconds(config_.link.ping_ms) : kIdleTurn);

  if (fds[0].revents != 0) obey_signals();
  receive_messages();
  if (fds[1].revents != 0) server_->run_ready();
  if (fds[2].revents != 0) {
    take_load_outcomes();
    take_measured();
  }
  take_probe();
  forget_probers();
  plane_->on_stage_event();
  watch_memory();
  act(machine_->tick(Clock::now()));
  plane_->on_time(Clock::now());
  plane_->flush();
  publish();
  serve_metrics(fds.back().revents != 0);
  notify_service_manager(service_->next(health(), Clock::now()));
}

void Agent::serve_metrics(bool ready) {
  if (!metrics_) return;
  if (ready) metrics_->on_ready();
  metrics_->on_time(Clock::now());
}

void Agent::obey_signals() {
  while (const auto wish = signals_.take()) {
    if (*wish == Wish::kStop) {
      stop_ = true;
    } else {
      reload_config();
    }
  }
}

void Agent::reload_config() {
  const Result<Config> next = reload_();
  if (!next) {
    log(LogLevel::kError, "nothing was reloaded: {}", next.error().message);
    return;
  }
  const ConfigChange change = compare_configs(config_, *next);
  config_ = with_live_keys(std::move(config_), *next);
  set_log_level(config_.log_level);
  service_->set_stuck(std::chrono::milliseconds(config_.engine.stuck_ms));
  log(LogLevel::kNotice, "configuration read again; in force now: {}; after a restart: {}",
      change.live.empty() ? "nothing new" : fmt::format("{}", fmt::join(change.live, ", ")),
      change.restart.empty() ? "nothing more" : fmt::format("{}", fmt::join(change.restart, ", ")));
}

void Agent::receive_messages() {
  for (int i = 0; i < kMessagesPerTurn; ++i) {
    const bool any = links_->receive([this](const Incoming& message) {
      if (message.kind == wire::MessageKind::kControl) {
        on_control(message);
      } else {
        plane_->on_frame(message);
      }
    });
    if (!any) return;
  }
}

void Agent::take_load_outcomes() {
  while (auto outcome = loader_->take()) {
    const std::uint64_t epoch = outcome->epoch;
    if (outcome->slice) {
      prepared_[epoch] = *std::move(outcome->slice);
      act(machine_->on_loaded(epoch, Clock::now()));
    } else {
      log(LogLevel::kError, "layers of epoch {}: {}", epoch, outcome->slice.error().message);
      act(machine_->on_load_failed(epoch, outcome->slice.error()));
    }
    fd_store_.forget_waiting();  // what a former process left and this one did not need
  }
}

void Agent::shut_down() {
  plane_->shut_down();  // first, while it still counts as ready: requests end as what this is
  plane_->flush();
  act(machine_->stop());
  publish();
  notify_service_manager(service_->next(health(), Clock::now()));
  server_->shut_down(ipc::Status::kAgentShutdown, "ds4d on this machine is stopping");
  plane_->serve(nullptr);
  loader_->leave();
  plane_->take_stage().reset();  // waits for the pass that is running
  prepared_.clear();
  loader_.reset();
  links_->disconnect();
  log(LogLevel::kInfo, "stopped");
}

// ---- actions ---------------------------------------------------------------------------------

void Agent::act(Actions actions) {
  refresh_peers();
  std::move(actions.begin(), actions.end(), std::back_inserter(pending_));
  if (acting_) return;  // performing one of them led here: it goes on below
  acting_ = true;
  while (!pending_.empty()) {
    Action action = std::move(pending_.front());
    pending_.pop_front();
    perform(action);
  }
  acting_ = false;
}

void Agent::perform(Action& action) {
  std::visit([this](const auto& concrete) { do_action(concrete); }, action);
}

void Agent::do_action(const StartLoad& action) {
  std::erase_if(covers_, [&](const auto& entry) {  // of preparations that failed
    return machine_->committed() == nullptr || machine_->committed()->epoch != entry.first;
  });
  const LayerRange range = range_of(action.assignment, params_.n_layer);
  if (auto cover = SpanCover::of(model_->gguf(), range, system_page_bytes())) {
    covers_[action.assignment.epoch] = *std::move(cover);
  }
  log(LogLevel::kInfo, "epoch {}: loading layers {}", action.assignment.epoch, range.to_string());
  loader_->load(action.assignment.epoch, range, check_memory(range));
}

void Agent::do_action(const ForgetSlice& action) {
  loader_->cancel(action.epoch);
  covers_.erase(action.epoch);
  if (const auto found = prepared_.find(action.epoch); found != prepared_.end()) {
    loader_->discard(std::make_shared<LoadedSlice>(std::move(found->second)));
    prepared_.erase(found);
  }
  if (plane_->stage() != nullptr && plane_->stage()->place().epoch == action.epoch) {
    loader_->discard(plane_->take_stage());
  }
}

void Agent::do_action(const JoinRoute& action) {
  if (auto connected = links_->connect(action.assignment.route, action.assignment.index);
      !connected) {
    // Stays out of the route: the others and this node's own timeout will say so.
    log(LogLevel::kError, "{}", connected.error().message);
  }
  plane_->join(action.assignment);
}

void Agent::do_action(const LeaveRoute&) {
  links_->disconnect();
  plane_->leave();
}

void Agent::do_action(const StartStage& action) {
  const auto found = prepared_.find(action.epoch);
  if (found == prepared_.end()) return;
  LoadedSlice slice = std::move(found->second);
  prepared_.erase(found);
  const StageOptions options = stage_options(slice.slice->range());
  if (auto started = plane_->start_stage(std::move(slice), options); !started) {
    log(LogLevel::kError, "{}", started.error().message);
    act(machine_->on_slice_lost(action.epoch, started.error().message, Clock::now()));
  }
}

void Agent::do_action(const SendPing& action) {
  links_->ping(action.frame);
}
void Agent::do_action(const SendCanary& action) {
  plane_->send_canary(action.session);
}
void Agent::do_action(const CloseCanary& action) {
  plane_->close_canary(action.session);
}

void Agent::do_action(const CloseSessionsOf& action) {
  plane_->close_sessions_of(action.entry);
}

// ---- events of the route ---------------------------------------------------------------------

void Agent::on_ping(const wire::PingFrame& ping) {
  act(machine_->on_ping(ping, Clock::now()));
  publish();  // not ready and ready again within one turn must not look like nothing
}

void Agent::on_unreachable(std::uint32_t stage) {
  act(machine_->on_unreachable(stage, Clock::now()));
}

void Agent::on_canary_token(std::uint64_t session) {
  act(machine_->on_canary_token(session, Clock::now()));
}

void Agent::on_canary_error(std::uint64_t session, std::string_view why) {
  act(machine_->on_canary_error(session, why, Clock::now()));
}

void Agent::publish() {
  Published now{machine_->state(), machine_->detail(), machine_->serial()};
  if (published_ == now) return;
  const bool same_words =
      published_ && published_->state == now.state && published_->detail == now.detail;
  published_ = std::move(now);
  RouteView view;
  view.ready = published_->state == wire::NodeState::kReady;
  view.state = client_state(published_->state);
  view.serial = published_->serial;
  if (const Assignment* committed = machine_->committed()) {
    view.entry_index = committed->index;
    view.stages = static_cast<std::uint32_t>(committed->route.size());
  }
  view.reason = published_->detail;
  server_->set_route_state(view.state);
  plane_->set_route(view);
  plane_->flush();
  if (!same_words && published_->state != wire::NodeState::kLoading) {  // said with its epoch
    log(level_for(published_->state), "{}", describe(health()));
  }
}

Health Agent::health() const {
  Health health;
  health.state = machine_->state();
  health.detail = machine_->detail();
  health.load = loader_->progress();
  if (const Stage* stage = plane_->stage()) health.busy_since = stage->stats().busy_since;
  return health;
}

}  // namespace ds4::agent
