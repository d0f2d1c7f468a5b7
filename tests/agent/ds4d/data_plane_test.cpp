// A data plane with a real stage and real links: what its stage does not take, and what a peer
// opens without end.
#include "agent/ds4d/data_plane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <thread>

#include "tests/agent/stage/fake_slice.h"

namespace ds4::agent {
namespace {

using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;
using ::testing::HasSubstr;

constexpr std::uint64_t kEpoch = 5;
constexpr std::uint32_t kContext = 2000;
const keys::Gate kNobody;

struct Route final : RouteEvents {
  void on_ping(const wire::PingFrame&) override {}
  void on_unreachable(std::uint32_t) override { ++unreachable; }
  bool is_canary(std::uint64_t session) override { return session == canary; }
  void on_canary_token(std::uint64_t) override { ++canary_tokens; }
  void on_canary_error(std::uint64_t, std::string_view why) override { canary_error = why; }

  std::uint64_t canary = 0;
  int unreachable = 0;
  int canary_tokens = 0;
  std::string canary_error;
};

std::unique_ptr<Links> bind() {
  auto links = Links::bind({.address = "tcp://127.0.0.1:*"}, kNobody);
  EXPECT_TRUE(links) << links.error().message;
  return std::move(*links);
}

/// False after a minute, which no healthy machine needs.
bool eventually(const std::function<bool()>& holds) {
  for (int i = 0; i < 12'000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

class DataPlaneTest : public ::testing::Test {
 protected:
  /// The first of so many stages, with links to the second.
  void make(std::uint32_t stages, std::uint32_t rows = 512) {
    Assignment here{kEpoch, "", {{"a", links_->address(), "0:2"}}, 0};
    FakeOptions shape;
    shape.max_rows = rows;
    shape.kv_budget_positions = 1ULL << 40;
    if (stages == 2) {
      here.route.push_back({"b", peer_->address(), "3:output"});
      shape.last_layer = 2;
      shape.output = false;
      ASSERT_TRUE(links_->connect(here.route, 0));
      ASSERT_TRUE(peer_->connect(here.route, 1));
    }
    plane_.join(here);
    LoadedSlice slice{nullptr, std::make_unique<FakeSlice>(shape, control_)};
    ASSERT_TRUE(plane_.start_stage(std::move(slice), {}));
    plane_.set_route({true, ipc::RouteState::kReady, 1, 0, "", stages});
  }
  /// As stage 1's agent would send it; nobody proves anything here.
  template <typename Frame>
  void hear(wire::MessageKind kind, const Frame& frame) {
    const std::string header = encode(frame);
    const auto body = std::as_bytes(std::span(header));
    plane_.on_frame({"b", kind, true, std::nullopt, {&body, 1}});
  }
  static wire::WorkFrame work(std::uint64_t session, std::uint32_t entry, std::size_t tokens) {
    wire::WorkFrame frame;
    frame.epoch = kEpoch;
    wire::WorkItem& item = frame.items.emplace_back();
    item.session = session;
    item.context = kContext;
    item.entry = entry;
    item.tokens.assign(tokens, 1);
    return frame;
  }
  /// A batch that does not end, and behind it as much as the stage takes.
  void fill(std::uint32_t stages) {
    control_->close_gate();
    hear(wire::MessageKind::kWork, work(1'000'000, 1, 1));
    control_->wait_until_inside();
    const std::uint64_t frames = kMostWaitingRows * stages / 1024;
    for (std::uint64_t i = 0; i < frames; ++i) hear(wire::MessageKind::kWork, work(i + 1, 1, 1024));
    ASSERT_GE(plane_.stage()->stats().waiting_rows, kMostWaitingRows * stages);
  }
  void ask(std::uint64_t id, std::size_t tokens) {
    ipc::GenerateRequest request;
    request.id = id;
    request.prompt.assign(tokens, 1);
    request.max_tokens = 1;
    plane_.on_request(7, request);
  }
  /// As the agent's main loop does.
  bool eventually_here(const std::function<bool()>& holds) {
    return eventually([&] {
      plane_.on_stage_event();
      plane_.flush();
      return holds();
    });
  }
  /// What comes to the other stage.
  Result<wire::ErrorFrame> error_at_peer() {
    Result<wire::ErrorFrame> error = fail(ErrorCode::kTimeout, "nothing came");
    eventually([&] {
      peer_->wait({}, std::chrono::milliseconds(100));
      return peer_->receive([&](const Incoming& message) {
        EXPECT_EQ(message.kind, wire::MessageKind::kError);
        error = wire::decode_error(message.parts[0]);
      });
    });
    return error;
  }

  static EntryConfig config() {
    EntryConfig config;
    config.context = kContext;
    config.tokens_in_flight = 1U << 20;
    return config;
  }

  std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::unique_ptr<Links> links_ = bind();
  std::unique_ptr<Links> peer_ = bind();
  Route route_;
  DataPlane plane_{config(), 4, *links_, route_};
};

TEST_F(DataPlaneTest, WorkOfThisNodesClientsThatItsStageDoesNotTakeEndsAsAnErrorAtOnce) {
  make(1);
  control_->close_gate();
  ask(1, 1);
  plane_.flush();
  control_->wait_until_inside();
  constexpr std::uint64_t kRequests = 40;  // of 1,000 tokens, in chunks
  for (std::uint64_t id = 2; id < 2 + kRequests; ++id) {
    ask(id, 1000);
    plane_.flush();
  }
  const std::uint64_t refused = plane_.client_figures().failed;
  EXPECT_GT(refused, 10U);
  EXPECT_LT(refused, kRequests);
  EXPECT_EQ(plane_.active_requests(), kRequests + 1 - refused) << "none is forgotten";
  control_->open_gate();
  EXPECT_TRUE(eventually_here([&] { return plane_.active_requests() == 0; }));
  EXPECT_EQ(plane_.client_figures().failed, refused) << "what was taken is answered";
  // And when there is room again, so is the next.
  ask(1000, 1000);
  EXPECT_TRUE(eventually_here([&] { return plane_.active_requests() == 0; }));
  EXPECT_EQ(plane_.client_figures().failed, refused);
  EXPECT_TRUE(eventually_here([&] { return plane_.stage()->stats().sessions == 0; }));
}

TEST_F(DataPlaneTest, ACanaryThatIsNotTakenFails) {
  make(2);
  fill(2);
  route_.canary = 77;
  plane_.send_canary(77);
  EXPECT_EQ(route_.canary_error, "");
  plane_.flush();
  EXPECT_THAT(route_.canary_error, HasSubstr("more work waiting than it takes"));
  control_->open_gate();
}

TEST_F(DataPlaneTest, AnotherAgentIsToldWhatIsNotTaken) {
  make(2);
  fill(2);
  wire::WorkFrame more = work(2001, 1, 3);
  more.items.push_back(work(2002, 1, 1).items[0]);
  hear(wire::MessageKind::kWork, more);
  const auto error = error_at_peer();
  ASSERT_TRUE(error) << error.error().message;
  EXPECT_EQ(error->epoch, kEpoch);
  EXPECT_EQ(error->stage, 0U);
  EXPECT_EQ(error->code, ErrorCode::kUnavailable);
  EXPECT_THAT(error->sessions, ::testing::ElementsAre(2001, 2002));
  EXPECT_THAT(error->message, HasSubstr("try again"));
  control_->open_gate();
}

TEST_F(DataPlaneTest, APeerThatOpensSessionsWithoutEndHasItsOldestClosed) {
  make(2);
  hear(wire::MessageKind::kWork, work(1, 1, 1));
  constexpr std::uint64_t kFlood = kMostForeignSessions + 500;
  for (std::uint64_t i = 0; i < kFlood; ++i) {
    hear(wire::MessageKind::kWork, work(100 + i, 1, 1));
    // No more than the stage takes.
    if (i % 1000 == 0) {
      ASSERT_TRUE(eventually([&] { return plane_.stage()->stats().waiting_rows == 0; }));
    }
  }
  EXPECT_TRUE(eventually([&] {
    const StageStats stats = plane_.stage()->stats();
    return stats.sessions == kMostForeignSessions && stats.waiting_orders == 0;
  }));
  // Those that are left go with their agent.
  plane_.close_sessions_of(1);
  EXPECT_TRUE(eventually([&] { return plane_.stage()->stats().sessions == 0; }));
}

TEST_F(DataPlaneTest, SessionsOfAnEntryThatIsNoStageAreNotKept) {
  make(2);
  for (std::uint64_t i = 0; i < 100; ++i) {
    hear(wire::MessageKind::kWork, work(100 + i, 2 + static_cast<std::uint32_t>(i), 1));
    wire::ForkFrame fork{kEpoch, {{1, 1000 + i, 1, 1, 2}}};
    hear(wire::MessageKind::kFork, fork);
  }
  hear(wire::MessageKind::kWork, work(1, 1, 1));
  EXPECT_TRUE(eventually([&] { return plane_.stage()->stats().sessions == 1; }));
  EXPECT_EQ(plane_.stage()->stats().work.rows(), 1U);
}

}  // namespace
}  // namespace ds4::agent
