#include "ipc/server/handshake.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/client/dial.h"
#include "ipc/packet.h"
#include "ipc/server/gate.h"

namespace ds4::ipc {
namespace {

using ::testing::HasSubstr;

const RegionShape kMost{
    .submission_entries = 128, .completion_entries = 2048, .arena_tokens = 32768};

template <typename Struct>
std::span<const std::byte> bytes_of(const Struct& value) {
  return std::as_bytes(std::span(&value, 1));
}

Status verdict_of(const Hello& hello) {
  const HelloVerdict verdict = judge_hello(bytes_of(hello), kMost);
  return verdict.refusal ? verdict.refusal->status : Status::kOkStop;
}

TEST(Hello, IsWelcomeWithItsWishesFitted) {
  Hello hello;
  hello.completion_entries = 100'000;
  put_text(hello.name, "probe");
  const HelloVerdict verdict = judge_hello(bytes_of(hello), kMost);
  ASSERT_FALSE(verdict.refusal);
  EXPECT_EQ(verdict.shape.completion_entries, 2048U);
  EXPECT_EQ(verdict.name, "probe");
  EXPECT_EQ(verdict.minor, kMinorVersion);
}

TEST(Hello, OfAnotherMajorVersionIsToldBothVersions) {
  Hello hello;
  hello.major = kMajorVersion + 1;
  const HelloVerdict verdict = judge_hello(bytes_of(hello), kMost);
  ASSERT_TRUE(verdict.refusal);
  EXPECT_EQ(verdict.refusal->status, Status::kVersion);
  EXPECT_THAT(verdict.refusal->sentence, HasSubstr("speaks protocol 1.1"));
  // Even if a later version's hello has another length.
  EXPECT_EQ(judge_hello(bytes_of(hello).first(16), kMost).refusal->status, Status::kVersion);
}

TEST(Hello, OfALaterMinorVersionMaySetWhatThisOneReserves) {
  Hello hello;
  hello.minor = kMinorVersion + 1;
  hello.flags = 1;
  hello.reserved[0] = 1;
  const HelloVerdict verdict = judge_hello(bytes_of(hello), kMost);
  ASSERT_FALSE(verdict.refusal);
  EXPECT_EQ(verdict.minor, kMinorVersion);
  hello.minor = kMinorVersion;
  EXPECT_EQ(verdict_of(hello), Status::kInvalid);
}

TEST(Hello, GarbageIsRefused) {
  Hello hello;
  hello.magic = 0;
  EXPECT_EQ(verdict_of(hello), Status::kInvalid);
  hello = {};
  for (const std::size_t bytes : {0U, 1U, 7U, 8U, 127U})
    EXPECT_TRUE(judge_hello(bytes_of(hello).first(bytes), kMost).refusal) << bytes;
  std::array<std::byte, sizeof(Hello) + 1> longer = {};
  std::memcpy(longer.data(), &hello, sizeof(hello));
  EXPECT_TRUE(judge_hello(longer, kMost).refusal);
}

TEST(WelcomeJudged, RefusalsKeepTheAgentsSentence) {
  const Welcome refusal = make_refusal({Status::kRefused, "not you"});
  const auto judged = judge_welcome(bytes_of(refusal), 0);
  ASSERT_FALSE(judged);
  EXPECT_EQ(judged.error().status, DS4_REFUSED);
  EXPECT_EQ(judged.error().sentence, "not you");
  EXPECT_THAT(judge_welcome(bytes_of(make_refusal({Status::kBusy, {}})), 0).error().sentence,
              HasSubstr("no room"));
}

TEST(WelcomeJudged, AcceptsOnlyTheDescriptorsItAnnounces) {
  Welcome welcome;
  EXPECT_TRUE(judge_welcome(bytes_of(welcome), 3));
  EXPECT_FALSE(judge_welcome(bytes_of(welcome), 2));
  EXPECT_FALSE(judge_welcome(bytes_of(welcome), 4));
  welcome.metadata_bytes = 1;
  EXPECT_TRUE(judge_welcome(bytes_of(welcome), 4));
  EXPECT_FALSE(judge_welcome(bytes_of(welcome), 3));
}

TEST(WelcomeJudged, GarbageIsRefused) {
  Welcome welcome;
  for (const std::size_t bytes : {0U, 4U, 9U, 511U})
    EXPECT_FALSE(judge_welcome(bytes_of(welcome).first(bytes), 3)) << bytes;
  welcome.magic = kHelloMagic;
  EXPECT_FALSE(judge_welcome(bytes_of(welcome), 3));
  welcome = {};
  welcome.major = 9;
  EXPECT_EQ(judge_welcome(bytes_of(welcome), 3).error().status, DS4_VERSION);
  welcome = {};
  welcome.minor = kMinorVersion + 1;  // the agent must answer with the smaller minor
  EXPECT_FALSE(judge_welcome(bytes_of(welcome), 3));
}

TEST(Gate, LetsInOwnerRootAndMembersOnly) {
  const Gate gate(1000, 500, "ds4");
  EXPECT_FALSE(gate.check({.uid = 1000, .gid = 1, .pid = 1, .groups = {}}));
  EXPECT_FALSE(gate.check({.uid = 0, .gid = 0, .pid = 1, .groups = {}}));
  EXPECT_FALSE(gate.check({.uid = 1001, .gid = 500, .pid = 1, .groups = {}}));
  EXPECT_FALSE(gate.check({.uid = 1001, .gid = 1, .pid = 1, .groups = {7, 500}}));
  const auto refusal = gate.check({.uid = 54321, .gid = 1, .pid = 1, .groups = {7, 501}});
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->status, Status::kRefused);
  EXPECT_THAT(refusal->sentence, HasSubstr("user 54321 is not in the group ds4"));
}

TEST(Gate, NamesAGroupThatDoesNotExist) {
  const auto gate = Gate::for_group("no-such-group-here");
  ASSERT_FALSE(gate);
  EXPECT_EQ(gate.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(gate.error().message, HasSubstr("no-such-group-here"));
  EXPECT_TRUE(Gate::for_group(""));
}

TEST(Gate, TheKernelSaysWhoIsThere) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
  const UniqueFd a(fds[0]);
  const UniqueFd b(fds[1]);
  const auto peer = identify_peer(a.get());
  ASSERT_TRUE(peer) << peer.error().message;
  EXPECT_EQ(peer->uid, ::geteuid());
  EXPECT_EQ(peer->pid, ::getpid());
  std::vector<gid_t> groups(static_cast<std::size_t>(::getgroups(0, nullptr)));
  ::getgroups(static_cast<int>(groups.size()), groups.data());
  EXPECT_THAT(peer->groups, ::testing::UnorderedElementsAreArray(groups));
}

}  // namespace
}  // namespace ds4::ipc
