// ds4-ipc-bench: how long one entry takes to the agent and back, and how many tokens fit through a
// ring, beside a Unix-socket ping-pong measured in the same run.
//
// Agent and client are two processes on two cores. Polling measures the rings with the agent's
// validation in between (Intake, Outlet); blocking and streaming measure the whole of it: Server in
// a poll() loop as in the agent, libds4client in the program. Timings depend on where the two cores
// are; pass --cores.
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ipc/client/ds4.hpp"
#include "ipc/server/intake.h"
#include "ipc/server/outlet.h"
#include "ipc/server/server.h"

namespace ds4::ipc {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int agent_core = 0;
  int client_core = 1;
  std::size_t rounds = 20'000;
  std::uint64_t stream_tokens = 5'000'000;
  std::uint32_t ring = 16384;  // completion entries: the most that the agent gives
  bool json = false;
};

[[noreturn]] void die(const std::string& what) {
  fmt::print(stderr, "ds4-ipc-bench: {}\n", what);
  std::exit(1);
}

void pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(core), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) die(fmt::format("no core {}", core));
}

void relax_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A process on the agent's core that runs `body` until it is killed at the end of this object.
class Agent {
 public:
  Agent(int core, const std::function<void()>& body) : pid_(::fork()) {
    if (pid_ != 0) return;
    pin(core);
    body();
    ::_exit(0);
  }
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  ~Agent() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

/// The median of `rounds` timings of `one`, in nanoseconds, after a tenth of them to warm up.
double p50_ns(std::size_t rounds, const std::function<void()>& one) {
  std::vector<double> samples;
  samples.reserve(rounds);
  for (std::size_t i = 0; i < rounds + rounds / 10; ++i) {
    const auto begin = Clock::now();
    one();
    const std::chrono::duration<double, std::nano> took = Clock::now() - begin;
    if (i >= rounds / 10) samples.push_back(took.count());
  }
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

// ---- One entry, polling ---------------------------------------------------------------------

constexpr RequestLimits kLimits{
    .vocabulary = 1000, .context = 1U << 20, .max_requests = 16, .max_stop_tokens = 8};

void answer_polling(const Region& region) {
  Intake intake(region, kLimits);
  Outlet outlet(region);
  for (;;) {
    const Intake::Step step = intake.next();
    if (step.what != Intake::What::kRequest) {
      relax_cpu();
      continue;
    }
    const auto& request = std::get<CloseSessionRequest>(step.request);
    intake.end(request.id);
    outlet.final(request.id, Status::kOkClosed, {}, {});
    outlet.publish_ordered();
    intake.release_ordered();
  }
}

double roundtrip_polling(const Options& options) {
  auto created = Region::create({});
  if (!created) die(created.error().message);
  const Region& region = created->region;
  const Agent agent(options.agent_core, [&] { answer_polling(region); });
  RingProducer<SubmissionEntry> submissions(region.submissions());
  RingConsumer<CompletionEntry> completions(region.completions());
  SubmissionEntry entry;
  entry.op = static_cast<std::uint16_t>(Op::kCloseSession);
  entry.session_id = 1;
  entry.top_p = 0;
  return p50_ns(options.rounds * 10, [&] {
    ++entry.request_id;
    submissions.push(entry);
    submissions.publish();
    CompletionEntry answer;
    while (!completions.pop(answer)) relax_cpu();
    completions.release();
  });
}

// ---- The whole of it ------------------------------------------------------------------------

/// Closes any session at once, and answers a generate with max_tokens tokens as fast as they are
/// taken.
class Echo final : public RequestHandler {
 public:
  void on_request(ClientId client, Request request) override {
    if (const auto* close = std::get_if<CloseSessionRequest>(&request)) {
      Server::Final final;
      final.status = Status::kOkClosed;
      return server->finish(client, close->id, final);
    }
    if (const auto* generate = std::get_if<GenerateRequest>(&request)) {
      client_ = client;
      id_ = generate->id;
      left_ = generate->max_tokens;
    }
  }
  void on_gone(ClientId) override { left_ = 0; }
  void on_space(ClientId) override {}

  /// True if tokens are left and were taken.
  bool step() {
    if (left_ == 0) return false;
    std::uint32_t taken = 0;
    while (left_ > 0 && taken < 4096 && server->can_take(client_)) {
      server->token(client_, id_, 7, left_--, 0);
      ++taken;
    }
    if (left_ == 0) server->finish(client_, id_, {Status::kOkLength, {}, 0, 1, 0, -1});
    return taken > 0;
  }

  Server* server = nullptr;

 private:
  ClientId client_ = 0;
  std::uint64_t id_ = 0;
  std::uint32_t left_ = 0;
};

void serve(const std::string& path) {
  Echo echo;
  ServerConfig config;
  config.socket_path = path;
  auto server = Server::listen(config, echo);
  if (!server) die(server.error().message);
  echo.server = server->get();
  ModelCard card;
  card.model = "bench";
  card.limits = kLimits;
  if (!(*server)->set_model(card)) die("no memory");
  bool busy = false;
  for (;;) {
    pollfd waiting = {(*server)->poll_fd(), POLLIN, 0};
    ::poll(&waiting, 1, busy ? 0 : -1);
    (*server)->run_ready();
    busy = echo.step();
    (*server)->flush();
  }
}

client::Connection connect_patiently(const std::string& path, std::uint32_t completion_entries) {
  for (int i = 0;; ++i) {
    try {
      ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
      options.completion_entries = completion_entries;
      return client::Connection(path, options);
    } catch (const client::Error& e) {
      if (!e.retryable() || i == 500) die(e.what());
      ::usleep(10'000);
    }
  }
}

double roundtrip_blocking(const Options& options, client::Connection& connection) {
  return p50_ns(options.rounds, [&] {
    const auto id = connection.close_session(1);
    const auto event = connection.next();
    if (!event || event->request != id) die("an answer went missing");
  });
}

double stream(const Options& options, client::Connection& connection) {
  const std::array<client::Token, 1> prompt = {1};
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = static_cast<std::uint32_t>(options.stream_tokens);
  request.stop_at_eos = false;
  const auto begin = Clock::now();
  connection.submit(request);
  std::uint64_t tokens = 0;
  for (;;) {
    const auto event = connection.next();
    if (!event) continue;
    if (client::is_final(*event)) break;
    ++tokens;
  }
  const std::chrono::duration<double> took = Clock::now() - begin;
  if (tokens != options.stream_tokens) die("tokens went missing");
  return static_cast<double>(tokens) / took.count();
}

// ---- The yardstick --------------------------------------------------------------------------

/// Packets of the same sizes over a blocking Unix socket: 128 bytes there, 64 back.
double unix_socket(const Options& options) {
  std::array<int, 2> ends = {};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends.data()) != 0) die("no socket pair");
  std::array<char, sizeof(SubmissionEntry)> there = {};
  std::array<char, sizeof(CompletionEntry)> back = {};
  const Agent agent(options.agent_core, [&] {
    while (::recv(ends[1], there.data(), there.size(), 0) > 0)
      if (::send(ends[1], back.data(), back.size(), 0) < 0) return;
  });
  const double p50 = p50_ns(options.rounds, [&] {
    if (::send(ends[0], there.data(), there.size(), 0) < 0 ||
        ::recv(ends[0], back.data(), back.size(), 0) < 0)
      die("the socket broke");
  });
  ::close(ends[0]);
  ::close(ends[1]);
  return p50;
}

// ---- Command line ---------------------------------------------------------------------------

constexpr const char* kUsage =
    "usage: ds4-ipc-bench [--json] [--cores AGENT,CLIENT] [--rounds N] [--tokens N]\n    [--ring "
    "ENTRIES]\n";

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (argument == "--json") {
      options.json = true;
      continue;
    }
    if (value == nullptr) die(fmt::format("what is {}?\n{}", argument, kUsage));
    ++i;
    if (argument == "--cores" &&
        std::sscanf(value, "%d,%d", &options.agent_core, &options.client_core) == 2)
      continue;
    const long long number = std::atoll(value);
    if (number < 10 || number > 1'000'000'000)
      die(fmt::format("{} {}?\n{}", argument, value, kUsage));
    if (argument == "--rounds")
      options.rounds = static_cast<std::size_t>(number);
    else if (argument == "--ring")
      options.ring = static_cast<std::uint32_t>(number);
    else if (argument == "--tokens")
      options.stream_tokens = static_cast<std::uint64_t>(number);
    else
      die(fmt::format("what is {}?\n{}", argument, kUsage));
  }
  return options;
}

