#pragma once
// The agent: one process per machine that holds its share of a model and keeps it there.
//
// Everything meets in one loop on one thread: control requests and frames from the links, clients'
// submissions, the stage's results, the loader's outcomes, signals and time. Long work is
// elsewhere: the engine thread computes (stage), the loader thread moves weights. What to do is
// decided by pure parts (RouteMachine, Entry, ServiceReporter); this class performs it.
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/config/config.h"
#include "agent/ds4d/data_plane.h"
#include "agent/ds4d/expected_probers.h"
#include "agent/ds4d/service.h"
#include "agent/ds4d/signals.h"
#include "agent/ds4d/status_report.h"
#include "agent/keys/key.h"
#include "agent/keys/trust_list.h"
#include "agent/link/link_probe.h"
#include "agent/link/links.h"
#include "agent/loader/loader.h"
#include "agent/metrics/metrics_port.h"
#include "agent/route/route_machine.h"
#include "agent/state/ledger_file.h"
#include "engine/gguf/model_file.h"
#include "engine/model/hyper_params.h"
#include "ipc/server/server.h"

namespace ds4::agent {

using ConfigSource = std::function<Result<Config>()>;

class Agent final : private RouteEvents {
 public:
  /// Opens the model, takes the state directory, listens. Errors are those of a start that cannot
  /// succeed without the administrator, each with what to do.
  /// `reload` gives the configuration anew when SIGHUP asks for it.
  static Result<std::unique_ptr<Agent>> create(const Config& config, Signals signals,
                                               ConfigSource reload);
  ~Agent() override;

  /// Until a signal asks to stop.
  void run();

  /// Where the links are bound, with the port's number.
  const std::string& address() const { return links_->address(); }

 private:
  Agent(const Config& config, Signals signals, ConfigSource reload);
  Result<void> open_model();
  Result<void> open_keys();
  Result<void> open_state();
  void open_kv_directory();  // agent_kv.cpp
  Result<void> open_sockets();
  void open_metrics();
  void serve_metrics(bool ready);
  void start();

  void turn();
  void obey_signals();
  void reload_config();
  void receive_messages();
  void take_load_outcomes();
  void shut_down();

  /// Of a request whose answer is sent later.
  struct Asker {
    std::string sender;
    std::uint64_t id = 0;
  };

  void on_control(const Incoming& message);
  Result<void> handle(const wire::Request& request, const Asker& asker);
  Result<void> prepare(const wire::PrepareRequest& request);
  // ---- agent_keys.cpp ----
  Result<void> trust(const wire::TrustRequest& request);
  Result<void> revoke(const wire::RevokeRequest& request);
  /// Saved first, then true.
  Result<void> change_trust(keys::TrustList next);
  Result<void> check_not_revoked(const Assignment& assignment) const;
  std::vector<wire::KnownKey> known_keys() const;
  /// Tells the gate which nodes are peers now.
  void refresh_peers();

  // ---- agent_plan.cpp ----
  void answer(const Asker& asker, wire::Reply reply);
  Result<void> ask_offer(const wire::OfferRequest& request, const Asker& asker);
  void take_measured();
  Result<std::vector<wire::LayerLoad>> own_layer_loads() const;
  /// Once something was measured.
  Result<wire::NodeOffer> make_offer() const;
  Result<void> expect_probes(const wire::ExpectRequest& request, const Asker& asker);
  void forget_probers();
  Result<void> start_probe(const wire::ProbeRequest& request, const Asker& asker);
  void take_probe();

  /// Applies a control event to a copy of the machine, saves the ledger if it changed, and only
  /// then makes it true.
  template <typename Event>
  Result<void> change(Event&& event);

  void act(Actions actions);
  void perform(Action& action);
  void do_action(const StartLoad& action);
  void do_action(const ForgetSlice& action);
  void do_action(const JoinRoute& action);
  void do_action(const LeaveRoute& action);
  void do_action(const StartStage& action);
  void do_action(const SendPing& action);
  void do_action(const SendCanary& action);
  void do_action(const CloseCanary& action);
  void do_action(const CloseSessionsOf& action);

  // RouteEvents
  void on_ping(const wire::PingFrame& ping) override;
  void on_unreachable(std::uint32_t stage) override;
  bool is_canary(std::uint64_t session) override { return machine_->is_canary(session); }
  void on_canary_token(std::uint64_t session) override;
  void on_canary_error(std::uint64_t session, std::string_view why) override;

  /// Tells everybody what the route has come to: clients, the log, systemd.
  void publish();
  wire::NodeStatus status(const wire::StatusRequest& asked);

  // ---- agent_kv.cpp ----
  StageOptions stage_options(const LayerRange& range) const;

  // ---- agent_memory.cpp ----
  /// Before the first byte: kResourceExhausted with the figures if the host's memory cannot hold
  /// these layers.
  Result<void> check_memory(const LayerRange& range) const;
  /// What the host's memory gives to layers, caches and scratch together.
  std::uint64_t host_budget() const;
  /// Whether what serves can still be trusted, and the model file is still the one that was opened.
  void watch_memory();
  /// Opens the model file again if it is not the same any more. What serves keeps the former one.
  Result<void> follow_model_file();
  /// The slice that serves is lost.
  void lose_slice(std::string_view why);
  std::string kv_formula() const;

  Health health() const;

  Config config_;
  Signals signals_;
  ConfigSource reload_;
  std::uint64_t instance_ = 0;
  NodeFacts facts_;
  std::shared_ptr<const ModelFile> model_;
  HyperParams params_;
  std::uint32_t context_ = 0;

  std::optional<keys::KeyPair> key_;  // none: insecure
  keys::PublicKey operator_key_;      // of this machine
  keys::Gate gate_;
  std::pair<std::uint64_t, std::uint64_t> peers_of_{};  // the epochs whose nodes the gate knows

  std::optional<LedgerFile> ledger_file_;
  std::shared_ptr<const KvDirectory> kv_directory_;  // null: sessions are not put away
  std::optional<RouteMachine> machine_;
  std::unique_ptr<Links> links_;
  FdStore fd_store_;  // before what may hold its descriptors
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<ipc::Server> server_;
  std::unique_ptr<MetricsPort> metrics_;  // null: off
  std::optional<ServiceReporter> service_;
  ResidencyReporter residency_;
  std::chrono::steady_clock::time_point next_file_check_{};
  FileIdentity refused_file_;  // is at the model's path, but cannot be used

  std::map<std::uint64_t, SpanCover> covers_;      // by epoch: loading, prepared or serving
  std::map<std::uint64_t, LoadedSlice> prepared_;  // loaded, not serving
  std::optional<Measured> measured_;
  bool measured_on_layers_ = false;  // or its memory's bandwidth; of what is under way, if it is
  std::vector<Asker> offer_askers_;
  LinkProber prober_;
  Asker probe_asker_;
  ExpectedProbers expected_probers_;  // of which the gate has the sum

  std::deque<Action> pending_;
  bool acting_ = false;

  struct Published {
    wire::NodeState state{};
    std::string detail;
    std::uint64_t serial = 0;
    bool operator==(const Published&) const = default;
  };
  std::optional<Published> published_;
  bool stop_ = false;
};

}  // namespace ds4::agent
