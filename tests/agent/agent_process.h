#pragma once
// Real ds4d processes on the loopback interface, in directories of their own, and a way to talk to
// them. For tests; waits are bounded by kPatience, which no healthy machine comes near.
#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/keys/key.h"
#include "agent/wire/control.h"
#include "engine/base/unique_fd.h"

namespace ds4::test {

inline constexpr std::chrono::seconds kPatience{60};

/// Paths of the models that come with the source.
std::string tiny_q4_model();
std::string tiny_q2_model();

/// A directory that goes with the object. Short, because socket paths must be.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Polls until `condition` holds; false after kPatience.
bool eventually(const std::function<bool()>& condition);

struct AgentSpec {
  std::string name = "a";
  std::string model = tiny_q4_model();
  /// More lines of ds4d.toml: whole tables, e.g. "[engine]\ngraph = \"plain\"\n".
  std::string toml = "[engine]\nthreads = 1\n";
  std::map<std::string, std::string> environment = {};
  /// Asked at each start: descriptors that are passed as a service manager passes them
  /// (LISTEN_FDS).
  std::function<std::vector<std::pair<std::string, int>>()> stored = {};
  bool insecure = false;
};

/// One ds4d; killed and waited for at the end, if it has not ended before.
class AgentProcess {
 public:
  /// Started, and listening. Its first start takes a free port; restarts keep it. Fails the test
  /// (and returns an ended process) if ds4d does not come up.
  explicit AgentProcess(AgentSpec spec);
  ~AgentProcess();
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  const std::string& name() const { return spec_.name; }
  const std::string& address() const { return address_; }
  /// Of the socket for local programs.
  std::string socket_path() const { return (directory_.path() / "client.sock").string(); }
  std::filesystem::path state_dir() const { return directory_.path() / "state"; }
  std::filesystem::path config_path() const { return directory_.path() / "ds4d.toml"; }
  pid_t pid() const { return pid_; }
  /// Its public key ("node:..."); empty if it is insecure.
  std::string node_key() const;
  /// Of its machine's operator, who may command it.
  keys::KeyPair operator_key() const;
  /// A request to it with another key than its operator's.
  std::optional<wire::Reply> ask_as(const keys::KeyPair& who, wire::Request request,
                                    std::chrono::milliseconds patience = kPatience) const;
  /// Everything it has written to stderr, over all its starts.
  std::string log() const;

  void signal(int number) const;
  /// kill -9, waited for.
  void kill_hard();
  /// SIGTERM; its exit code, or 128 + the signal that ended it.
  int stop();
  void start();

  /// One control request. Empty if no answer comes within kPatience.
  std::optional<wire::Reply> ask(wire::Request request) const;
  /// Its status; fails the test and returns an empty one if it does not answer.
  wire::NodeStatus status() const;
  bool becomes(wire::NodeState state) const;

 private:
  int wait_end();

  AgentSpec spec_;
  TempDir directory_;
  std::string address_ = "tcp://127.0.0.1:*";
  pid_t pid_ = -1;
};

/// The stages of a route over these agents.
std::vector<wire::StageSpec> route_of(
    const std::vector<std::pair<const AgentProcess*, std::string>>& layers);

/// Prepares and commits `route` on all its agents and waits until they are ready. False, with a
/// failed test, if any of it does not work.
bool assign(const std::vector<const AgentProcess*>& agents,
            const std::vector<wire::StageSpec>& route, std::uint64_t epoch);

/// Runs ds4d with these arguments to its end, for starts that are to fail.
struct RunResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};
RunResult run_ds4d(const std::vector<std::string>& arguments);

}  // namespace ds4::test
