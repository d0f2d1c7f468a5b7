#include "agent/ds4d/data_plane.h"

#include <fmt/format.h>

#include <map>
#include <system_error>
#include <utility>

#include "agent/log/log.h"

namespace ds4::agent {
namespace {

constexpr std::uint32_t kCanaryContext = 16;
constexpr std::int32_t kCanaryToken = 0;
constexpr std::uint32_t kComplaintsPerMinute = 20;

std::uint64_t microseconds(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time / std::chrono::microseconds(1));
}

wire::ErrorFrame too_much_waits(const Assignment& here, std::vector<std::uint64_t> sessions) {
  return {here.epoch, here.index, std::move(sessions), ErrorCode::kUnavailable,
          fmt::format("stage {} has more work waiting than it takes: try again in a moment",
                      here.index)};
}

/// That a stage is unreachable is said where the route is told; anything else is said here.
bool went(const Result<void>& sent) {
  if (!sent && sent.error().code != ErrorCode::kUnavailable) {
    log(LogLevel::kError, "{}", sent.error().message);
  }
  return sent.has_value();
}

/// From any thread; false if it could not be sent.
bool send_away(Links& links, Outgoing& out) {
  const auto send = [&](auto& frame) {
    if constexpr (std::is_same_v<std::decay_t<decltype(frame)>, Unsent>)
      return false;
    else
      return went(links.send(out.to, std::move(frame)));
  };
  return std::visit(send, out.frame);
}

}  // namespace

DataPlane::DataPlane(const EntryConfig& entry, std::uint64_t floats_per_row, Links& links,
                     RouteEvents& events)
    : floats_per_row_(floats_per_row),
      links_(links),
      events_(events),
      entry_(entry, *this),
      complaints_(kComplaintsPerMinute, std::chrono::minutes(1)) {}

// ---- the route -------------------------------------------------------------------------------

void DataPlane::join(const Assignment& assignment) {
  works_.clear();
  works_tokens_ = 0;
  forks_.clear();
  closes_.clear();
  refused_.clear();
  route_ = assignment;
}

void DataPlane::leave() {
  works_.clear();
  works_tokens_ = 0;
  forks_.clear();
  closes_.clear();
  refused_.clear();
  route_.reset();
}

Result<void> DataPlane::start_stage(LoadedSlice slice, StageOptions options) {
  const StagePlace place{route_->epoch, route_->index,
                         static_cast<std::uint32_t>(route_->route.size())};
  try {
    options.send = [&links = links_](Outgoing& out) { return send_away(links, out); };
    auto stage = std::make_unique<Stage>(std::move(slice.slice), place, options);
    running_.emplace(Running{std::move(slice.weights), std::move(stage)});
    return {};
  } catch (const std::system_error& error) {
    return fail(ErrorCode::kResourceExhausted,
                fmt::format("start the engine thread: {}", error.what()));
  }
}

std::shared_ptr<void> DataPlane::take_stage() {
  if (!running_) return nullptr;
  running_->stage->stop_sending();
  auto taken = std::make_shared<Running>(std::move(*running_));
  running_.reset();
  foreign_.clear();
  return taken;
}

void DataPlane::send_canary(std::uint64_t session) {
  wire::WorkItem item;
  item.session = session;
  item.context = kCanaryContext;
  item.entry = 0;
  item.sample = SamplingParams{};
  item.tokens = {kCanaryToken};
  send_work(std::move(item));
}

void DataPlane::close_canary(std::uint64_t session) {
  send_close(session);
}

// ---- towards the first stage -----------------------------------------------------------------

void DataPlane::send_work(wire::WorkItem item) {
  if (!closes_.empty() || !forks_.empty()) flush_work();  // order is kept: those come first
  if (works_.size() + 1 > wire::kMaxItems ||
      works_tokens_ + item.tokens.size() > wire::kMaxFrameTokens) {
    flush_work();
  }
  works_tokens_ += item.tokens.size();
  works_.push_back(std::move(item));
}

void DataPlane::send_close(std::uint64_t session) {
  closes_.push_back(session);
  if (closes_.size() >= wire::kMaxItems) flush_work();
}

