#include "ctl/ds4ctl/assign_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/ctl/node_fixture.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing_nodes::idle;
using testing_nodes::two_nodes;
using testing_nodes::wishes;

Error wish_error(const std::vector<std::string>& words) {
  const auto read = read_wishes(two_nodes(), words);
  EXPECT_FALSE(read.has_value());
  return read ? Error{} : read.error();
}

Error plan_error(const std::vector<Wish>& wished, const std::vector<wire::NodeStatus>& statuses) {
  const auto plan = plan_assignment(wished, statuses);
  EXPECT_FALSE(plan.has_value());
  return plan ? Error{} : plan.error();
}

TEST(Wishes, AreNodesAndRanges) {
  const auto read = wishes({"beta=3:output", "alpha=0:2"});
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].node.name, "beta");
  EXPECT_EQ(read[0].layers, "3:output");
}

TEST(Wishes, RefuseWhatIsNoPair) {
  for (const char* word : {"alpha", "=0:2", "alpha=", ""}) {
    const Error error = wish_error({word});
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << word;
    EXPECT_THAT(error.message, HasSubstr("NODE=RANGE")) << word;
  }
}

TEST(Wishes, RefuseUnknownNodes) {
  EXPECT_THAT(wish_error({"gamma=0:2"}).message, HasSubstr("'gamma'"));
}

TEST(Wishes, RefuseANodeNamedTwice) {
  EXPECT_THAT(wish_error({"alpha=0:2", "alpha=3:output"}).message,
              AllOf(HasSubstr("alpha"), HasSubstr("twice"), HasSubstr("0:2")));
}

TEST(AssignPlan, OrdersTheRouteByLayersAndCountsTheEpochUp) {
  wire::NodeStatus alpha = idle("alpha");
  wire::NodeStatus beta = idle("beta");
  alpha.epoch = 4;
  beta.epoch = 7;
  const auto plan =
      plan_assignment(wishes({"beta=3:output", "alpha=0:2"}), std::vector{beta, alpha});
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->epoch, 8u);
  EXPECT_EQ(plan->fingerprint, alpha.fingerprint);
  EXPECT_THAT(plan->route, ElementsAre(wire::StageSpec{"alpha", "tcp://10.0.0.1:7341", "0:2"},
                                       wire::StageSpec{"beta", "tcp://10.0.0.2:7341", "3:output"}));
  EXPECT_EQ(plan->nodes[1].name, "beta");
  EXPECT_THAT(plan->stale, ElementsAre(0u, 0u));
  EXPECT_THAT(plan->notes, IsEmpty());
}

TEST(AssignPlan, GoesAboveEveryEpochThatWasEverPrepared) {
  wire::NodeStatus alpha = idle("alpha");
  wire::NodeStatus beta = idle("beta");
  alpha.highest_epoch = 12;
  beta.preparation = wire::Preparation{11, wire::PreparePhase::kPrepared, "3:output", ""};
  const auto plan =
      plan_assignment(wishes({"alpha=0:2", "beta=3:output"}), std::vector{alpha, beta});
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->epoch, 13u);
  EXPECT_THAT(plan->stale, ElementsAre(0u, 11u));  // left by a coordinator that is gone
}

TEST(AssignPlan, RefusesANodeThatIsLoadingForSomebodyElse) {
  wire::NodeStatus beta = idle("beta");
  beta.preparation = wire::Preparation{3, wire::PreparePhase::kLoading, "3:output", ""};
  const Error error = plan_error(wishes({"alpha=0:2", "beta=3:output"}), {idle("alpha"), beta});
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_THAT(error.message, AllOf(HasSubstr("beta"), HasSubstr("epoch 3")));
}

