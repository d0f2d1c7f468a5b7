#pragma once
// The data plane: between clients, the entry, this node's stage and the links to the others.
//
// It decides nothing. Client requests go to the entry; the entry's work goes to the first stage,
// which is here or behind a link; the stage's frames go where they are addressed; tokens for this
// node's clients come back to the entry. What happens to the route it reports to RouteEvents.
//
// Thread rule: the main loop's thread.
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "agent/config/config.h"
#include "agent/ds4d/foreign_sessions.h"
#include "agent/entry/entry.h"
#include "agent/link/links.h"
#include "agent/loader/loader.h"
#include "agent/log/throttle.h"
#include "agent/route/assignment.h"
#include "agent/stage/stage.h"
#include "ipc/server/server.h"

namespace ds4::agent {

class RouteEvents {
 public:
  virtual ~RouteEvents() = default;
  virtual void on_ping(const wire::PingFrame& ping) = 0;
  virtual void on_unreachable(std::uint32_t stage) = 0;
  virtual bool is_canary(std::uint64_t session) = 0;
  virtual void on_canary_token(std::uint64_t session) = 0;
  virtual void on_canary_error(std::uint64_t session, std::string_view why) = 0;
};

class DataPlane final : public ipc::RequestHandler, private EntryPort {
 public:
  DataPlane(const EntryConfig& entry, std::uint64_t floats_per_row, Links& links,
            RouteEvents& events);

  /// Clients are answered through `server` from now on; null: no more.
  void serve(ipc::Server* server) { server_ = server; }

  /// This is the route; links must be connected. Any former stage has been taken.
  void join(const Assignment& assignment);
  void leave();
  /// Errors: kResourceExhausted if the kernel has no thread or descriptor left.
  Result<void> start_stage(LoadedSlice slice, StageOptions options);
  /// The stage and its weights, for someone who has the time to destroy them; null if none runs.
  std::shared_ptr<void> take_stage();

  const Stage* stage() const { return running_ ? running_->stage.get() : nullptr; }
  const Residence* weights() const { return running_ ? running_->weights.get() : nullptr; }

  void set_route(const RouteView& view) { entry_.on_route(view); }
  /// Call in every turn.
  void on_time(std::chrono::steady_clock::time_point now) { entry_.on_time(now); }
  void send_canary(std::uint64_t session);
  void close_canary(std::uint64_t session);
  /// Of an entry that died: on this node's stage, and down the route from here.
  void close_sessions_of(std::uint32_t entry);

  /// A frame from another agent (anything but control). Malformed ones and other epochs are
  /// dropped.
  void on_frame(const Incoming& frame);
  /// The stage's event descriptor is readable.
  void on_stage_event();
  /// Sends what this turn of the main loop gathered, and wakes clients.
  void flush();
  /// True: clients' new requests are refused, for later; those that run go on.
  void set_draining(bool on) { entry_.set_draining(on); }
  bool draining() const { return entry_.draining(); }
  std::size_t active_requests() const { return entry_.active_requests(); }
  /// All zero while no stage runs.
  wire::StageFigures stage_figures() const;
  wire::ClientFigures client_figures() const;
  /// Ends all requests: the agent is stopping.
  void shut_down() { entry_.shut_down(); }

  // ipc::RequestHandler
  void on_request(ipc::ClientId client, ipc::Request request) override;
  void on_gone(ipc::ClientId client) override;
  void on_space(ipc::ClientId client) override;
  void on_complaint(std::string_view sentence) override;

 private:
  struct Running {
    std::shared_ptr<const Residence> weights;
    std::unique_ptr<Stage> stage;
  };

  // EntryPort
  void send_work(wire::WorkItem item) override;
  void send_close(std::uint64_t session) override;
  void send_fork(const wire::ForkItem& fork) override;
  std::uint32_t user_of(ipc::ClientId client) override;
  bool can_take(ipc::ClientId client) override;
  void token(ipc::ClientId client, std::uint64_t request, std::int32_t token,
             std::uint32_t position, float logprob) override;
  void progress(ipc::ClientId client, std::uint64_t request, std::uint32_t done,
                std::uint32_t total) override;
  void finish(ipc::ClientId client, std::uint64_t request,
              const ipc::Server::Final& final) override;

  void flush_work();
  template <typename Frame, typename Item>
  void send_first(std::vector<Item> Frame::*items, std::vector<Item>& gathered);
  void on_work(const Incoming& frame);
  void on_close(wire::CloseFrame frame);
  void on_fork(wire::ForkFrame frame);
  void submit(wire::WorkFrame frame);
  template <typename Frame>
  void submit_orders(Frame frame);
  void refuse(std::uint32_t entry, std::vector<std::uint64_t> sessions);
  void answer_refused();
  void note_foreign(std::uint64_t session, std::uint32_t entry);
  void deliver(const wire::TokenFrame& frame);
  void deliver(const wire::ErrorFrame& frame);
  bool is_current(std::uint64_t epoch) const { return route_ && route_->epoch == epoch; }
  template <typename T>
  bool accept(const Result<T>& frame);
  bool comes_right(const Incoming& frame) const;
  bool speaks_for(const Incoming& frame, std::uint32_t stage) const;

  const std::uint64_t floats_per_row_;
  Links& links_;
  RouteEvents& events_;
  ipc::Server* server_ = nullptr;
  Entry entry_;
  std::optional<Assignment> route_;
  std::optional<Running> running_;
  wire::ClientFigures clients_;
  ForeignSessions foreign_;
  std::vector<std::uint64_t> refused_;  // of this node's entry: its stage did not take their work

  // Of this turn of the main loop, towards the first stage: works first, forks after
  // them, closes at last.
  std::vector<wire::WorkItem> works_;
  std::size_t works_tokens_ = 0;
  std::vector<wire::ForkItem> forks_;
  std::vector<std::uint64_t> closes_;

  Throttle complaints_;
};

}  // namespace ds4::agent
