// What people and programs see: status table and JSON, progress, cover, byte texts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "agent/wire/cover_report.h"
#include "ctl/ds4ctl/cover_report.h"
#include "ctl/ds4ctl/progress.h"
#include "ctl/ds4ctl/status_audit.h"
#include "ctl/ds4ctl/status_table.h"
#include "engine/base/bytes_text.h"
#include "tests/ctl/node_fixture.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

std::vector<NodeView> one_up_one_down() {
  wire::NodeStatus alpha = testing_nodes::idle("alpha");
  alpha.state = wire::NodeState::kReady;
  alpha.layers = "0:2";
  alpha.epoch = 3;
  alpha.cover.cover_bytes = 5u << 20;
  alpha.resident.incore_bytes = 5u << 20;
  alpha.resident.locked_bytes = 4u << 20;
  alpha.sessions = 2;
  const std::vector<Node> nodes = testing_nodes::two_nodes().nodes;
  return {{nodes[0], alpha}, {nodes[1], fail(ErrorCode::kTimeout, "does not answer")}};
}

TEST(BytesText, ChangesItsUnitEvery1024) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(3ull << 29), "1.50 GiB");
  EXPECT_EQ(bytes_text(~0ull), "16777216.00 TiB");
}

TEST(StatusTable, HasOneLineForEachNodeWithColumnsUnderTheirHeads) {
  const std::string table = status_table(one_up_one_down(), /*colour=*/false);
  const std::size_t first = table.find('\n');
  const std::size_t second = table.find('\n', first + 1);
  const std::string head = table.substr(0, first);
  const std::string alpha = table.substr(first + 1, second - first - 1);
  const std::string beta = table.substr(second + 1);
  EXPECT_THAT(head, StartsWith("NODE"));
  EXPECT_EQ(alpha.find("ready"), head.find("STATE"));
  EXPECT_EQ(alpha.find("0:2"), head.find("LAYERS"));
  EXPECT_EQ(beta.find("unreachable"), head.find("STATE"));
  EXPECT_EQ(beta.find("does not answer"), head.find("DETAIL"));
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
}

TEST(StatusTable, ColoursStatesOnlyWhenAsked) {
  const std::string table = status_table(one_up_one_down(), /*colour=*/true);
  EXPECT_THAT(table, AllOf(HasSubstr("\x1b[32mready\x1b[0m"), HasSubstr("\x1b[31munreachable")));
}

TEST(StatusTable, TellsHowFarAPreparationIs) {
  wire::NodeStatus alpha = testing_nodes::idle("alpha");
  alpha.preparation = wire::Preparation{4, wire::PreparePhase::kLoading, "0:2", ""};
  alpha.load = {30, 40};
  const std::vector<NodeView> views = {{testing_nodes::two_nodes().nodes[0], alpha}};
  EXPECT_THAT(status_table(views, false), HasSubstr("loading 0:2 for epoch 4, 75 %"));
}

TEST(StatusTable, TellsWhenAgentAndClusterFileDisagreeAboutTheName) {
  const std::vector<NodeView> views = {
      {testing_nodes::two_nodes().nodes[0], testing_nodes::idle("omega")},
      {{kLocalNodeName, kLocalNodeAddress, true}, testing_nodes::idle("workstation")}};
  const std::string table = status_table(views, false);
  EXPECT_THAT(table, HasSubstr("the cluster file calls it alpha"));
  EXPECT_THAT(table, Not(HasSubstr(kLocalNodeName)));
}

std::vector<NodeView> two_ready() {
  std::vector<NodeView> views = one_up_one_down();
  wire::NodeStatus beta = *views[0].status;
  beta.name = "beta";
  beta.layers = "3:output";
  views[1].status = beta;
  for (NodeView& view : views) view.status->resident.locked_bytes = 5u << 20;
  return views;
}

