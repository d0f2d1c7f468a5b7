// Starts that fail, strangers at the port, and what systemd is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <zmq.hpp>

#include "agent/wire/frame.h"
#include "agent/wire/message_kind.h"
#include "tests/agent/agent_process.h"

namespace ds4::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using wire::NodeState;

std::vector<std::string> arguments(const TempDir& directory, const std::string& model) {
  return {"--model",     model,
          "--name",      "x",
          "--listen",    "tcp://127.0.0.1:*",
          "--socket",    (directory.path() / "s").string(),
          "--state-dir", (directory.path() / "state").string()};
}

TEST(Start, VersionAndHelpSucceed) {
  EXPECT_THAT(run_ds4d({"--version"}).output, StartsWith("ds4d "));
  EXPECT_EQ(run_ds4d({"--version"}).exit_code, 0);
  EXPECT_EQ(run_ds4d({"--help"}).exit_code, 0);
  EXPECT_EQ(run_ds4d({"--nonsense"}).exit_code, 2);
}

TEST(Start, CheckConfigSaysIfItIsGood) {
  const TempDir directory;
  const auto path = directory.path() / "ds4d.toml";
  std::ofstream(path) << "model = \"/nowhere.gguf\"\n";
  const auto good = run_ds4d({"--config", path, "--check-config"});
  EXPECT_EQ(good.exit_code, 0) << good.output;
  std::ofstream(path) << "model = \"/nowhere.gguf\"\n[link]\ntimeout = 3\n";
  const auto bad = run_ds4d({"--config", path, "--check-config"});
  EXPECT_EQ(bad.exit_code, 2);
  EXPECT_THAT(bad.output, HasSubstr(path.string() + ":3: link.timeout is not a key"));
}

void write_drop_in(const std::filesystem::path& config, const char* name, const char* text) {
  const std::filesystem::path folder = config.string() + ".d";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / name) << text;
}

TEST(Start, DropInsAreReadInOrderOverTheFileAndUnderTheCommandLine) {
  const TempDir directory;
  const auto path = directory.path() / "ds4d.toml";
  std::ofstream(path) << "name = \"file\"\nmodel = \"/m.gguf\"\n[memory]\nlock = false\n";
  write_drop_in(path, "20.toml", "name = \"twenty\"\n[engine]\ncontext = 20\n");
  write_drop_in(path, "10.toml", "name = \"ten\"\n[engine]\ncontext = 10\nthreads = 3\n");
  write_drop_in(path, "30.toml.off", "name = \"thirty\"\n");
  const auto result = run_ds4d({"--config", path, "--model", "/line.gguf", "--check-config"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("name = \"twenty\"\nmodel = \"/line.gguf\"\n"));
  EXPECT_THAT(result.output, HasSubstr("engine.threads = 3\nengine.context = 20\n"));
  EXPECT_THAT(result.output, HasSubstr("memory.lock = false\n"));
  EXPECT_THAT(result.output, ::testing::EndsWith("the configuration is good\n"));
}

TEST(Start, ABadDropInIsNamed) {
  const TempDir directory;
  const auto path = directory.path() / "ds4d.toml";
  std::ofstream(path) << "model = \"/m.gguf\"\n";
  write_drop_in(path, "10.toml", "[engine]\nthread = 3\n");
  const auto result = run_ds4d({"--config", path, "--check-config"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("ds4d.toml.d/10.toml:2: engine.thread is not a key"));
}

TEST(Start, AStandaloneNodeServesTheWholeModelUntilSomebodyDecidesOtherwise) {
  AgentProcess agent({.name = "a"});
  ASSERT_TRUE(agent.becomes(NodeState::kIdle));
  ASSERT_EQ(agent.stop(), 0);
  write_drop_in(agent.config_path(), "10.toml", "standalone = true\n");
  agent.start();
  ASSERT_TRUE(agent.becomes(NodeState::kReady));
  EXPECT_EQ(agent.status().layers, "0:output");
  EXPECT_EQ(agent.status().highest_epoch, 1U);

  ASSERT_TRUE(agent.ask({.id = 1, .body = wire::ReleaseRequest{}}));
  ASSERT_TRUE(agent.becomes(NodeState::kIdle));
  ASSERT_EQ(agent.stop(), 0);
  agent.start();
  EXPECT_EQ(agent.status().state, NodeState::kIdle);  // released is released, over restarts too

  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 2));
}