void DataPlane::send_fork(const wire::ForkItem& fork) {
  if (!closes_.empty()) flush_work();
  forks_.push_back(fork);
  if (forks_.size() >= wire::kMaxItems) flush_work();
}

void DataPlane::flush_work() {
  works_tokens_ = 0;
  wire::WorkFrame frame;
  frame.items = std::exchange(works_, {});
  if (!frame.items.empty() && route_) {
    frame.epoch = route_->epoch;
    if (route_->index != 0) {
      if (!went(links_.send(0, std::move(frame)))) events_.on_unreachable(0);
    } else if (running_) {
      submit(std::move(frame));
    }
  }
  send_first(&wire::ForkFrame::items, forks_);
  send_first(&wire::CloseFrame::sessions, closes_);
}

template <typename Frame, typename Item>
void DataPlane::send_first(std::vector<Item> Frame::*items, std::vector<Item>& gathered) {
  Frame frame;
  frame.*items = std::exchange(gathered, {});
  if ((frame.*items).empty() || !route_) return;
  frame.epoch = route_->epoch;
  if (route_->index != 0) {
    if (!went(links_.send(0, frame))) events_.on_unreachable(0);
  } else if (running_) {
    submit_orders(std::move(frame));
  }
}

// ---- to this node's stage --------------------------------------------------------------------

/// Work that the stage does not take ends here: whoever awaits it is told.
void DataPlane::submit(wire::WorkFrame frame) {
  std::map<std::uint32_t, std::vector<std::uint64_t>> by_entry;
  for (const wire::WorkItem& item : frame.items) by_entry[item.entry].push_back(item.session);
  if (!running_->stage->submit(std::move(frame))) {
    for (auto& [entry, sessions] : by_entry) refuse(entry, std::move(sessions));
    return;
  }
  for (const auto& [entry, sessions] : by_entry) {
    for (const std::uint64_t session : sessions) note_foreign(session, entry);
  }
}

/// A closing that is lost leaves its cache until memory is needed, a fork makes the copy's entry
/// feed it again: nobody has to be told.
template <typename Frame>
void DataPlane::submit_orders(Frame frame) {
  if (running_->stage->submit(std::move(frame))) return;
  on_complaint("dropped closings or forks of sessions: more wait here already than there can be");
}

/// Not at once where it is this node's entry, because that may be what sends just now.
void DataPlane::refuse(std::uint32_t entry, std::vector<std::uint64_t> sessions) {
  on_complaint("refused work: more waits here already than the route's agents send");
  if (entry == route_->index) {
    refused_.insert(refused_.end(), sessions.begin(), sessions.end());
    return;
  }
  // If it cannot be told, it misses the answer after a while.
  (void)links_.send(entry, too_much_waits(*route_, std::move(sessions)));
}

void DataPlane::answer_refused() {
  if (refused_.empty() || !route_) return;
  deliver(too_much_waits(*route_, std::exchange(refused_, {})));
  flush_work();
}

void DataPlane::note_foreign(std::uint64_t session, std::uint32_t entry) {
  if (entry == route_->index || entry >= route_->route.size()) return;
  const auto surplus = foreign_.note(session, entry);
  if (!surplus) return;
  on_complaint(fmt::format("stage {} has more than {} sessions open here: its oldest are closed",
                           entry, kMostForeignSessions));
  wire::CloseFrame close;
  close.epoch = route_->epoch;
  close.sessions = {*surplus};
  submit_orders(std::move(close));
}

void DataPlane::flush() {
  flush_work();
  answer_refused();
  if (server_ != nullptr) server_->flush();
}

// ---- from this node's stage ------------------------------------------------------------------

void DataPlane::on_stage_event() {
  if (!running_) return;
  for (Outgoing& out : running_->stage->drain()) {
    if (std::holds_alternative<Unsent>(out.frame)) {
      events_.on_unreachable(out.to);
    } else if (const auto* tokens = std::get_if<wire::TokenFrame>(&out.frame)) {
      deliver(*tokens);
    } else if (const auto* error = std::get_if<wire::ErrorFrame>(&out.frame)) {
      deliver(*error);
    }
  }
}

