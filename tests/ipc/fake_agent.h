#pragma once
// A Server with a handler that answers without a model, on a thread of its own: what the agent does
// with its main loop, in small. Token i of an answer to a prompt with sum s is (s + i) %
// vocabulary.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/unique_fd.h"
#include "ipc/server/server.h"

namespace ds4::ipc::testing {

/// A directory of its own for a socket, removed at the end.
class SocketPlace {
 public:
  SocketPlace() {
    std::string pattern = "/tmp/ds4-ipc-test-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    directory_ = pattern;
  }
  SocketPlace(const SocketPlace&) = delete;
  SocketPlace& operator=(const SocketPlace&) = delete;
  ~SocketPlace() { std::filesystem::remove_all(directory_); }
  std::string path() const { return directory_ + "/client.sock"; }

 private:
  std::string directory_;
};

inline constexpr std::uint32_t kVocabulary = 1000;

inline ModelCard small_card() {
  ModelCard card;
  card.model = "fake";
  card.limits = {
      .vocabulary = kVocabulary, .context = 100'000, .max_requests = 16, .max_stop_tokens = 8};
  return card;
}

/// Answers a token per request and step, heeding can_take(). Not thread-safe: the server's thread.
class FakeHandler final : public RequestHandler {
 public:
  struct Active {
    GenerateRequest request;
    std::uint64_t sum = 0;
    std::uint32_t sent = 0;
  };

  void on_request(ClientId client, Request request) override {
    ++requests;
    if (auto* generate = std::get_if<GenerateRequest>(&request)) {
      if (on_generate) on_generate(client, *generate);
      Active active;
      active.sum =
          std::accumulate(generate->prompt.begin(), generate->prompt.end(), std::uint64_t{0});
      active.request = std::move(*generate);
      const std::uint64_t id = active.request.id;
      active_[{client, id}] = std::move(active);
    } else if (auto* cancel = std::get_if<CancelRequest>(&request)) {
      const auto at = active_.find({client, cancel->id});
      if (at != active_.end()) end(at, Status::kCancelled, -1);
    } else if (auto* close = std::get_if<CloseSessionRequest>(&request)) {
      Server::Final final;
      final.status = close->session_id == 77 ? Status::kOkClosed : Status::kUnknownSession;
      server->finish(client, close->id, final);
    } else if (auto* fork = std::get_if<ForkSessionRequest>(&request)) {
      ++forks;
      Server::Final final;
      final.status = Status::kOkForked;
      final.session_id = 78;
      server->finish(client, fork->id, final);
    }
  }
  void on_gone(ClientId client) override {
    ++gone;
    std::erase_if(active_, [&](const auto& item) { return item.first.first == client; });
  }
  void on_space(ClientId) override { ++spaces; }
  void on_complaint(std::string_view sentence) override { complaints.emplace_back(sentence); }

  /// One token for every request whose client can take it. True if there was any.
  bool step() {
    bool worked = false;
    for (auto at = active_.begin(); at != active_.end();) {
      const auto here = at++;
      if (!server->can_take(here->first.first)) continue;
      worked = true;
      advance(here);
    }
    return worked;
  }
  std::size_t active() const { return active_.size(); }

  Server* server = nullptr;
  std::function<void(ClientId, const GenerateRequest&)> on_generate;
  std::vector<std::string> complaints;  // the server's thread
  std::atomic<int> requests = 0;
  std::atomic<int> gone = 0;
  std::atomic<int> spaces = 0;
  std::atomic<int> forks = 0;

 private:
  using Key = std::pair<ClientId, std::uint64_t>;

  void advance(std::map<Key, Active>::iterator at) {
    Active& active = at->second;
    const GenerateRequest& request = active.request;
    const auto prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
    if (active.sent == 0 && request.progress)
      server->progress(at->first.first, request.id, prompt_tokens, prompt_tokens);
    if (request.max_tokens != 0 && active.sent == request.max_tokens)
      return end(at, Status::kOkLength, -1);
    const auto token = static_cast<std::int32_t>((active.sum + active.sent) % kVocabulary);
    for (const std::int32_t stop : request.stop)
      if (token == stop) return end(at, Status::kOkStop, stop);
    server->token(at->first.first, request.id, token, prompt_tokens + active.sent,
                  request.logprobs ? -0.5F : 0);
    ++active.sent;
  }

  void end(std::map<Key, Active>::iterator at, Status status, std::int32_t stop) {
    const auto [client, id] = at->first;
    Server::Final final;
    final.status = status;
    final.prompt_tokens = static_cast<std::uint32_t>(at->second.request.prompt.size());
    final.generated_tokens = at->second.sent;
    final.stop_token = stop;
    final.session_id = at->second.request.keep_session ? 77 : 0;
    active_.erase(at);
    server->finish(client, id, final);
  }

  std::map<Key, Active> active_;
};

/// The handler and its server on a thread. `with()` runs something on that thread.
class FakeAgent {
 public:
  explicit FakeAgent(ServerConfig config, const ModelCard& card = small_card()) {
    auto server = Server::listen(config, handler_);
    if (!server) throw std::runtime_error(server.error().message);
    server_ = std::move(*server);
    handler_.server = server_.get();
    if (!server_->set_model(card)) throw std::runtime_error("set_model");
    server_->set_route_state(RouteState::kReady);
    bell_.reset(::eventfd(0, EFD_CLOEXEC));
    thread_ = std::thread([this] { loop(); });
  }
  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;
  ~FakeAgent() { stop(); }

  /// Ends the thread, then the server, without a word to the clients.
  void stop() {
    if (!thread_.joinable()) return;
    with([this](Server&) { stopping_ = true; });
    thread_.join();
    server_.reset();
  }

  /// Runs `task` on the server's thread and waits for it.
  void with(std::function<void(Server&)> task) {
    std::atomic<bool> done = false;
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back([&](Server& server) {
        task(server);
        done = true;
        done.notify_one();
      });
    }
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof(one));
    done.wait(false);
  }

  FakeHandler& handler() { return handler_; }
  std::size_t clients() {
    std::size_t n = 0;
    with([&](Server& server) { n = server.clients(); });
    return n;
  }
  std::size_t active() {
    std::size_t n = 0;
    with([&](Server&) { n = handler_.active(); });
    return n;
  }

 private:
  void loop() {
    bool worked = false;
    while (!stopping_) {
      pollfd fds[2] = {{server_->poll_fd(), POLLIN, 0}, {bell_.get(), POLLIN, 0}};
      ::poll(fds, 2, worked ? 0 : -1);
      if ((fds[1].revents & POLLIN) != 0) run_tasks();
      if (stopping_) break;
      server_->run_ready();
      worked = handler_.step();
      server_->flush();
    }
  }
  void run_tasks() {
    std::uint64_t count = 0;
    (void)!::read(bell_.get(), &count, sizeof(count));
    std::vector<std::function<void(Server&)>> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) task(*server_);
  }

  FakeHandler handler_;
  std::unique_ptr<Server> server_;
  UniqueFd bell_;
  std::mutex mutex_;
  std::vector<std::function<void(Server&)>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

inline ServerConfig config_at(const std::string& path) {
  ServerConfig config;
  config.socket_path = path;
  return config;
}

/// Looks for up to ten seconds: for what another thread or process is about to do.
inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return condition();
}

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

}  // namespace ds4::ipc::testing