TEST(StatusSentence, SaysThatAllIsWellWithWhatIsHeld) {
  EXPECT_EQ(status_sentence(two_ready()),
            "ready: 2 nodes hold layers 0:2 and 3:output, 10.00 MiB in memory, all of it locked, "
            "nothing outside their layers\n");
  std::vector<NodeView> one = two_ready();
  one.pop_back();
  one[0].status->resident.locked_bytes = 0;
  EXPECT_EQ(status_sentence(one),
            "ready: 1 node holds layers 0:2, 5.00 MiB in memory, none of it locked, nothing "
            "outside its layers\n");
}

TEST(StatusSentence, NamesTheFirstThingThatIsNot) {
  EXPECT_EQ(status_sentence(one_up_one_down()), "beta: does not answer\n");
  std::vector<NodeView> views = two_ready();
  views[1].status->resident.incore_bytes = 4u << 20;
  EXPECT_EQ(status_sentence(views),
            "beta serves, but 1.00 MiB of its 5.00 MiB are not in memory\n");
  views[0].status->resident.outside_cover_bytes = 4096;
  EXPECT_EQ(status_sentence(views), "alpha serves, but maps 4.00 KiB outside its layers\n");
  views[0].status->state = wire::NodeState::kLoading;
  views[0].status->load = {1u << 20, 4u << 20, 7};
  EXPECT_EQ(status_sentence(views), "alpha is loading: 1.00 MiB of 4.00 MiB, 7 s left\n");
  views[0].status->state = wire::NodeState::kFailed;
  views[0].status->detail = "its disk failed";
  EXPECT_EQ(status_sentence(views), "alpha is failed: its disk failed\n");
  EXPECT_EQ(status_sentence({}), "there are no nodes\n");
}

TEST(Spans, ProveWhatIsHeldIntervalByInterval) {
  std::vector<NodeView> views = two_ready();
  wire::ResidentReport& resident = views[0].status->resident;
  resident.strategy = "memfd";
  resident.read_bytes = 3'000'000'000;
  resident.load_us = 2'000'000;
  resident.kept_bytes = 1u << 20;
  resident.load_peak_bytes = 6u << 20;
  resident.group_peak_bytes = 7u << 20;
  resident.note = "not all of it locked";
  resident.intervals = {{4096, 8192, 8192, 8192, 4096, 0, 0}};
  views[0].status->kv_formula = "rows = 100 B for 16 positions";
  const std::string text = spans_text(views);
  EXPECT_THAT(text, AllOf(HasSubstr("alpha: layers 0:2"), HasSubstr("after 2.000 s (memfd)"),
                          HasSubstr("at 1.50 GB/s"), HasSubstr("1.00 MiB kept"),
                          HasSubstr("peak while loading 6.00 MiB"), HasSubstr("7.00 MiB"),
                          HasSubstr("note: not all of it locked"),
                          HasSubstr("  1 interval, 0 B outside it\n"),
                          HasSubstr("a full session is rows = 100 B for 16 positions")));
  EXPECT_THAT(text,
              HasSubstr("            4096     8.00 KiB     8.00 KiB     8.00 KiB     4.00 KiB"));
}

TEST(StatusJson, HasTheDocumentedKeys) {
  const auto json = nlohmann::json::parse(status_json(one_up_one_down(), 2));
  ASSERT_EQ(json.at("nodes").size(), 2u);
  const auto& alpha = json["nodes"][0];
  for (const char* key : {"name", "state", "model", "layers", "epoch", "cover", "resident",
                          "sessions", "kv_bytes", "address"}) {
    EXPECT_TRUE(alpha.contains(key)) << key;
  }
  for (const char* key : {"mapped_bytes", "incore_bytes", "locked_bytes", "device_bytes",
                          "outside_cover_bytes", "load_peak_bytes"}) {
    EXPECT_TRUE(alpha["resident"].contains(key)) << key;
  }
  EXPECT_EQ(alpha["resident"]["locked_bytes"], 4u << 20);
  EXPECT_EQ(json["nodes"][1]["state"], "unreachable");
  EXPECT_EQ(json["nodes"][1]["name"], "beta");
  EXPECT_EQ(json["nodes"][1]["detail"], "does not answer");
}

