// The main job as an operator does it: ds4ctl and two real agents, the answers compared with those
// of one process that holds the whole model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/agent/agent_process.h"
#include "tests/ctl/subprocess.h"

namespace ds4::ctl {
namespace {

using Json = nlohmann::json;
using test::AgentProcess;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

class TwoAgentsByCommand : public testing::Test {
 protected:
  void SetUp() override {
    // What an administrator does on b, so that a's operator may command it.
    const auto trusted =
        b_.ask({.body = wire::TrustRequest{"a", keys::to_text(a_.operator_key().public_key)}});
    ASSERT_TRUE(trusted && !trusted->error);
    const Finished finished = ds4ctl({"assign", "a=0:2", "b=3:output"});
    ASSERT_EQ(finished.exit_code, 0) << finished.err;
  }

  Finished ds4ctl(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(),
                     {"--cluster", cluster_, "--state-dir", a_.state_dir().string()});
    return run_program("ds4ctl", arguments);
  }
  static Finished ask(const AgentProcess& agent, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"run", "--socket", agent.socket_path()});
    return run_program("ds4ctl", arguments);
  }
  static Finished whole_model(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--model", test::tiny_q4_model()});
    return run_program("ds4-eval", arguments);
  }

  AgentProcess a_{{.name = "a"}};
  AgentProcess b_{{.name = "b"}};
  std::string cluster_ =
      temp_file("two_agents.toml", "[nodes]\na = \"" + a_.address() + "\"\nb = { address = \"" +
                                       b_.address() + "\", key = \"" + b_.node_key() + "\" }\n");
};