TEST(Start, AHangupReadsTheConfigurationAgain) {
  AgentProcess agent({.name = "a"});
  const auto says = [&](const char* text) {
    return eventually([&] { return agent.log().find(text) != std::string::npos; });
  };
  write_drop_in(agent.config_path(), "10.toml",
                "[engine]\nstuck_ms = 5000\ncontext = 77\n[log]\nlevel = \"notice\"\n");
  agent.signal(SIGHUP);
  EXPECT_TRUE(says("in force now: engine.stuck_ms, log.level; after a restart: engine.context"));
  write_drop_in(agent.config_path(), "10.toml", "[engine]\nstuck_ms = \"soon\"\n");
  agent.signal(SIGHUP);
  EXPECT_TRUE(says("nothing was reloaded: "));
  EXPECT_TRUE(says("10.toml:2: engine.stuck_ms must be"));
  EXPECT_EQ(agent.status().state, NodeState::kIdle);
}

TEST(Start, AMissingConfigurationIsNamed) {
  const auto result = run_ds4d({"--config", "/nowhere/ds4d.toml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.output, HasSubstr("/nowhere/ds4d.toml"));
}

TEST(Start, AMissingModelIsNamed) {
  const TempDir directory;
  const auto result = run_ds4d(arguments(directory, "/nowhere.gguf"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("/nowhere.gguf"));
}

TEST(Start, AModelOfAnotherArchitectureIsRefused) {
  const TempDir directory;
  std::ifstream in(tiny_q4_model(), std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(in)), {});
  for (std::size_t at = 0; (at = bytes.find("deepseek4", at)) != std::string::npos; ++at) {
    bytes.replace(at, 9, "deepseekX");
  }
  const auto path = directory.path() / "other.gguf";
  std::ofstream(path, std::ios::binary) << bytes;
  const auto result = run_ds4d(arguments(directory, path));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("deepseekX"));
}

TEST(Start, ATruncatedModelIsRefused) {
  const TempDir directory;
  const auto path = directory.path() / "short.gguf";
  std::filesystem::copy_file(tiny_q4_model(), path);
  std::filesystem::resize_file(path, 5'000'000);
  const auto result = run_ds4d(arguments(directory, path));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr(path.string()));
}

TEST(Start, APortInUseIsOneClearSentence) {
  AgentProcess first({.name = "a"});
  const TempDir directory;
  auto words = arguments(directory, tiny_q4_model());
  words[5] = first.address();
  const auto result = run_ds4d(words);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("listen on " + first.address()));
  EXPECT_THAT(result.output, HasSubstr("set listen.address"));
}

TEST(Start, ASharedStateDirectoryIsRefused) {
  AgentProcess first({.name = "a"});
  const TempDir directory;
  auto words = arguments(directory, tiny_q4_model());
  words[9] = first.state_dir().string();
  const auto result = run_ds4d(words);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("another ds4d uses the state directory"));
}

TEST(Start, ADamagedLedgerIsNotForgotten) {
  AgentProcess agent({.name = "a"});
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  ASSERT_EQ(agent.stop(), 0);
  std::ofstream(agent.state_dir() / "route.json") << "{";
  const auto result = run_ds4d({"--config", agent.config_path(), "--listen", "tcp://127.0.0.1:*"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.output, HasSubstr("move it away"));
}

// ---- strangers -------------------------------------------------------------------------------

/// Whom only insecure = true lets in, so that what he says is looked at.
class Stranger : public ::testing::Test {
 protected:
  Stranger() {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::rcvtimeo, 60'000);
    socket.connect(agent.address());
  }
  void say(wire::MessageKind kind, const std::vector<std::string>& parts) {
    socket.send(zmq::buffer(wire::encode_kind(kind)),
                parts.empty() ? zmq::send_flags::none : zmq::send_flags::sndmore);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto more = i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
      socket.send(zmq::buffer(parts[i]), more);
    }
  }
  std::string hear() {
    zmq::message_t kind;
    zmq::message_t body;
    if (!socket.recv(kind) || !socket.recv(body)) return "silence";
    return body.to_string();
  }
  AgentProcess agent{{.name = "a", .insecure = true}};
  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
};

