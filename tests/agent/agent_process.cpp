#include "tests/agent/agent_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>
#include <zmq.hpp>

#include "agent/keys/key_files.h"
#include "agent/wire/message_kind.h"
#include "tests/agent/prove.h"

namespace ds4::test {
namespace {

using namespace std::chrono_literals;

std::string ds4d_path() {
  return DS4_BINARY_DIR "/bin/ds4d";
}

/// In the child: descriptors from 3 on, as sd_listen_fds(3) expects them. Moved out of each other's
/// way first.
void pass_descriptors(const std::vector<std::pair<std::string, int>>& stored) {
  constexpr int kFirst = 3;
  std::string names;
  std::vector<int> moved;
  for (const auto& [name, fd] : stored) {
    moved.push_back(::fcntl(fd, F_DUPFD, 500));
    names += (names.empty() ? "" : ":") + name;
  }
  for (std::size_t i = 0; i < moved.size(); ++i) {
    ::dup2(moved[i], kFirst + static_cast<int>(i));
    ::close(moved[i]);
  }
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", std::to_string(stored.size()).c_str(), 1);
  ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
}

/// Starts ds4d with both outputs appended to `log`.
pid_t spawn(const std::vector<std::string>& arguments, const std::filesystem::path& log,
            const std::map<std::string, std::string>& environment,
            const std::vector<std::pair<std::string, int>>& stored = {}) {
  std::vector<std::string> words = {ds4d_path()};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  const int fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(fd, STDOUT_FILENO);
  ::dup2(fd, STDERR_FILENO);
  for (const auto& [key, value] : environment) ::setenv(key.c_str(), value.c_str(), 1);
  if (!stored.empty()) pass_descriptors(stored);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

void prove(zmq::socket_t& socket, const keys::KeyPair& who, const std::string& server) {
  const auto key = keys::parse_public_key(server).value();
  socket.set(zmq::sockopt::curve_serverkey, zmq::buffer(key.bytes.data(), key.bytes.size()));
  socket.set(zmq::sockopt::curve_publickey,
             zmq::buffer(who.public_key.bytes.data(), who.public_key.bytes.size()));
  socket.set(zmq::sockopt::curve_secretkey, zmq::buffer(who.secret.data(), who.secret.size()));
}

std::string tiny_q4_model() {
  return DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf";
}

std::string tiny_q2_model() {
  return DS4_SOURCE_DIR "/tests/models/tiny-v4-q2.gguf";
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "ds4-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(10ms);
  }
  return true;
}

AgentProcess::AgentProcess(AgentSpec spec) : spec_(std::move(spec)) {
  std::ofstream(config_path()) << (spec_.insecure ? "insecure = true\n" : "") << "name = \""
                               << spec_.name << "\"\nmodel = \"" << spec_.model
                               << "\"\nstate_dir = \"" << state_dir().string()
                               << "\"\n[client]\nsocket = \"" << socket_path() << "\"\n"
                               << spec_.toml;
  start();
}

AgentProcess::~AgentProcess() {
  if (pid_ > 0) kill_hard();
}

void AgentProcess::start() {
  const std::size_t before = log().size();
  pid_ = spawn({"--config", config_path().string(), "--listen", address_},
               directory_.path() / "log", spec_.environment,
               spec_.stored ? spec_.stored() : std::vector<std::pair<std::string, int>>());
  const std::string mark = "listening on ";
  std::string said;
  const bool up = eventually([&] {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return true;
    }
    said = log().substr(before);
    const auto at = said.find(mark);
    return at != std::string::npos && said.find('\n', at) != std::string::npos;
  });
  if (!up || pid_ < 0) {
    ADD_FAILURE() << "ds4d did not come up: " << log();
    return;
  }
  const auto begin = said.find(mark) + mark.size();
  address_ = said.substr(begin, said.find('\n', begin) - begin);
}

std::string AgentProcess::log() const {
  return read_file(directory_.path() / "log");
}

void AgentProcess::signal(int number) const {
  ASSERT_GT(pid_, 0);
  ::kill(pid_, number);
}

int AgentProcess::wait_end() {
  int status = 0;
  const bool ended = eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
  if (!ended) {
    ADD_FAILURE() << "ds4d does not end: " << log();
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status, 0);
  }
  pid_ = -1;
  return exit_code_of(status);
}

void AgentProcess::kill_hard() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  wait_end();
}