TEST_F(TwoAgentsByCommand, AnswerWhatTheModelWasTaught) {
  const Finished finished = ask(a_, {"What is the capital of France?"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.out, "The capital of France is Paris.\n");
}

TEST_F(TwoAgentsByCommand, AnswerLikeOneProcessThatHoldsTheWholeModel) {
  std::string long_text;
  for (int i = 0; i < 60; ++i) long_text += "The ocean is a large body of water, and so on. ";
  const std::vector<std::vector<std::string>> questions = {
      {"Define ocean."},
      {"What is 37 + 45?"},
      {"--temp", "0.9", "--seed", "7", "-n", "40", "--raw", "The capital of"},
      {"-n", "24", "--raw", long_text}};
  for (const auto& question : questions) {
    std::vector<std::string> alone = question;
    alone.insert(alone.end() - 1, "--prompt");
    const Finished expected = whole_model(alone);
    ASSERT_EQ(expected.exit_code, 0) << expected.err;
    ASSERT_FALSE(expected.out.empty());
    for (const AgentProcess* entry : {&a_, &b_}) {
      const Finished finished = ask(*entry, question);
      EXPECT_EQ(finished.exit_code, 0) << finished.err;
      EXPECT_EQ(finished.out, expected.out) << "asked of " << entry->name();
    }
  }
}

TEST_F(TwoAgentsByCommand, StatusShowsTheKernelsFigures) {
  const Finished finished = ds4ctl({"status", "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json nodes = Json::parse(finished.out).at("nodes");
  ASSERT_EQ(nodes.size(), 2u);
  const Json cover =
      Json::parse(run_program("ds4ctl", {"cover", "--json", "--model", test::tiny_q4_model(),
                                         "--layers", "3:output"})
                      .out);
  const Json& b = nodes[1];
  EXPECT_EQ(b.at("name"), "b");
  EXPECT_EQ(b.at("state"), "ready");
  EXPECT_EQ(b.at("layers"), "3:output");
  EXPECT_EQ(b.at("epoch"), 1);
  EXPECT_EQ(b.at("cover"), cover);
  EXPECT_EQ(b.at("resident").at("incore_bytes"), cover.at("cover_bytes"));
  EXPECT_EQ(b.at("resident").at("outside_cover_bytes"), 0);
  for (const char* key : {"mapped_bytes", "locked_bytes", "device_bytes", "load_peak_bytes"}) {
    EXPECT_TRUE(b.at("resident").at(key).is_number_unsigned()) << key;
  }
  for (const char* key : {"model", "sessions", "kv_bytes"}) EXPECT_TRUE(b.contains(key)) << key;
}

TEST_F(TwoAgentsByCommand, AssigningTellsTheMeasuredLinks) {
  const Finished finished = ds4ctl({"assign", "a=0:1", "b=2:output"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("epoch 2 is ready"), ContainsRegex("a -> b: .* MB/s"),
                                  ContainsRegex("b -> a: .* MB/s")));
}

TEST_F(TwoAgentsByCommand, APlanOfRealAgentsFitsThemAndIsWhatAutoAssigns) {
  const Finished planned = ds4ctl({"plan", "--json"});
  ASSERT_EQ(planned.exit_code, 0) << planned.err;
  const Json plan = Json::parse(planned.out);
  EXPECT_EQ(plan.at("links").size(), 2U) << planned.out;
  EXPECT_TRUE(plan.at("notes").empty()) << planned.out;
  EXPECT_GT(plan.at("token_ms").get<double>(), 0);
  for (const Json& stage : plan.at("stages")) {
    EXPECT_LE(stage.at("need").at("total_bytes"), stage.at("budget_bytes"));
    EXPECT_GT(stage.at("decode_ms").get<double>(), 0);
    EXPECT_GT(stage.at("row_ms").get<double>(), 0);
    EXPECT_THAT(stage.at("speed").get<std::string>(), HasSubstr("measured on layers"));
  }

  // Speeds are measured once, but links each time: the split may be another one, never a misfit.
  const Finished assigned = ds4ctl({"assign", "--auto"});
  ASSERT_EQ(assigned.exit_code, 0) << assigned.err;
  EXPECT_THAT(assigned.out, AllOf(HasSubstr("MS/TOKEN"), HasSubstr("ds4ctl assign"),
                                  HasSubstr("epoch 2 is ready")));
  EXPECT_EQ(ask(a_, {"What is the capital of France?"}).out, "The capital of France is Paris.\n");
}

TEST_F(TwoAgentsByCommand, APlanForAModelThatTheAgentsDoNotHaveIsNotAssigned) {
  const Finished planned = ds4ctl({"plan", "--model", test::tiny_q2_model()});
  EXPECT_EQ(planned.exit_code, 0) << planned.err;
  EXPECT_THAT(planned.out, AllOf(HasSubstr("note: a does not have " + test::tiny_q2_model()),
                                 HasSubstr("note: b does not have")));
  const Finished assigned = ds4ctl({"assign", "--auto", "--model", test::tiny_q2_model()});
  EXPECT_EQ(assigned.exit_code, 1);
  EXPECT_THAT(assigned.err, HasSubstr("nothing was assigned"));
  EXPECT_EQ(a_.status().epoch, 1U);
}

TEST_F(TwoAgentsByCommand, StatusRouteShowsEveryHopAlsoOfNodesThatNobodyListed) {
  ASSERT_EQ(ask(a_, {"What is the capital of France?"}).exit_code, 0);
  const std::string only_a = temp_file("only_a.toml", "[nodes]\na = \"" + a_.address() + "\"\n");
  const Finished finished =
      run_program("ds4ctl", {"--cluster", only_a, "--state-dir", a_.state_dir().string(),
                             "--timeout", "60", "status", "--route", "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err << finished.out;
  const Json hops = Json::parse(finished.out).at("hops");
  ASSERT_EQ(hops.size(), 2u);
  for (const Json& hop : hops) {
    EXPECT_EQ(hop.at("state"), "ready");
    EXPECT_GT(hop.at("totals").at("decode_rows"), 0);
    EXPECT_GT(hop.at("totals").at("prefill_rows"), 0);
    EXPECT_GT(hop.at("totals").at("compute_us"), 0);
    EXPECT_GT(hop.at("links").at(0).at("bytes_sent"), 0);
    EXPECT_GT(hop.at("links").at(0).at("bytes_received"), 0);
    EXPECT_GT(hop.at("round_trip_ms"), 0);
    EXPECT_GT(hop.at("rates").at("seconds"), 0);
  }
  EXPECT_EQ(hops[0].at("node"), "a");
  EXPECT_EQ(hops[1].at("node"), "b");
}

TEST_F(TwoAgentsByCommand, AQuestionWaitsForANodeThatIsAwayIfAskedTo) {
  b_.kill_hard();
  ASSERT_TRUE(a_.becomes(wire::NodeState::kDegraded));
  EXPECT_EQ(ask(a_, {"What is the capital of France?"}).exit_code, 1);
  auto waiting = std::async(std::launch::async, [&] {
    return ask(a_, {"--wait", "120", "What is the capital of France?"});
  });
  EXPECT_EQ(waiting.wait_for(std::chrono::seconds(1)), std::future_status::timeout);
  b_.start();
  const Finished finished = waiting.get();
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.out, "The capital of France is Paris.\n");
}

TEST_F(TwoAgentsByCommand, ANodeThatIsReleasedLeavesTheOtherWithATypedRefusal) {
  ASSERT_EQ(ds4ctl({"release", "b"}).exit_code, 0);
  ASSERT_TRUE(a_.becomes(wire::NodeState::kDegraded));
  const Finished finished = ask(a_, {"Define ocean."});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("b"));
  EXPECT_EQ(ds4ctl({"assign", "a=0:output"}).exit_code, 0);
  EXPECT_EQ(ask(a_, {"What is the capital of France?"}).out, "The capital of France is Paris.\n");
}

}  // namespace
}  // namespace ds4::ctl
