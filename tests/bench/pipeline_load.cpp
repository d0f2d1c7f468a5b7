// One measurement of a running agent, through its client library: what tests/bench/pipeline.sh
// takes its ratios of. Prints one line of JSON.
#include <dirent.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "ipc/client/ds4.hpp"

namespace {

using ds4::client::Connection;
using ds4::client::Event;
using ds4::client::is_final;
using ds4::client::is_token;
using ds4::client::Request;
using ds4::client::Token;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kShortPrompt = 16;
constexpr double kQuietSeconds = 0.5;  // of the gaps before, and after, the prompt in the way

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// Of all threads of the processes, as the scheduler has it: a thread's share of a core says more
/// than the clock where other programs run too.
double cpu_seconds(const std::vector<int>& pids) {
  double seconds = 0;
  for (const int pid : pids) {
    const std::string folder = fmt::format("/proc/{}/task", pid);
    DIR* tasks = ::opendir(folder.c_str());
    if (tasks == nullptr) continue;
    while (const dirent* task = ::readdir(tasks)) {
      std::ifstream stat(fmt::format("{}/{}/schedstat", folder, task->d_name));
      double nanoseconds = 0;
      if (stat >> nanoseconds) seconds += nanoseconds / 1e9;
    }
    ::closedir(tasks);
  }
  return seconds;
}

/// Reproducible tokens, another sequence for each `seed`.
std::vector<Token> prompt_of(std::size_t tokens, std::uint32_t seed, std::uint32_t vocabulary) {
  std::vector<Token> prompt(tokens);
  std::uint32_t state = seed * 2654435761U + 1;
  for (Token& token : prompt) {
    state = state * 1664525U + 1013904223U;
    token = static_cast<Token>((state >> 8) % vocabulary);
  }
  return prompt;
}

ds4::client::RequestId ask(Connection& agent, std::size_t prompt_tokens, std::uint32_t max_tokens,
                           std::uint32_t seed) {
  Request request;
  const auto prompt = prompt_of(prompt_tokens, seed, agent.info().vocabulary);
  request.prompt = prompt;
  request.max_tokens = max_tokens;
  request.stop_at_eos = false;
  return agent.submit(request);
}

Event wait(Connection& agent) {
  while (true) {
    const auto event = agent.next();
    if (!event) continue;
    if (ds4::client::is_error(*event)) throw std::runtime_error(event->sentence);
    return *event;
  }
}

struct Rate {
  double per_second = 0;
  double cpu_seconds = 0;  // of the agents, per 1,000 tokens
};

/// `streams` answers at once, counted while all of them run.
Rate decode(Connection& agent, std::uint32_t streams, std::uint32_t tokens,
            const std::vector<int>& pids) {
  for (std::uint32_t i = 0; i < streams; ++i) ask(agent, kShortPrompt, tokens, i + 1);
  std::map<std::uint64_t, bool> begun;
  Clock::time_point begin;
  double cpu_begin = 0;
  std::uint64_t counted = 0;
  Rate rate;
  std::uint32_t ended = 0;
  while (ended < streams) {
    const Event event = wait(agent);
    const bool all = begun.size() == streams;
    if (is_token(event)) {
      begun[event.request] = true;
      if (all && ended == 0) ++counted;
      if (!all && begun.size() == streams) {
        begin = Clock::now();
        cpu_begin = cpu_seconds(pids);
      }
    } else if (is_final(event) && ended++ == 0) {
      rate.per_second = static_cast<double>(counted) / seconds_between(begin, Clock::now());
      rate.cpu_seconds = (cpu_seconds(pids) - cpu_begin) * 1000 / static_cast<double>(counted);
    }
  }
  return rate;
}

Rate prefill(Connection& agent, std::uint32_t tokens, const std::vector<int>& pids) {
  const double cpu_begin = cpu_seconds(pids);
  const Clock::time_point begin = Clock::now();
  ask(agent, tokens, 1, 1);
  Rate rate;
  for (bool ended = false; !ended;) {
    const Event event = wait(agent);
    if (is_token(event)) rate.per_second = tokens / seconds_between(begin, Clock::now());
    ended = is_final(event);
  }
  rate.cpu_seconds = (cpu_seconds(pids) - cpu_begin) * 1000 / tokens;
  return rate;
}

/// Milliseconds from one token to the next.
struct Gaps {
  std::vector<double> quiet;
  std::vector<double> busy;  // while another client's prompt was being read
};

Gaps gaps(Connection& agent, const std::string& socket, std::uint32_t prompt) {
  Connection other(socket);
  const auto stream = ask(agent, kShortPrompt, 0, 1);
  while (!is_token(wait(agent))) continue;
  Gaps gaps;
  const Clock::time_point begin = Clock::now();
  Clock::time_point last = begin;
  Clock::time_point prompt_ended;
  bool asked = false;
  bool reading = false;
  while (!asked || reading || seconds_between(prompt_ended, last) < kQuietSeconds) {
    if (!is_token(wait(agent))) throw std::runtime_error("the answer was too short to measure");
    const Clock::time_point now = Clock::now();
    (reading ? gaps.busy : gaps.quiet).push_back(seconds_between(last, now) * 1e3);
    last = now;
    if (!asked && seconds_between(begin, now) > kQuietSeconds) {
      ask(other, prompt, 1, 2);
      asked = reading = true;
    }
    while (const auto event = reading ? other.next(std::chrono::milliseconds(0)) : std::nullopt) {
      if (!is_final(*event)) continue;
      reading = false;
      prompt_ended = now;
    }
  }
  agent.cancel(stream);
  while (agent.info().requests > 0) (void)agent.next();
  return gaps;
}

std::string summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values.empty() ? 0 : values[static_cast<std::size_t>(share * (values.size() - 1))];
  };
  return fmt::format(R"({{"count":{},"p50":{:.3f},"p99":{:.3f},"max":{:.3f}}})", values.size(),
                     at(0.5), at(0.99), at(1));
}

std::string to_json(const Rate& rate) {
  return fmt::format(R"({{"tokens_per_s":{:.1f},"cpu_ms_per_token":{:.4f}}})", rate.per_second,
                     rate.cpu_seconds);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("One measurement of a running agent, as one line of JSON");
  std::string socket;
  std::vector<int> pids;
  std::uint32_t streams = 1;
  std::uint32_t tokens = 256;
  std::uint32_t prompt = 4096;
  app.add_option("--socket", socket, "The agent's client socket")->required();
  app.add_option("--pids", pids, "Whose processor time is counted")->delimiter(',');
  auto* decoding = app.add_subcommand("decode", "Tokens per second of answers at once");
  decoding->add_option("--streams", streams);
  decoding->add_option("--tokens", tokens, "Of each answer");
  auto* prefilling = app.add_subcommand("prefill", "Tokens per second of one prompt");
  prefilling->add_option("--prompt", prompt);
  auto* gapping = app.add_subcommand("gaps", "Milliseconds between tokens, beside a prompt");
  gapping->add_option("--prompt", prompt);
  app.require_subcommand(1);
  CLI11_PARSE(app, argc, argv);
  try {
    Connection agent(socket);
    if (*decoding) fmt::print("{}\n", to_json(decode(agent, streams, tokens, pids)));
    if (*prefilling) fmt::print("{}\n", to_json(prefill(agent, prompt, pids)));
    if (*gapping) {
      const Gaps seen = gaps(agent, socket, prompt);
      fmt::print("{{\"quiet_ms\":{},\"busy_ms\":{}}}\n", summary(seen.quiet), summary(seen.busy));
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "pipeline-load: {}\n", error.what());
    return 1;
  }
}
