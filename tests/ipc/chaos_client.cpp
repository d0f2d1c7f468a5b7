#include "tests/ipc/chaos_client.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <thread>

#include "ipc/client/ds4.hpp"

namespace ds4::test {
namespace {

using client::Event;
using client::Token;

constexpr std::chrono::seconds kPatience{120};
constexpr std::chrono::milliseconds kBackOff{5};
constexpr std::array kQuestions = {"What is the capital of France?", "What is 37 + 45?",
                                   "Define ocean.", "Which continent is Kenya in?", "The ocean is"};

/// A limit was reached: the same again, a little later. Anything else is passed on.
template <typename Call>
auto patiently(ChaosRecord& record, Call call) {
  for (const auto end = std::chrono::steady_clock::now() + kPatience;;) {
    try {
      return call();
    } catch (const client::Error& error) {
      if (error.status() != DS4_BUSY || std::chrono::steady_clock::now() > end) throw;
      ++record.busy_retries;
      std::this_thread::sleep_for(kBackOff);
    }
  }
}

class Program {
 public:
  Program(const std::string& socket, std::uint32_t slot, std::uint32_t tokens, ChaosRecord& record)
      : slot_(slot),
        tokens_(tokens),
        record_(record),
        agent_(patiently(record, [&] { return client::Connection(socket, options(slot)); })) {}

  void run() {
    const auto first = agent_.chat(kQuestions.at(slot_ % kQuestions.size()));
    const bool goes_on = slot_ % 4 == 1 || slot_ % 4 == 2;
    std::uint64_t session = answer(first, 0, goes_on);
    if (!goes_on) return;
    if (slot_ % 4 == 2) session = fork(session);
    const auto second = agent_.chat(kQuestions.at((slot_ + 1) % kQuestions.size()));
    answer(second, session, true);  // kept: its program's end must be enough to forget it
  }

 private:
  /// One in four has room for next to nothing, so that the agent has to wait for it.
  static ds4_connect_options options(std::uint32_t slot) {
    ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
    options.timeout_ms = 60'000;
    options.name = "chaos";
    options.reconnect_ms = DS4_NEVER;
    if (slot % 4 == 3) options.completion_entries = 8;
    return options;
  }

  std::uint64_t answer(const std::vector<Token>& prompt, std::uint64_t session, bool keep) {
    const std::uint32_t begin = record_.tokens.load();
    return patiently(record_, [&] {
      record_.tokens.store(begin);
      client::Request request;
      request.prompt = prompt;
      request.max_tokens = tokens_;
      request.stop_at_eos = false;
      request.temperature = 1.0F;
      request.seed = slot_;
      request.session = session;
      request.keep_session = keep;
      return take_final(agent_.submit(request)).session;
    });
  }

  std::uint64_t fork(std::uint64_t session) {
    return patiently(record_, [&] { return take_final(agent_.fork_session(session)).session; });
  }

  Event take_final(std::uint64_t request) {
    for (;;) {
      const auto event = agent_.next(kPatience);
      if (!event) throw std::runtime_error("nothing comes any more");
      if (event->request != request) throw std::runtime_error("an event of another request");
      if (client::is_token(*event)) write_down(event->token);
      if (client::is_error(*event)) throw client::Error(event->status, event->sentence);
      if (client::is_final(*event)) return *event;
    }
  }

  void write_down(Token token) {
    const std::uint32_t at = record_.tokens.load();
    record_.stream.at(at) = token;
    record_.tokens.store(at + 1);
  }

  const std::uint32_t slot_;
  const std::uint32_t tokens_;
  ChaosRecord& record_;
  client::Connection agent_;
};

}  // namespace

bool run_chaos_client(const std::string& socket, std::uint32_t slot, std::uint32_t tokens,
                      ChaosRecord& record) noexcept {
  try {
    Program(socket, slot, tokens, record).run();
    return true;
  } catch (const std::exception& error) {
    std::strncpy(record.sentence.data(), error.what(), record.sentence.size() - 1);
    return false;
  }
}

}  // namespace ds4::test