int run(const Options& options) {
  std::string directory = "/tmp/ds4-ipc-bench-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) die("no directory under /tmp");
  const std::string path = directory + "/client.sock";
  pin(options.client_core);
  const double polling = roundtrip_polling(options);
  const double socket = unix_socket(options);
  double blocking = 0;
  double tokens = 0;
  {
    const Agent agent(options.agent_core, [&] { serve(path); });
    client::Connection connection = connect_patiently(path, options.ring);
    blocking = roundtrip_blocking(options, connection);
    tokens = stream(options, connection);
  }
  ::unlink(path.c_str());
  ::rmdir(directory.c_str());
  if (options.json)
    fmt::print(
        "{{\"roundtrip_poll_p50_ns\": {:.0f}, \"roundtrip_block_p50_ns\": {:.0f}, "
        "\"unix_socket_p50_ns\": {:.0f}, \"stream_tokens_per_s\": {:.0f}}}\n",
        polling, blocking, socket, tokens);
  else
    fmt::print(
        "round trip of one entry, polling     {:10.0f} ns\n"
        "round trip of one request, blocking  {:10.0f} ns\n"
        "Unix-socket ping-pong                {:10.0f} ns\n"
        "tokens through one ring              {:10.1f} million/s\n",
        polling, blocking, socket, tokens / 1e6);
  return 0;
}

}  // namespace
}  // namespace ds4::ipc

int main(int argc, char** argv) {
  return ds4::ipc::run(ds4::ipc::parse(argc, argv));
}
