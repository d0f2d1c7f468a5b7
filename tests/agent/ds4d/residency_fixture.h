#pragma once
// What the tests of residency ask of a running agent.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "ipc/client/ds4.hpp"
#include "tests/agent/agent_process.h"

namespace ds4::test {

struct Said {
  std::string text;
  std::uint32_t tokens = 0;
  int status = -1;
};

/// One short greedy answer.
inline Said say(const AgentProcess& agent, std::uint32_t max_tokens = 8) {
  client::Connection connection(agent.socket_path());
  const auto prompt = connection.tokenize("The ocean");
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = max_tokens;
  connection.submit(request);
  Said said;
  auto decoder = connection.decoder();
  while (const auto event = connection.next(kPatience)) {
    if (client::is_token(*event)) {
      said.text += decoder.push(event->token);
      ++said.tokens;
    } else if (client::is_final(*event)) {
      said.status = event->status;
      return said;
    }
  }
  ADD_FAILURE() << "no answer";
  return said;
}

/// A copy of the tiny model that a test may spoil.
class SpareModel {
 public:
  SpareModel() : path_((directory_.path() / "model.gguf").string()) { restore(); }
  const std::string& path() const { return path_; }
  /// The whole model again, in the same file.
  void restore() {
    std::ifstream in(tiny_q4_model(), std::ios::binary);
    std::ofstream out(path_, std::ios::binary | std::ios::trunc);
    out << in.rdbuf();
  }
  void truncate(std::uintmax_t bytes) { std::filesystem::resize_file(path_, bytes); }

 private:
  TempDir directory_;
  std::string path_;
};

inline std::string proc_text(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Bytes that the process has read by system calls since it began.
inline std::uint64_t bytes_read_by(pid_t pid) {
  const std::string io = proc_text(pid, "io");
  const auto at = io.find("rchar: ");
  return at == std::string::npos ? 0 : std::stoull(io.substr(at + 7));
}

}  // namespace ds4::test
