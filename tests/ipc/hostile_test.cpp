// Programs that mean harm, and the limits of one user: the agent stays, and the others do not
// notice.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "agent/log/throttle.h"
#include "ipc/client/dial.h"
#include "ipc/client/ds4.hpp"
#include "ipc/packet.h"
#include "ipc/ring.h"
#include "ipc/server/intake.h"
#include "ipc/spin.h"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

using ::testing::HasSubstr;

Outcome<Dialed> dial_at(const std::string& path, std::uint32_t completion_entries = 0) {
  DialOptions options;
  options.socket_path = path;
  options.completion_entries = completion_entries;
  return dial(options);
}

/// An honest program with an answer under way: whoever disturbs it shows.
void expect_undisturbed(const std::string& path) {
  client::Connection connection(path);
  const ds4_token prompt[] = {10, 20};
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = 500;
  request.stop_at_eos = false;
  connection.submit(request);
  for (std::uint32_t i = 0; i < 500; ++i) {
    const auto event = connection.next(std::chrono::seconds(20));
    ASSERT_TRUE(event && client::is_token(*event));
    ASSERT_EQ(event->token, static_cast<ds4_token>((30 + i) % kVocabulary));
  }
}

class Hostile : public ::testing::Test {
 protected:
  SocketPlace place;
};