TEST_F(Stranger, AWrongRequestIsAnsweredWhereItsIdCanBeRead) {
  say(wire::MessageKind::kControl, {R"({"id": 9, "request": "explode"})"});
  const auto reply = wire::decode_reply(hear());
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->id, 9U);
  ASSERT_TRUE(reply->error);
  EXPECT_EQ(reply->error->code, ErrorCode::kCorrupt);
}

TEST_F(Stranger, NonsenseIsSurvived) {
  ASSERT_TRUE(assign({&agent}, route_of({{&agent, "0:output"}}), 1));
  say(wire::MessageKind::kControl, {""});
  say(wire::MessageKind::kControl, {std::string(100'000, '[')});
  for (const auto kind :
       {wire::MessageKind::kWork, wire::MessageKind::kToken, wire::MessageKind::kClose,
        wire::MessageKind::kError, wire::MessageKind::kPing}) {
    say(kind, {});
    say(kind, {""});
    say(kind, {"short"});
    say(kind, {std::string(4096, '\xff')});
    say(kind, {std::string(4096, '\xff'), std::string(4096, '\xff')});
  }
  // Well-formed, but with streams where token ids belong, from an epoch of long ago, about a stage
  // that is not there.
  wire::WorkFrame work;
  work.epoch = 1;
  wire::WorkItem& item = work.items.emplace_back();
  item.session = 3;
  item.context = 16;
  item.entry = 200;
  item.tokens = {1};
  say(wire::MessageKind::kWork, {encode(work), std::string(4 * 256 * 4, '\0')});
  say(wire::MessageKind::kWork, {encode(work)});
  work.epoch = 99;
  say(wire::MessageKind::kWork, {encode(work)});
  say(wire::MessageKind::kPing, {encode(wire::PingFrame{.epoch = 1, .stage = 4'000'000'000})});

  say(wire::MessageKind::kControl, {R"({"id": 10, "request": "status"})"});
  const auto reply = wire::decode_reply(hear());
  ASSERT_TRUE(reply) << reply.error().message;
  EXPECT_EQ(reply->id, 10U);
  EXPECT_EQ(reply->status->state, NodeState::kReady);
}

// ---- systemd ---------------------------------------------------------------------------------

/// Listens where systemd would.
class NotifySocket {
 public:
  NotifySocket() : fd_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path().c_str(), sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  std::string path() const { return (directory_.path() / "notify").string(); }
  /// Everything told so far.
  const std::string& told() {
    char buffer[4096];
    ssize_t n = 0;
    while ((n = ::recv(fd_.get(), buffer, sizeof(buffer), 0)) > 0) {
      told_.append(buffer, static_cast<std::size_t>(n));
    }
    return told_;
  }
  bool comes_to_tell(const std::string& line) {
    return eventually([&] { return told().find(line) != std::string::npos; });
  }
  void forget() {
    told();
    told_.clear();
  }

 private:
  TempDir directory_;
  UniqueFd fd_;
  std::string told_;
};

TEST(Systemd, AnUnassignedAgentIsReadyAndSaysWhatIsMissing) {
  NotifySocket systemd;
  AgentProcess agent({.name = "a", .environment = {{"NOTIFY_SOCKET", systemd.path()}}});
  EXPECT_TRUE(systemd.comes_to_tell("READY=1\n"));
  EXPECT_TRUE(systemd.comes_to_tell("STATUS=idle: no layers assigned; use ds4ctl assign\n"));
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_TRUE(systemd.comes_to_tell("STOPPING=1\n"));
}

TEST(Systemd, AnAssignedAgentIsReadyOnlyOnceACanaryHasCrossedTheRoute) {
  NotifySocket systemd;
  AgentProcess a({.name = "a", .environment = {{"NOTIFY_SOCKET", systemd.path()}}});
  AgentProcess b({.name = "b"});
  ASSERT_TRUE(assign({&a, &b}, route_of({{&a, "0:2"}, {&b, "3:output"}}), 1));
  b.kill_hard();
  a.kill_hard();
  systemd.forget();
  a.start();
  EXPECT_TRUE(systemd.comes_to_tell("STATUS=degraded: no word from node b"));
  EXPECT_THAT(systemd.told(), HasSubstr("EXTEND_TIMEOUT_USEC="));
  EXPECT_THAT(systemd.told(), Not(HasSubstr("READY=1")));
  b.start();
  EXPECT_TRUE(systemd.comes_to_tell("READY=1\n"));
  EXPECT_TRUE(a.becomes(NodeState::kReady));
}

}  // namespace
}  // namespace ds4::test
