#include "agent/route/assignment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

const NodeFacts kFacts = {"b", "/m.gguf", "f00d", 6};

wire::PrepareRequest request(std::vector<std::string> layers) {
  wire::PrepareRequest out{.epoch = 1, .fingerprint = "f00d", .route = {}, .you = "b"};
  const std::vector<std::string> names = {"a", "b", "c", "d"};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    out.route.push_back({names[i], "tcp://10.0.0." + std::to_string(i + 1) + ":7341", layers[i]});
  }
  return out;
}

std::string error_of(const wire::PrepareRequest& request) {
  const auto assignment = check_prepare(request, kFacts);
  return assignment ? "" : assignment.error().message;
}

TEST(CheckPrepare, FindsThisNodesPlace) {
  const auto assignment = check_prepare(request({"0:2", "3:output"}), kFacts);
  ASSERT_TRUE(assignment) << assignment.error().message;
  EXPECT_EQ(assignment->index, 1U);
  EXPECT_EQ(assignment->own().layers, "3:output");
  EXPECT_EQ(range_of(*assignment, 6), (LayerRange{3, 5, true}));
}

TEST(CheckPrepare, TakesAnyModelIfNoFingerprintIsGiven) {
  auto wanted = request({"0:2", "3:output"});
  wanted.fingerprint.clear();
  const auto assignment = check_prepare(wanted, kFacts);
  ASSERT_TRUE(assignment);
  EXPECT_EQ(assignment->fingerprint, "f00d");
}

TEST(CheckPrepare, RefusesAnotherModelFile) {
  auto wanted = request({"0:2", "3:output"});
  wanted.fingerprint = "beef";
  const auto assignment = check_prepare(wanted, kFacts);
  ASSERT_FALSE(assignment);
  EXPECT_EQ(assignment.error().code, ErrorCode::kMismatch);
  EXPECT_THAT(assignment.error().message, HasSubstr("node b has another model file"));
}

TEST(CheckPrepare, RefusesToBeSomebodyElse) {
  auto wanted = request({"0:2", "3:output"});
  wanted.you = "a";
  const auto assignment = check_prepare(wanted, kFacts);
  ASSERT_FALSE(assignment);
  EXPECT_EQ(assignment.error().code, ErrorCode::kMismatch);
  EXPECT_THAT(assignment.error().message, HasSubstr("this agent is node b, not a"));
}

TEST(CheckPrepare, RefusesARouteWithoutThisNode) {
  EXPECT_THAT(error_of(request({"0:output"})), HasSubstr("no stage for node b"));
}

TEST(CheckPrepare, RefusesGaps) {
  EXPECT_EQ(error_of(request({"0:1", "3:output"})),
            "no node holds layers 2:2: node a ends at 1 and node b begins at 3");
  EXPECT_EQ(error_of(request({"1:2", "3:output"})),
            "no node holds layers 0:0: the first stage, node a, begins at layer 1");
}

TEST(CheckPrepare, RefusesOverlaps) {
  EXPECT_EQ(error_of(request({"0:3", "3:output"})),
            "layer 3 is held twice: node a ends at layer 3 and node b begins at 3");
  EXPECT_THAT(error_of(request({"0:output", "3:output"})), HasSubstr("node b comes after it"));
}

TEST(CheckPrepare, RefusesARouteWithoutOutputHead) {
  EXPECT_THAT(error_of(request({"0:2", "3:5"})),
              HasSubstr("node b must end with :output, not 3:5"));
  EXPECT_THAT(error_of(request({"0:2", "3:4"})), HasSubstr("output"));
}

TEST(CheckPrepare, RefusesLayersOutsideTheModel) {
  EXPECT_THAT(error_of(request({"0:2", "3:6"})), HasSubstr("node b"));
  EXPECT_THAT(error_of(request({"0:2", "three"})), HasSubstr("node b"));
}

TEST(CheckPrepare, RefusesNamesAndAddressesTwice) {
  auto wanted = request({"0:1", "2:3", "4:output"});
  wanted.route[2].node = "a";
  EXPECT_THAT(error_of(wanted), HasSubstr("node a is in the route twice"));
  wanted = request({"0:1", "2:3", "4:output"});
  wanted.route[2].address = wanted.route[0].address;
  EXPECT_THAT(error_of(wanted), HasSubstr("address tcp://10.0.0.1:7341 of another node"));
}