wire::StageFigures DataPlane::stage_figures() const {
  wire::StageFigures figures;
  figures.clock_us = microseconds(std::chrono::steady_clock::now().time_since_epoch());
  if (!running_) return figures;
  const StageStats stats = running_->stage->stats();
  figures.batches = stats.work.batches;
  figures.decode_rows = stats.work.decode_rows;
  figures.prefill_rows = stats.work.prefill_rows;
  figures.tokens = stats.work.tokens;
  figures.compute_us = microseconds(stats.work.compute);
  figures.wait_us = microseconds(stats.work.wait);
  figures.queue_us = microseconds(stats.work.queue);
  figures.queue_items = stats.work.queue_items;
  figures.waiting_rows = stats.waiting_rows;
  figures.stored_sessions = stats.stored.sessions;
  figures.stored_bytes = stats.stored.bytes;
  figures.saves = stats.stored.saved;
  figures.restores = stats.stored.restored;
  figures.send_us = microseconds(stats.send_time);
  figures.send_frames = stats.sent_frames;
  return figures;
}

// ---- from other agents -----------------------------------------------------------------------

template <typename T>
bool DataPlane::accept(const Result<T>& frame) {
  if (!frame) {
    log(LogLevel::kWarning, "dropped a frame of another agent: {}", frame.error().message);
    return false;
  }
  return is_current(frame->epoch);
}

/// Work flows down the route and tokens come from its end; a node that sends otherwise is broken,
/// or no longer its owner's.
bool DataPlane::comes_right(const Incoming& frame) const {
  if (!frame.stage || !route_) return true;  // nobody proves anything here
  bool right = true;
  if (frame.kind == wire::MessageKind::kToken) {
    right = *frame.stage + 1 == route_->route.size();
  } else if (frame.kind != wire::MessageKind::kError && frame.kind != wire::MessageKind::kPing) {
    right = route_->index == 0 || *frame.stage + 1 == route_->index;
  }
  if (!right) log(LogLevel::kWarning, "dropped a frame that stage {} does not send", *frame.stage);
  return right;
}

/// Whether the sender is the stage in whose name the frame speaks.
bool DataPlane::speaks_for(const Incoming& frame, std::uint32_t stage) const {
  if (!frame.stage || *frame.stage == stage) return true;
  log(LogLevel::kWarning, "dropped a frame in which stage {} speaks for stage {}", *frame.stage,
      stage);
  return false;
}

void DataPlane::on_frame(const Incoming& frame) {
  if (!comes_right(frame)) return;
  const auto body = frame.parts[0];
  switch (frame.kind) {
    case wire::MessageKind::kWork:
      return on_work(frame);
    case wire::MessageKind::kToken:
      if (auto tokens = wire::decode_tokens(body); accept(tokens)) deliver(*tokens);
      return;
    case wire::MessageKind::kClose:
      if (auto close = wire::decode_close(body); accept(close) && running_) {
        on_close(std::move(*close));
      }
      return;
    case wire::MessageKind::kFork:
      if (auto fork = wire::decode_fork(body); accept(fork) && running_) {
        for (const wire::ForkItem& item : fork->items) {
          if (route_->index == 0 && !speaks_for(frame, item.entry)) return;
        }
        on_fork(std::move(*fork));
      }
      return;
    case wire::MessageKind::kError:
      if (auto error = wire::decode_error(body); accept(error) && speaks_for(frame, error->stage)) {
        deliver(*error);
      }
      return;
    case wire::MessageKind::kPing:
      if (auto ping = wire::decode_ping(body); accept(ping) && speaks_for(frame, ping->stage)) {
        if (is_current(ping->epoch)) links_.note_ping(*ping);
        events_.on_ping(*ping);
      }
      return;
    case wire::MessageKind::kControl:
    case wire::MessageKind::kProbe:
      return;  // not ours
  }
}