TEST_F(Hostile, AForkedChildThatKeepsTheSocketDoesNotHideTheDeathOfItsParent) {
  FakeAgent agent(config_at(place.path()));
  int hold[2];
  ASSERT_EQ(::pipe(hold), 0);  // inherited: the grandchild lives until it is closed
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(hold[1]);
    auto dialed = dial_at(place.path());
    if (!dialed) ::_exit(1);
    if (::fork() == 0) {  // without exec: it has the socket, the doorbell, the region
      char byte;
      (void)!::read(hold[0], &byte, 1);
      ::_exit(0);
    }
    ::raise(SIGKILL);
  }
  ::close(hold[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the child could not connect";
  EXPECT_TRUE(eventually([&] { return agent.handler().gone == 1 && agent.clients() == 0; }));
  ::close(hold[1]);
}

TEST_F(Hostile, AThousandConnectsDisturbNobodyAndLeaveNothing) {
  FakeAgent agent(config_at(place.path()));
  expect_undisturbed(place.path());
  ASSERT_TRUE(eventually([&] { return agent.clients() == 0; }));
  const std::size_t before = open_descriptors();
  std::thread flood([&] {
    for (int i = 0; i < 1000; ++i) (void)dial_at(place.path());
  });
  expect_undisturbed(place.path());
  flood.join();
  expect_undisturbed(place.path());
  EXPECT_TRUE(eventually([&] { return agent.clients() == 0 && open_descriptors() == before; }));
}

TEST_F(Hostile, OneUsersSharedMemoryIsBounded) {
  ServerConfig config = config_at(place.path());
  config.max_region_bytes_per_user = 3U << 20;
  FakeAgent agent(config);
  std::vector<Dialed> held;
  std::optional<Failure> refusal;
  for (int i = 0; i < 100 && !refusal; ++i) {
    auto dialed = dial_at(place.path(), 16384);  // a mebibyte of completions each
    if (dialed)
      held.push_back(std::move(*dialed));
    else
      refusal = dialed.error();
  }
  ASSERT_TRUE(refusal);
  EXPECT_EQ(held.size(), 2U);
  EXPECT_EQ(refusal->status, DS4_BUSY);
  EXPECT_THAT(refusal->sentence, HasSubstr("shared memory"));
  held.clear();
  EXPECT_TRUE(eventually([&] { return dial_at(place.path(), 16384).has_value(); }))
      << "what is given back can be had again";
}

TEST_F(Hostile, HalfArrivedPromptsOfOneUserAreBoundedTogether) {
  TokenBudget budget(1500);
  const RequestLimits limits{
      .vocabulary = 1000, .context = 3000, .max_requests = 3, .max_stop_tokens = 4};
  const RegionShape shape{.submission_entries = 8, .completion_entries = 8, .arena_tokens = 1024};
  auto a = Region::create(shape);
  auto b = Region::create(shape);
  ASSERT_TRUE(a && b);
  const auto send = [](Region& region, Op op, std::uint64_t begin) {
    RingMemory ring = region.submissions();
    SubmissionEntry entry;
    entry.op = static_cast<std::uint16_t>(op);
    entry.request_id = 1;
    entry.prompt_tokens = 1000;
    entry.arena_begin = begin;
    if (op == Op::kPromptPart) entry.top_p = 0;
    std::memcpy(ring.slots + *ring.tail % ring.entries * (sizeof(entry) / 8), &entry,
                sizeof(entry));
    ++*ring.tail;
  };
  {
    Intake first(a->region, limits, &budget);
    Intake second(b->region, limits, &budget);
    send(a->region, Op::kPromptPart, 0);
    EXPECT_EQ(first.next().what, Intake::What::kAbsorbed);
    EXPECT_EQ(budget.used(), 1000U);
    send(b->region, Op::kPromptPart, 0);
    send(b->region, Op::kGenerate, 1000);
    EXPECT_EQ(second.next().what, Intake::What::kAbsorbed);
    const auto refused = second.next();
    EXPECT_EQ(refused.what, Intake::What::kRefused);
    EXPECT_EQ(refused.refusal.status, Status::kBusy);
    EXPECT_EQ(budget.used(), 1000U) << "what is refused holds nothing";
  }
  EXPECT_EQ(budget.used(), 0U) << "a connection that ends gives back what it held";
}

TEST_F(Hostile, MoreProgramsThanDescriptorsAreRefusedWithASentence) {
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit tight = {148, 148};  // five clients of four, besides the agent's own
    ::setrlimit(RLIMIT_NOFILE, &tight);
    FakeAgent agent(config_at(place.path()));
    std::vector<Dialed> held;
    for (;;) {
      auto dialed = dial_at(place.path());
      if (dialed) {
        held.push_back(std::move(*dialed));
        if (held.size() > 5) ::_exit(1);
        continue;
      }
      const bool said = dialed.error().sentence.find("LimitNOFILE") != std::string::npos;
      ::_exit(held.size() == 5 && dialed.error().status == DS4_BUSY && said ? 0 : 2);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(Hostile, OneClientCannotReadAnothersTokens) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become two other users";
  FakeAgent agent(config_at(place.path()));
  std::filesystem::permissions(std::filesystem::path(place.path()).parent_path(),
                               std::filesystem::perms::all);
  const auto become = [](uid_t uid) {
    const gid_t group = ::getegid();  // a member of the agent's group
    return ::setgroups(1, &group) == 0 && ::setresgid(uid, uid, uid) == 0 &&
           ::setresuid(uid, uid, uid) == 0;
  };
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t victim = ::fork();
  if (victim == 0) {
    ::close(done[1]);
    if (!become(64001)) ::_exit(1);
    auto dialed = dial_at(place.path());
    if (!dialed) ::_exit(2);
    char byte = 'x';
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(done[0], &byte, 1);
    ::_exit(0);
  }
  const pid_t thief = ::fork();
  if (thief == 0) {
    char byte = 0;
    (void)!::read(ready[0], &byte, 1);
    if (!become(64002)) ::_exit(1);
    auto dialed = dial_at(place.path());
    if (!dialed) ::_exit(2);
    // The other's memory, and the agent's, by way of /proc.
    for (const pid_t pid : {victim, ::getppid()})
      for (int fd = 0; fd < 256; ++fd) {
        if (::open(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), O_RDWR) >= 0) ::_exit(3);
        if (::open(fmt::format("/proc/{}/map_files", pid).c_str(), O_RDONLY) >= 0) ::_exit(4);
      }
    if (::open(fmt::format("/proc/{}/mem", victim).c_str(), O_RDONLY) >= 0) ::_exit(5);
    // Its own memory holds its own rings, and cannot be made longer.
    const Region& region = dialed->region;
    for (std::uint32_t i = 0; i < region.shape().arena_tokens; ++i)
      if (region.arena()[i] != 0) ::_exit(6);
    // Nobody else's requests or sessions can be named: ids are the connection's own.
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(thief, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ::close(done[1]);
  ::close(done[0]);
  ::waitpid(victim, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(Hostile, ComplaintsNameTheProgramAndTheReason) {
  ServerConfig config = config_at(place.path());
  config.max_clients_per_user = 1;
  FakeAgent agent(config);
  auto held = dial_at(place.path());
  ASSERT_TRUE(held);
  EXPECT_FALSE(dial_at(place.path()));
  std::vector<std::string> complaints;
  agent.with([&](Server&) { complaints = agent.handler().complaints; });
  ASSERT_EQ(complaints.size(), 1U);
  EXPECT_THAT(complaints[0], HasSubstr(fmt::format("pid {}", ::getpid())));
  EXPECT_THAT(complaints[0], HasSubstr("the most for one user"));
}

TEST(ComplaintThrottle, HoldsAFloodBackAndSaysHowMuch) {
  agent::Throttle throttle(2, std::chrono::seconds(60));
  const auto begin = agent::Throttle::TimePoint{};
  EXPECT_EQ(throttle.admit(begin), 0U);
  EXPECT_EQ(throttle.admit(begin), 0U);
  for (int i = 0; i < 500; ++i) EXPECT_FALSE(throttle.admit(begin + std::chrono::seconds(59)));
  EXPECT_EQ(throttle.admit(begin + std::chrono::seconds(60)), 500U);
  EXPECT_EQ(throttle.admit(begin + std::chrono::seconds(60)), 0U);
}

// ---- Idle, and quick ----------------------------------------------------------------------------

std::chrono::microseconds cpu_time() {
  rusage usage = {};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto of = [](const timeval& t) {
    return std::chrono::seconds(t.tv_sec) + std::chrono::microseconds(t.tv_usec);
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

TEST_F(Hostile, ABlockedIdleClientCostsNoCpu) {
  FakeAgent agent(config_at(place.path()));
  client::Connection connection(place.path());
  const auto before = cpu_time();
  EXPECT_FALSE(connection.next(std::chrono::milliseconds(600)));
  // One short look, then sleep: far below what polling every millisecond would cost, let alone a
  // core (600 ms).
  EXPECT_LT(cpu_time() - before, std::chrono::milliseconds(5));
}

TEST(AdaptiveSpinning, StopsWhereItDoesNotPayAndComesBackWhereItDoes) {
  AdaptiveSpin spin;
  int spins = 0;
  for (int i = 0; i < 1000; ++i) {
    if (!spin.worth_it()) continue;
    ++spins;
    spin.lost();
  }
  EXPECT_LT(spins, 25) << "an idle program burns its core";
  EXPECT_GT(spins, 10) << "it never looks again";
  while (!spin.worth_it()) {
  }
  spin.won();
  EXPECT_TRUE(spin.worth_it());
  spin.won();
  EXPECT_TRUE(spin.worth_it());
}

}  // namespace
}  // namespace ds4::ipc::testing
