#include "ctl/ds4ctl/top_screen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ctl/common/text_table.h"
#include "tests/ctl/route_fixture.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TopSnapshot two_ready() {
  return {"14:03:59", testing_nodes::route_at_first(), testing_nodes::route_five_seconds_later()};
}

std::vector<std::string> texts(const TopSnapshot& snapshot, std::size_t width,
                               std::size_t height = 100) {
  std::vector<std::string> all;
  for (const ScreenLine& line : render_top(snapshot, width, height)) all.push_back(line.text);
  return all;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

TEST(TextTable, LeavesOutTheMostDispensableColumnsFirst) {
  TextTable table({{"NAME"}, {"A", true, 1}, {"B", true, 2}, {"NOTE", false, 3}});
  table.add({"x", "10", "200", "something"});
  EXPECT_THAT(table.lines(80), ElementsAre("NAME   A    B  NOTE", "x     10  200  something"));
  EXPECT_THAT(table.lines(15), ElementsAre("NAME   A    B", "x     10  200"));
  EXPECT_THAT(table.lines(12), ElementsAre("NAME   A", "x     10"));
  EXPECT_THAT(table.lines(3), ElementsAre("NAM", "x"));
  EXPECT_THAT(table.lines(0), ElementsAre("", ""));
}

TEST(TextTable, CountsCharactersAndCutsBetweenThem) {
  EXPECT_EQ(characters("Zürich"), 6U);
  EXPECT_EQ(clipped("Zürich", 2), "Zü");
  EXPECT_EQ(clipped("Zürich", 9), "Zürich");
  TextTable table({{"N"}, {"V", true}});
  table.add({"ü", "1"});
  table.add({"ab", "22"});
  EXPECT_THAT(table.lines(9), ElementsAre("N    V", "ü    1", "ab  22"));
}

TEST(TopScreen, ShowsNodesAndHops) {
  EXPECT_EQ(
      joined(texts(two_ready(), 132)),
      "ds4d: 2 of 2 nodes ready, epoch 3                                14:03:59\n"
      "96.0 tokens/s, 200.0 prompt tokens/s; 1 request, 2 sessions, 1 program\n"
      "\n"
      "NODE   STATE  LAYERS       COVER  RESIDENT        KV  SESSIONS  REQUESTS\n"
      "alpha  ready  0:2       5.00 MiB  5.00 MiB  1.50 MiB         2         1\n"
      "beta   ready  3:output  6.00 MiB  6.00 MiB  1.50 MiB         2         0\n"
      "\n"
      "NODE   LAYERS    STATE  COMPUTE  WAIT  SEND    QUEUE  WAITING  DECODE/s  PREFILL/s        "
      "SENT  TO     ROUND TRIP\n"
      "alpha  0:2       ready     50 %  20 %   1 %  0.12 ms        7     100.0      200.0  1.00 "
      "MiB/s  beta      0.45 ms\n"
      "beta   3:output  ready     50 %  20 %   1 %  0.12 ms        7     100.0      200.0  1.00 "
      "MiB/s  alpha     0.55 ms\n");
}

TEST(TopScreen, KeepsWhatMattersMostOnANarrowTerminal) {
  EXPECT_EQ(joined(texts(two_ready(), 40)),
            "ds4d: 2 of 2 nodes ready, epoch 3\n"
            "96.0 tokens/s, 200.0 prompt tokens/s; 1 \n"
            "\n"
            "NODE   STATE  LAYERS          KV\n"
            "alpha  ready  0:2       1.50 MiB\n"
            "beta   ready  3:output  1.50 MiB\n"
            "\n"
            "NODE   COMPUTE  WAIT  SEND    QUEUE\n"
            "alpha     50 %  20 %   1 %  0.12 ms\n"
            "beta      50 %  20 %   1 %  0.12 ms\n");
}

TEST(TopScreen, NeverLeavesTheScreen) {
  for (std::size_t width = 0; width < 140; ++width) {
    for (const std::size_t height : {0, 1, 5, 60}) {
      const auto lines = texts(two_ready(), width, height);
      EXPECT_LE(lines.size(), height);
      for (const std::string& line : lines) EXPECT_LE(characters(line), width) << line;
    }
  }
}

TEST(TopScreen, ShowsHowFarALoadIs) {
  TopSnapshot snapshot = two_ready();
  wire::NodeStatus& beta = *snapshot.now[1].status;
  beta.preparation = wire::Preparation{4, wire::PreparePhase::kLoading, "3:output", ""};
  beta.load = {30, 40, 12};
  EXPECT_THAT(joined(texts(snapshot, 140)), HasSubstr("[########--] 75 %, 12 s left of 3:output"));
  beta.load = {0, 0, 0};
  EXPECT_THAT(joined(texts(snapshot, 140)), HasSubstr("[----------] 0 %"));
}

TEST(TopScreen, TroubleStandsBesideTheNodeAndInItsColour) {
  TopSnapshot snapshot = two_ready();
  snapshot.now[0].status->state = wire::NodeState::kDegraded;
  snapshot.now[0].status->detail = "no word from node beta";
  snapshot.now[1].status = fail(ErrorCode::kTimeout, "does not answer");
  const auto lines = render_top(snapshot, 200, 100);
  EXPECT_THAT(lines[0].text, HasSubstr("0 of 2 nodes ready"));
  EXPECT_THAT(lines[1].text, HasSubstr("- tokens/s, 200.0 prompt tokens/s"));
  EXPECT_THAT(lines[4].text, AllOf(HasSubstr("degraded"), HasSubstr("no word from node beta")));
  EXPECT_EQ(lines[4].tone, Tone::kUnusual);
  EXPECT_THAT(lines[5].text, AllOf(HasSubstr("unreachable"), HasSubstr("does not answer")));
  EXPECT_EQ(lines[5].tone, Tone::kBad);
}

TEST(TopScreen, ColoursOnlyWhenAsked) {
  const ScreenLine line{"beta  failed", Tone::kBad};
  EXPECT_EQ(painted(line, false), "beta  failed");
  EXPECT_EQ(painted(line, true), "\x1b[31mbeta  failed\x1b[0m");
  EXPECT_EQ(painted({"", Tone::kBad}, true), "");
}

TEST(TopScreen, WithoutARouteOnlyNodesAreShown) {
  TopSnapshot snapshot;
  snapshot.now = {{testing_nodes::two_nodes().nodes[0], testing_nodes::idle("alpha")}};
  const std::string text = joined(texts(snapshot, 100));
  EXPECT_THAT(text, AllOf(HasSubstr("0 of 1 node ready\n"), HasSubstr("alpha  idle"),
                          Not(HasSubstr("COMPUTE"))));
}

}  // namespace
}  // namespace ds4::ctl