TEST(AssignPlan, ComparesFingerprintsAndNamesBothNodes) {
  wire::NodeStatus beta = idle("beta");
  beta.fingerprint = "ffffffffffffffffffffffffffffffff";
  const Error error = plan_error(wishes({"alpha=0:2", "beta=3:output"}), {idle("alpha"), beta});
  EXPECT_EQ(error.code, ErrorCode::kMismatch);
  EXPECT_THAT(error.message,
              AllOf(HasSubstr("alpha"), HasSubstr("beta"), HasSubstr(beta.fingerprint),
                    HasSubstr(idle("alpha").fingerprint)));
}

TEST(AssignPlan, RefusesRangesThatAreNoWholeModel) {
  const std::vector<wire::NodeStatus> both = {idle("alpha"), idle("beta")};
  const Error gap = plan_error(wishes({"alpha=0:1", "beta=3:output"}), both);
  EXPECT_EQ(gap.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(gap.message, AllOf(HasSubstr("alpha (0:1)"), HasSubstr("layer 2")));
  EXPECT_THAT(plan_error(wishes({"alpha=0:2", "beta=3:5"}), both).message,
              HasSubstr("output head"));
  EXPECT_THAT(plan_error(wishes({"alpha=1:2", "beta=3:output"}), both).message,
              HasSubstr("layer 0"));
  EXPECT_THAT(plan_error(wishes({"alpha=0:3", "beta=3:output"}), both).message,
              HasSubstr("both own"));
}

TEST(AssignPlan, NamesTheNodeWhoseRangeIsMalformed) {
  const Error error =
      plan_error(wishes({"alpha=0:2", "beta=three"}), {idle("alpha"), idle("beta")});
  EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.message, AllOf(HasSubstr("beta"), HasSubstr("three")));
  EXPECT_EQ(plan_error(wishes({"alpha=0:9"}), {idle("alpha")}).code, ErrorCode::kInvalidArgument);
}

TEST(AssignPlan, RefusesANodeWithoutAModel) {
  wire::NodeStatus alpha = idle("alpha");
  alpha.fingerprint.clear();
  alpha.block_count = 0;
  const Error error = plan_error(wishes({"alpha=0:output"}), {alpha});
  EXPECT_EQ(error.code, ErrorCode::kUnavailable);
  EXPECT_THAT(error.message, HasSubstr("alpha has no model"));
}

TEST(AssignPlan, RefusesAnAgentOfAnotherName) {
  const Error error = plan_error(wishes({"alpha=0:output"}), {idle("omega")});
  EXPECT_EQ(error.code, ErrorCode::kMismatch);
  EXPECT_THAT(error.message, AllOf(HasSubstr("'omega'"), HasSubstr("'alpha'")));
}

TEST(AssignPlan, TakesTheAgentsOwnNameWhereTheClusterHasNone) {
  const std::vector<Wish> wished = {{{kLocalNodeName, kLocalNodeAddress, true}, "0:output"}};
  const auto plan = plan_assignment(wished, std::vector{idle("workstation")});
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_EQ(plan->route[0].node, "workstation");
}

TEST(AssignPlan, TellsOfNodesThatTheNewRouteLeavesBehind) {
  wire::NodeStatus alpha = idle("alpha");
  alpha.epoch = 1;
  alpha.route = {{"alpha", "tcp://10.0.0.1:7341", "0:2"},
                 {"beta", "tcp://10.0.0.2:7341", "3:output"}};
  const auto plan = plan_assignment(wishes({"alpha=0:output"}), std::vector{alpha});
  ASSERT_TRUE(plan.has_value()) << plan.error().message;
  EXPECT_THAT(plan->notes, ElementsAre(HasSubstr("ds4ctl release beta")));
}

TEST(AssignPlan, SurvivesTheLastEpoch) {
  wire::NodeStatus alpha = idle("alpha");
  alpha.epoch = ~std::uint64_t{0};
  EXPECT_EQ(plan_error(wishes({"alpha=0:output"}), {alpha}).code, ErrorCode::kOutOfRange);
}

}  // namespace
}  // namespace ds4::ctl