TEST(CheckPrepare, RefusesEpochZeroAndAnEmptyRoute) {
  auto wanted = request({"0:2", "3:output"});
  wanted.epoch = 0;
  EXPECT_THAT(error_of(wanted), HasSubstr("epoch"));
  EXPECT_THAT(error_of(request({})), HasSubstr("no stages"));
}

const std::string kKeyA = "node:" + std::string(64, 'a');
const std::string kKeyB = "node:" + std::string(64, 'b');

/// Two stages with these keys, as node b sees them, whose own key is kKeyB.
std::string error_with_keys(const std::string& a, const std::string& b) {
  NodeFacts facts = kFacts;
  facts.key = kKeyB;
  auto wanted = request({"0:2", "3:output"});
  wanted.route[0].key = a;
  wanted.route[1].key = b;
  const auto assignment = check_prepare(wanted, facts);
  return assignment ? "" : assignment.error().message;
}

TEST(CheckPrepare, EveryStageHasAKeyOfItsOwnAndThisNodesIsRight) {
  EXPECT_EQ(error_with_keys(kKeyA, kKeyB), "");
  EXPECT_THAT(error_with_keys("", kKeyB), HasSubstr("no key for node a"));
  EXPECT_THAT(error_with_keys(kKeyB, kKeyB), HasSubstr("key of another node"));
  EXPECT_THAT(error_with_keys(kKeyA, kKeyA), HasSubstr("another key for node b than its own"));
  EXPECT_THAT(error_with_keys("node:1", kKeyB), HasSubstr("node a"));
  EXPECT_THAT(error_with_keys("operator:" + std::string(64, 'a'), kKeyB),
              HasSubstr("operator's key"));
}

TEST(CheckPrepare, KeysAndInsecureNodesDoNotMix) {
  auto wanted = request({"0:2", "3:output"});
  wanted.route[0].key = kKeyA;
  EXPECT_THAT(error_of(wanted), HasSubstr("insecure = true"));
}

TEST(CheckAddress, TakesHostsAndPorts) {
  EXPECT_TRUE(check_address("tcp://127.0.0.1:7341"));
  EXPECT_TRUE(check_address("tcp://node-a.example:1"));
  EXPECT_TRUE(check_address("tcp://[::1]:65535"));
}

TEST(CheckAddress, RefusesWhatNobodyCanConnectTo) {
  for (const char* bad : {"", "127.0.0.1:7341", "ipc:///tmp/x", "tcp://", "tcp://a", "tcp://:1",
                          "tcp://a:", "tcp://a:0", "tcp://a:65536", "tcp://a:1x", "tcp://*:1",
                          "tcp://a:*", "tcp://a b:1", "tcp://eth0;b:1"}) {
    EXPECT_FALSE(check_address(bad)) << bad;
  }
}

TEST(StandaloneLedger, IsOneThatWouldBeRestored) {
  const Ledger ledger = standalone_ledger(kFacts);
  ASSERT_TRUE(ledger.assignment);
  EXPECT_EQ(ledger.highest_epoch, ledger.assignment->epoch);
  EXPECT_TRUE(check_restored(*ledger.assignment, kFacts));
  EXPECT_EQ(range_of(*ledger.assignment, kFacts.block_count).to_string(),
            LayerRange::parse("0:output", kFacts.block_count)->to_string());
}

TEST(CheckRestored, NoticesThatNodeOrModelChanged) {
  const auto assignment = check_prepare(request({"0:2", "3:output"}), kFacts);
  ASSERT_TRUE(assignment);
  EXPECT_TRUE(check_restored(*assignment, kFacts));
  NodeFacts renamed = kFacts;
  renamed.name = "x";
  EXPECT_FALSE(check_restored(*assignment, renamed));
  NodeFacts other_model = kFacts;
  other_model.fingerprint = "beef";
  EXPECT_FALSE(check_restored(*assignment, other_model));
}

}  // namespace
}  // namespace ds4::agent