TEST(StatusJson, IsOneLineForAWatch) {
  const std::string line = status_json(one_up_one_down(), -1);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

TEST(Status, IsAFailureWhenANodeIsUnreachable) {
  std::vector<NodeView> views = one_up_one_down();
  EXPECT_FALSE(all_reachable(views));
  views.pop_back();
  EXPECT_TRUE(all_reachable(views));
}

TEST(Progress, TheBarFillsWithTheBytes) {
  EXPECT_THAT(progress_bar({"a", "0:2", "loading", 0, 0}, 200),
              HasSubstr("[----------------]   0 %"));
  EXPECT_THAT(progress_bar({"a", "0:2", "loading", 512, 1024}, 200),
              AllOf(HasSubstr("[########--------]  50 %"), HasSubstr("512 B of 1.00 KiB")));
  EXPECT_THAT(progress_bar({"a", "0:2", "loading", 512, 1024, 9}, 200),
              HasSubstr("512 B of 1.00 KiB, 9 s left"));
  EXPECT_THAT(progress_bar({"a", "0:2", "prepared", 9, 9}, 200),
              HasSubstr("[################] 100 %"));
  const std::string narrow = progress_bar({"a", "0:2", "loading", 1, 9}, 40);
  EXPECT_EQ(narrow.size(), 40u);
  EXPECT_THAT(narrow, HasSubstr("loading"));
}

TEST(Progress, LinesAreWrittenForChangesAndQuartersOnly) {
  const NodeProgress start{"a", "0:2", "loading", 0, 100};
  NodeProgress later = start;
  later.bytes_done = 24;
  EXPECT_THAT(progress_lines(std::vector{start}, std::vector{later}), IsEmpty());
  later.bytes_done = 25;
  EXPECT_THAT(progress_lines(std::vector{start}, std::vector{later}),
              ElementsAre("a 0:2: loading, 25 B of 100 B"));
  later.seconds_left = 3;
  EXPECT_THAT(progress_lines(std::vector{start}, std::vector{later}),
              ElementsAre("a 0:2: loading, 25 B of 100 B, 3 s left"));
  later.doing = "prepared";
  EXPECT_THAT(progress_lines({}, std::vector{later}), ElementsAre(HasSubstr("prepared")));
}

TEST(Cover, SaysWhatANaiveRangeWouldHaveTaken) {
  const std::vector<Span> spans = {{4096, 4096}, {81920, 100}};
  const SpanCover cover = SpanCover::from_spans(spans, 1 << 20, 4096).value();
  const std::string text = cover_text(cover, LayerRange{3, 5, true});
  EXPECT_THAT(text, HasSubstr(cover.describe()));
  EXPECT_THAT(text, AllOf(HasSubstr("4096 .. 8192"), HasSubstr("81920 .. 86016")));
  EXPECT_THAT(text, HasSubstr("would take 80.00 KiB: 72.00 KiB more"));
}

TEST(Cover, ReportsOffsetsAndLengths) {
  const std::vector<Span> spans = {{4096, 4096}, {81920, 100}};
  const wire::CoverReport report =
      wire::report_of(SpanCover::from_spans(spans, 1 << 20, 4096).value());
  EXPECT_THAT(report.intervals,
              ElementsAre(wire::ByteInterval{4096, 4096}, wire::ByteInterval{81920, 4096}));
  EXPECT_EQ(report.hull, (wire::ByteInterval{4096, 81920}));
  EXPECT_EQ(report.tensor_bytes, 4196u);
  EXPECT_EQ(report.cover_bytes, 8192u);
  EXPECT_EQ(report.spans, 2u);
}

}  // namespace
}  // namespace ds4::ctl