void DataPlane::on_work(const Incoming& frame) {
  const auto streams = frame.parts.size() > 1 ? frame.parts[1] : std::span<const std::byte>();
  auto work = wire::decode_work(frame.parts[0], streams, floats_per_row_);
  if (!accept(work) || !running_) return;
  const bool first = route_->index == 0;
  if (work->streams.empty() != first) {
    log(LogLevel::kWarning, "dropped work {} streams: this node is stage {}",
        first ? "with" : "without", route_->index);
    return;
  }
  for (const wire::WorkItem& item : work->items) {  // behind the first stage, that one vouches
    if (first && !speaks_for(frame, item.entry)) return;
  }
  submit(std::move(*work));
}

void DataPlane::on_close(wire::CloseFrame frame) {
  for (const std::uint64_t session : frame.sessions) foreign_.forget(session);
  submit_orders(std::move(frame));
}

void DataPlane::on_fork(wire::ForkFrame frame) {
  for (const wire::ForkItem& item : frame.items) note_foreign(item.target, item.entry);
  submit_orders(std::move(frame));
}

void DataPlane::close_sessions_of(std::uint32_t entry) {
  if (!running_) return;
  wire::CloseFrame frame;
  frame.epoch = route_->epoch;
  frame.sessions = foreign_.take(entry);
  if (!frame.sessions.empty()) submit_orders(std::move(frame));
}

void DataPlane::deliver(const wire::TokenFrame& frame) {
  if (!is_current(frame.epoch)) return;
  for (const wire::Outcome& outcome : frame.outcomes) {
    if (events_.is_canary(outcome.session)) {
      events_.on_canary_token(outcome.session);
    } else {
      entry_.on_outcome(outcome);
    }
  }
}

void DataPlane::deliver(const wire::ErrorFrame& frame) {
  if (!is_current(frame.epoch)) return;
  wire::ErrorFrame rest = frame;
  rest.sessions.clear();
  for (const std::uint64_t session : frame.sessions) {
    if (events_.is_canary(session)) {
      events_.on_canary_error(session, frame.message);
    } else {
      rest.sessions.push_back(session);
    }
  }
  if (!rest.sessions.empty()) entry_.on_error(rest);
}

// ---- clients ---------------------------------------------------------------------------------

void DataPlane::on_request(ipc::ClientId client, ipc::Request request) {
  entry_.on_request(client, std::move(request));
}

void DataPlane::on_gone(ipc::ClientId client) {
  entry_.on_gone(client);
}

void DataPlane::on_space(ipc::ClientId client) {
  entry_.on_space(client);
}

void DataPlane::on_complaint(std::string_view sentence) {
  const auto held_back = complaints_.admit(std::chrono::steady_clock::now());
  if (!held_back) return;
  if (*held_back > 0) log(LogLevel::kWarning, "{} more like this were not logged", *held_back);
  log(LogLevel::kWarning, "{}", sentence);
}

std::uint32_t DataPlane::user_of(ipc::ClientId client) {
  return server_ != nullptr ? server_->user_of(client) : 0;
}

bool DataPlane::can_take(ipc::ClientId client) {
  return server_ != nullptr && server_->can_take(client);
}

void DataPlane::token(ipc::ClientId client, std::uint64_t request, std::int32_t token,
                      std::uint32_t position, float logprob) {
  if (server_ != nullptr) server_->token(client, request, token, position, logprob);
}

void DataPlane::progress(ipc::ClientId client, std::uint64_t request, std::uint32_t done,
                         std::uint32_t total) {
  if (server_ != nullptr) server_->progress(client, request, done, total);
}

void DataPlane::finish(ipc::ClientId client, std::uint64_t request,
                       const ipc::Server::Final& final) {
  ++clients_.requests;
  clients_.failed += ipc::is_error(final.status);
  clients_.prompt_tokens += final.prompt_tokens;
  clients_.tokens += final.generated_tokens;
  if (server_ != nullptr) server_->finish(client, request, final);
}

wire::ClientFigures DataPlane::client_figures() const {
  wire::ClientFigures figures = clients_;
  figures.connected = server_ != nullptr ? server_->clients() : 0;
  return figures;
}

}  // namespace ds4::agent