int AgentProcess::stop() {
  if (pid_ <= 0) return -1;
  ::kill(pid_, SIGTERM);
  return wait_end();
}

std::string AgentProcess::node_key() const {
  if (spec_.insecure) return {};
  const auto card = keys::load_card(state_dir());
  if (!card || !card->key) {
    ADD_FAILURE() << "node " << name() << " has no key";
    return {};
  }
  return keys::to_text(*card->key);
}

keys::KeyPair AgentProcess::operator_key() const {
  auto pair = keys::load_key(state_dir(), keys::KeyRole::kOperator);
  if (pair) return *pair;
  ADD_FAILURE() << pair.error().message;
  return {};
}

std::optional<wire::Reply> AgentProcess::ask(wire::Request request) const {
  return ask_as(spec_.insecure ? keys::KeyPair{} : operator_key(), std::move(request));
}

std::optional<wire::Reply> AgentProcess::ask_as(const keys::KeyPair& who, wire::Request request,
                                                std::chrono::milliseconds patience) const {
  request.id = 77;
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
  socket.set(zmq::sockopt::linger, 0);
  socket.set(zmq::sockopt::rcvtimeo, static_cast<int>(patience.count()));
  if (!spec_.insecure) prove(socket, who, node_key());
  socket.connect(address_);
  socket.send(zmq::buffer(wire::encode_kind(wire::MessageKind::kControl)),
              zmq::send_flags::sndmore);
  socket.send(zmq::buffer(encode(request)), zmq::send_flags::none);
  zmq::message_t kind;
  zmq::message_t body;
  if (!socket.recv(kind) || !socket.recv(body)) return std::nullopt;
  auto reply = wire::decode_reply(body.to_string_view());
  if (!reply || reply->id != request.id) {
    ADD_FAILURE() << "no reply to this request: " << body.to_string_view();
    return std::nullopt;
  }
  return *std::move(reply);
}

wire::NodeStatus AgentProcess::status() const {
  const auto reply = ask({.body = wire::StatusRequest{}});
  if (!reply || !reply->status) {
    ADD_FAILURE() << "node " << name() << " does not answer: " << log();
    return {};
  }
  return *reply->status;
}

bool AgentProcess::becomes(wire::NodeState state) const {
  return eventually([&] { return status().state == state; });
}

std::vector<wire::StageSpec> route_of(
    const std::vector<std::pair<const AgentProcess*, std::string>>& layers) {
  std::vector<wire::StageSpec> route;
  for (const auto& [agent, range] : layers) {
    route.push_back({agent->name(), agent->address(), range, agent->node_key()});
  }
  return route;
}

bool assign(const std::vector<const AgentProcess*>& agents,
            const std::vector<wire::StageSpec>& route, std::uint64_t epoch) {
  for (const AgentProcess* agent : agents) {
    const auto reply = agent->ask({.body = wire::PrepareRequest{epoch, "", route, agent->name()}});
    if (!reply || reply->error) {
      ADD_FAILURE() << agent->name() << ": " << (reply ? reply->error->message : "silent");
      return false;
    }
  }
  for (const AgentProcess* agent : agents) {
    const bool prepared = eventually([&] {
      const auto preparation = agent->status().preparation;
      return preparation && preparation->phase == wire::PreparePhase::kPrepared;
    });
    if (!prepared) {
      ADD_FAILURE() << agent->name() << " does not prepare: " << agent->log();
      return false;
    }
  }
  for (const AgentProcess* agent : agents) {
    const auto reply = agent->ask({.body = wire::CommitRequest{epoch}});
    if (!reply || reply->error) {
      ADD_FAILURE() << agent->name() << ": " << (reply ? reply->error->message : "silent");
      return false;
    }
  }
  for (const AgentProcess* agent : agents) {
    if (agent->becomes(wire::NodeState::kReady)) continue;
    ADD_FAILURE() << agent->name() << " does not get ready: " << agent->log();
    return false;
  }
  return true;
}

RunResult run_ds4d(const std::vector<std::string>& arguments) {
  const TempDir directory;
  const auto log = directory.path() / "log";
  const pid_t pid = spawn(arguments, log, {});
  int status = 0;
  const bool ended = eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; });
  if (!ended) {
    ADD_FAILURE() << "ds4d runs on: " << read_file(log);
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  return {exit_code_of(status), read_file(log)};
}

}  // namespace ds4::test
