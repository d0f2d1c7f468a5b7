// Client and agent as two processes: what only the kernel can show.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "ipc/client/ds4.hpp"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

/// A child that runs `body` and exits with what it returns.
template <typename Body>
pid_t fork_child(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  return pid;
}

int exit_code(pid_t pid) {
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// A client that asks for `count` tokens and checks every one.
int ask(const std::string& path, std::uint32_t count) {
  ds4_client* client = nullptr;
  if (ds4_connect(path.c_str(), nullptr, &client) != DS4_OK) return 1;
  const ds4_token prompt[] = {10, 20};
  ds4_request request = DS4_REQUEST_INIT;
  request.prompt = prompt;
  request.prompt_tokens = 2;
  request.max_tokens = count;
  std::uint64_t id = 0;
  if (ds4_submit(client, &request, &id) != DS4_OK) return 2;
  std::uint32_t tokens = 0;
  ds4_event event;
  for (;;) {
    if (ds4_next(client, &event, 30'000) != DS4_OK) return 3;
    if (event.kind == DS4_EVENT_FINAL) break;
    if (event.token != static_cast<ds4_token>((30 + tokens) % kVocabulary)) return 4;
    ++tokens;
  }
  ds4_close(client);
  if (event.status != DS4_OK_LENGTH) return 5;
  return tokens == count ? 0 : 6;
}

TEST(TwoProcesses, AnswersCrossThem) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i)
    children.push_back(fork_child([&] { return ask(place.path(), 3000); }));
  for (const pid_t child : children) EXPECT_EQ(exit_code(child), 0);
  EXPECT_TRUE(eventually([&] { return agent.clients() == 0; }));
}

TEST(TwoProcesses, AKilledClientLeavesNothingBehindAndDisturbsNobody) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  const std::size_t before = open_descriptors();
  const pid_t survivor = fork_child([&] { return ask(place.path(), 200'000); });
  for (int round = 0; round < 20; ++round) {
    int ready[2];
    ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    const pid_t victim = fork_child([&] {
      ds4_client* client = nullptr;
      if (ds4_connect(place.path().c_str(), nullptr, &client) != DS4_OK) return 1;
      const std::vector<ds4_token> prompt(50'000, 1);  // some die in the middle of their prompt
      ds4_request request = DS4_REQUEST_INIT;
      request.prompt = prompt.data();
      request.prompt_tokens = round % 2 == 0 ? prompt.size() : 5;
      std::uint64_t id = 0;
      if (ds4_submit(client, &request, &id) != DS4_OK) return 2;
      (void)!::write(ready[1], "x", 1);
      ds4_event event;
      for (;;) ds4_next(client, &event, round % 3 == 0 ? -1 : 1);
    });
    ::close(ready[1]);
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 5));
    ::kill(victim, SIGKILL);
    EXPECT_EQ(exit_code(victim), 128 + SIGKILL);
  }
  EXPECT_EQ(exit_code(survivor), 0) << "every token of the surviving stream was right";
  EXPECT_TRUE(eventually([&] { return agent.clients() == 0 && agent.active() == 0; }));
  EXPECT_TRUE(eventually([&] { return open_descriptors() == before; }));
}

TEST(TwoProcesses, AKilledAgentEndsItsClientsRequests) {
  SocketPlace place;
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t agent_pid = fork_child([&] {
    FakeAgent agent(config_at(place.path()));
    (void)!::write(ready[1], "x", 1);
    for (;;) ::pause();
    return 0;
  });
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  ::close(ready[1]);
  client::Connection connection(place.path());
  const std::vector<ds4_token> prompt = {1};
  client::Request request;
  request.prompt = prompt;
  request.stop_at_eos = false;
  const auto id = connection.submit(request);
  ASSERT_TRUE(connection.next(std::chrono::seconds(20)));
  ::kill(agent_pid, SIGKILL);
  exit_code(agent_pid);
  for (;;) {
    const auto event = connection.next(std::chrono::seconds(20));
    ASSERT_TRUE(event) << "the client hangs";
    if (!client::is_final(*event)) continue;
    EXPECT_EQ(event->request, id);
    EXPECT_EQ(event->status, DS4_AGENT_SHUTDOWN);
    break;
  }
  // What the dead agent left at the path gives way to the next one.
  FakeAgent next(config_at(place.path()));
  EXPECT_EQ(exit_code(fork_child([&] { return ask(place.path(), 10); })), 0);
}

TEST(TwoProcesses, AForkedChildCannotUseItsParentsConnection) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  client::Connection connection(place.path());
  const pid_t child = fork_child([&] {
    ds4_event event;
    if (ds4_next(connection.get(), &event, 0) != DS4_INVALID) return 1;
    return ask(place.path(), 10);  // but may have one of its own
  });
  EXPECT_EQ(exit_code(child), 0);
  ds4_event event;
  EXPECT_EQ(ds4_next(connection.get(), &event, 0), DS4_TIMEOUT) << "the parent's works on";
}

TEST(TwoProcesses, AStrangerToTheGroupIsTurnedAway) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become someone else";
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  std::filesystem::permissions(std::filesystem::path(place.path()).parent_path(),
                               std::filesystem::perms::all);
  const auto as_nobody = [&] {
    if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) return 100;
    ds4_client* client = nullptr;
    const ds4_status status = ds4_connect(place.path().c_str(), nullptr, &client);
    if (status != DS4_REFUSED) return 101;
    return std::string_view(ds4_last_error()).find("group root") == std::string_view::npos ? 102
                                                                                           : 0;
  };
  // By the socket's mode, with the library's own sentence ...
  EXPECT_EQ(exit_code(fork_child([&] {
              if (::setgroups(0, nullptr) != 0) return 99;
              return as_nobody();
            })),
            0);
  // ... and by the agent's check, should the mode be lax.
  std::filesystem::permissions(place.path(), std::filesystem::perms::all);
  EXPECT_EQ(exit_code(fork_child([&] {
              if (::setgroups(0, nullptr) != 0) return 99;
              return as_nobody();
            })),
            0);
  // A supplementary group is enough.
  EXPECT_EQ(exit_code(fork_child([&] {
              const gid_t group = ::getegid();
              if (::setgroups(1, &group) != 0) return 99;
              return as_nobody();
            })),
            101)
      << "a member was turned away";
}

}  // namespace
}  // namespace ds4::ipc::testing
