// ds4ctl as people run it: a process with arguments, an exit code and sentences. The agents are
// sockets in this test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <mutex>
#include <nlohmann/json.hpp>

#include "engine/gguf/model_file.h"
#include "engine/residency/span_cover.h"
#include "tests/ctl/fake_agents.h"
#include "tests/ctl/plan_fixture.h"
#include "tests/ctl/router_agent.h"
#include "tests/ctl/subprocess.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

/// Two fake agents behind sockets, and the cluster file that names them.
class TwoAgents {
 public:
  TwoAgents() {
    cluster =
        temp_file("cluster.toml", "insecure = true\n[nodes]\nalpha = \"" + sockets_[0].address +
                                      "\"\nbeta = \"" + sockets_[1].address + "\"\n");
  }
  FakeAgent& operator[](std::size_t i) { return fakes_.agents[i]; }
  std::size_t heard(std::size_t i, const char* name) {
    const std::lock_guard lock(mutex_);
    return fakes_.heard(i, name);
  }
  std::string address(std::size_t i) const { return sockets_[i].address; }

  std::string cluster;

 private:
  RouterAgent::Behaviour behaviour(std::size_t i) {
    return [this, i](const wire::Request& request) -> Messages {
      const std::lock_guard lock(mutex_);
      auto reply = fakes_.agents[i].answer(request);
      if (!reply) return {};
      return {message_of(*reply)};
    };
  }

  std::mutex mutex_;  // the fakes belong to the sockets' threads while these live
  FakeAgents fakes_{{"alpha", "beta"}};
  RouterAgent sockets_[2] = {RouterAgent(behaviour(0)), RouterAgent(behaviour(1))};
};

Finished ds4ctl(const std::vector<std::string>& arguments) {
  return run_program("ds4ctl", arguments);
}

std::string dead_cluster() {
  return temp_file("dead.toml", "insecure = true\n[nodes]\ngamma = \"tcp://127.0.0.1:1\"\n");
}

const std::string kModel = source_path("packaging/models/tiny-v4-q4.gguf");

TEST(Ds4ctlCli, HelpDocumentsTheExitCodes) {
  const Finished help = ds4ctl({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word :
       {"assign", "status", "cover", "run", "release", "plan", "Exit status", "130"}) {
    EXPECT_THAT(help.out, HasSubstr(word));
  }
  EXPECT_THAT(ds4ctl({"--version"}).out, StartsWith("ds4ctl "));
}

TEST(Ds4ctlCli, AMalformedCommandLineIsExitCode2WithOneSentence) {
  const std::vector<std::vector<std::string>> lines = {
      {},
      {"dance"},
      {"status", "--colour"},
      {"assign"},
      {"cover", "--model", kModel},
      {"run"},
      {"run", "--temp", "-1", "hello"},
      {"run", "--wait", "-1", "hello"},
      {"run", "--top-p", "0", "hello"},
      {"cover", "--model", kModel, "--layers", "0:2", "--page-bytes", "1000"}};
  for (const auto& line : lines) {
    const Finished finished = ds4ctl(line);
    EXPECT_EQ(finished.exit_code, 2);
    EXPECT_THAT(finished.err, StartsWith("ds4ctl: "));
    EXPECT_THAT(finished.out, IsEmpty());
  }
}

TEST(Ds4ctlCli, ABrokenClusterFileIsNamedWithItsLine) {
  const std::string path = temp_file("broken.toml", "[nodes]\nalpha = \"10.0.0.1\"\n");
  const Finished finished = ds4ctl({"status", "--cluster", path});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr(path + ":2: nodes.alpha"));
  EXPECT_EQ(ds4ctl({"status", "--cluster", "/nonexistent.toml"}).exit_code, 1);
}

TEST(Ds4ctlAssign, LoadsCommitsAndReports) {
  TwoAgents agents;
  const Finished finished =
      ds4ctl({"assign", "--cluster", agents.cluster, "beta=3:output", "alpha=0:2"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.out, "epoch 1 is ready: alpha 0:2, beta 3:output\n");
  EXPECT_THAT(finished.err, AllOf(HasSubstr("alpha 0:2: ready"), Not(HasSubstr("\x1b"))));
  EXPECT_EQ(agents.heard(0, "commit"), 1u);
  EXPECT_EQ(agents.heard(0, "abort"), 0u);
}

/// Two agents that each offer room for the whole of a model of six layers.
class Offering : public TwoAgents {
 public:
  Offering() {
    for (std::size_t i = 0; i < 2; ++i) {
      (*this)[i].offer = testing_plans::offer(6, 1ULL << 40);
      (*this)[i].probe = wire::ProbeFigures{210, 890'000'000, 1 << 20};
    }
  }
  Finished run(std::vector<std::string> words) const {
    words.insert(words.begin() + 1, {"--cluster", cluster, "--timeout", "0.5"});
    return ds4ctl(words);
  }
};

TEST(Ds4ctlPlan, ShowsWhoHoldsWhatAndWhy) {
  Offering agents;
  const Finished finished = agents.run({"plan"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(
      finished.out,
      AllOf(HasSubstr("NODE   LAYERS"), HasSubstr("0.21 ms, 890 MB/s to beta"),
            HasSubstr("0.21 ms, 890 MB/s back to alpha"),
            HasSubstr("slowest is beta, 3.5 ms a token: at most 286 tokens/s"),
            HasSubstr("alpha ends at layer 2 and beta begins at 3: with layer 3 alpha would "
                      "take 4 ms a token instead of at most 3.5"),
            HasSubstr("\nds4ctl assign alpha=0:2 beta=3:output\n")));
  EXPECT_EQ(agents.heard(0, "prepare"), 0U);
}

TEST(Ds4ctlPlan, IsJsonForPrograms) {
  Offering agents;
  const Finished finished = agents.run({"plan", "--json", "beta", "alpha"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json plan = Json::parse(finished.out);
  EXPECT_EQ(plan.at("stages").at(0).at("node"), "beta");
  EXPECT_EQ(plan.at("stages").at(0).at("layers"), "0:2");
  EXPECT_EQ(plan.at("slowest"), "alpha");
  EXPECT_NEAR(plan.at("slowest_ms").get<double>(), 3.5, 1e-9);
  EXPECT_EQ(plan.at("links").size(), 2U);
}

TEST(Ds4ctlPlan, NamesWhoDoesNotAnswer) {
  Offering agents;
  agents[1].down_upon = "offer";
  const Finished silent = agents.run({"plan"});
  EXPECT_EQ(silent.exit_code, 1);
  EXPECT_THAT(silent.err, AllOf(HasSubstr("node beta does not answer"), Not(HasSubstr("alpha"))));
  const Finished gone = agents.run({"assign", "--auto"});  // it stays down
  EXPECT_EQ(gone.exit_code, 1);
  EXPECT_THAT(gone.err, HasSubstr("node beta does not answer"));
  EXPECT_EQ(agents.heard(0, "prepare"), 0U);
}

TEST(Ds4ctlPlan, RefusesWithTheFiguresWhatNoBudgetHolds) {
  Offering agents;
  for (std::size_t i = 0; i < 2; ++i) agents[i].offer->budget_bytes = 1'000'000;
  for (const std::vector<std::string>& words : {std::vector<std::string>{"plan"},
                                                {"assign", "--auto"},
                                                {"assign", "--auto", "--dry-run"}}) {
    const Finished finished = agents.run(words);
    EXPECT_EQ(finished.exit_code, 1);
    EXPECT_THAT(finished.err, AllOf(HasSubstr("the model needs 3.19 MiB"),
                                    HasSubstr("the nodes hold 1.91 MiB"), HasSubstr("add a node")));
  }
  EXPECT_EQ(agents.heard(0, "prepare"), 0U);
}

TEST(Ds4ctlPlan, SaysWhichLinkCouldNotBeMeasured) {
  Offering agents;
  agents[0].probe.reset();
  const Finished finished = agents.run({"plan"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("note: the link alpha -> beta could not be measured"),
                                  HasSubstr("not measured to beta")));
}

TEST(Ds4ctlPlan, RefusesAModelFileThatIsNotThere) {
  Offering agents;
  const Finished finished = agents.run({"plan", "--model", "/nonexistent.gguf"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("/nonexistent.gguf"));
}

TEST(Ds4ctlPlan, DoesNotPlanForTwoModelsAtOnce) {
  Offering agents;
  agents[1].status.fingerprint = "ffffffffffffffffffffffffffffffff";
  const Finished finished = agents.run({"plan"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("different model files"));
}

TEST(Ds4ctlAssignAuto, ADryRunIsThePlan) {
  Offering agents;
  const Finished plan = agents.run({"plan"});
  const Finished dry = agents.run({"assign", "--auto", "--dry-run"});
  EXPECT_EQ(dry.exit_code, 0) << dry.err;
  EXPECT_EQ(dry.out, plan.out);
  EXPECT_EQ(agents.heard(0, "prepare"), 0U);
  EXPECT_EQ(
      ds4ctl({"assign", "--cluster", agents.cluster, "--dry-run", "alpha=0:output"}).exit_code, 2);
}

TEST(Ds4ctlAssignAuto, AppliesThePlan) {
  Offering agents;
  const Finished finished = agents.run({"assign", "--auto"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("epoch 1 is ready: alpha 0:2, beta 3:output\n"),
                                  HasSubstr("alpha -> beta: 0.21 ms, 890 MB/s\n")));
  EXPECT_EQ(agents.heard(1, "commit"), 1U);
}

TEST(Ds4ctlAssign, RefusesBeforeAnybodyIsTouched) {
  TwoAgents agents;
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"gamma=0:output"}, "'gamma'"},
      {{"alpha=0:2", "alpha=3:output"}, "twice"},
      {{"alpha"}, "NODE=RANGE"},
      {{"alpha=0:1", "beta=3:output"}, "nobody owns layer 2"},
      {{"alpha=0:3", "beta=3:output"}, "both own layer 3"},
      {{"alpha=0:2", "beta=3:5"}, "output head"},
      {{"alpha=0:2", "beta=3:99"}, "beta"},
      {{"alpha=1:2", "beta=3:output"}, "layer 0"}};
  for (const auto& [words, sentence] : cases) {
    std::vector<std::string> line = {"assign", "--cluster", agents.cluster};
    line.insert(line.end(), words.begin(), words.end());
    const Finished finished = ds4ctl(line);
    EXPECT_EQ(finished.exit_code, 2) << sentence;
    EXPECT_THAT(finished.err, HasSubstr(sentence));
  }
  EXPECT_EQ(agents.heard(0, "prepare") + agents.heard(1, "prepare"), 0u);
}

TEST(Ds4ctlAssign, ComparesFingerprints) {
  TwoAgents agents;
  agents[1].status.fingerprint = "ffff";
  const Finished finished =
      ds4ctl({"assign", "--cluster", agents.cluster, "alpha=0:2", "beta=3:output"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, AllOf(HasSubstr("alpha"), HasSubstr("beta"), HasSubstr("ffff"),
                                  HasSubstr(agents[0].status.fingerprint)));
}

TEST(Ds4ctlAssign, ANodeThatIsDownIsNamedWithItsAddress) {
  const Finished finished =
      ds4ctl({"--timeout", "0.3", "assign", "--cluster", dead_cluster(), "gamma=0:output"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, AllOf(HasSubstr("gamma"), HasSubstr("tcp://127.0.0.1:1")));
}

TEST(Ds4ctlAssign, ARefusedPrepareAbortsEverywhere) {
  TwoAgents agents;
  agents[1].refuse_prepare = Error{ErrorCode::kResourceExhausted, "80 GiB do not fit into 60"};
  const Finished finished =
      ds4ctl({"assign", "--cluster", agents.cluster, "alpha=0:2", "beta=3:output"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("80 GiB do not fit into 60"));
  EXPECT_THAT(finished.out, IsEmpty());
  EXPECT_EQ(agents.heard(0, "abort"), 1u);
  EXPECT_EQ(agents.heard(1, "abort"), 1u);
  EXPECT_EQ(agents.heard(0, "commit"), 0u);
}

TEST(Ds4ctlAssign, CtrlCAbortsEverywhereAndExits130) {
  TwoAgents agents;
  agents[1].load_hangs = true;
  Subprocess assign("ds4ctl",
                    {"assign", "--cluster", agents.cluster, "alpha=0:2", "beta=3:output"});
  ASSERT_TRUE(assign.wait_for("beta 3:output: loading"));
  assign.signal(SIGINT);
  const Finished finished = assign.finish();
  EXPECT_EQ(finished.exit_code, 130);
  EXPECT_THAT(finished.err, HasSubstr("interrupted"));
  EXPECT_EQ(agents.heard(0, "abort"), 1u);
  EXPECT_EQ(agents.heard(1, "abort"), 1u);
}

TEST(Ds4ctlStatus, ShowsATableAndJson) {
  TwoAgents agents;
  const Finished table = ds4ctl({"status", "--cluster", agents.cluster});
  EXPECT_EQ(table.exit_code, 0) << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("NODE"), HasSubstr("alpha"), HasSubstr("idle")));
  EXPECT_THAT(table.out, Not(HasSubstr("\x1b")));
  const Finished json = ds4ctl({"status", "--json", "--cluster", agents.cluster});
  EXPECT_EQ(json.exit_code, 0);
  EXPECT_EQ(Json::parse(json.out)["nodes"][1]["name"], "beta");
}

TEST(Ds4ctlStatus, AnUnreachableNodeIsShownAndIsExitCode1) {
  const Finished table = ds4ctl({"status", "--timeout", "0.3", "--cluster", dead_cluster()});
  EXPECT_EQ(table.exit_code, 1);
  EXPECT_THAT(table.out, AllOf(HasSubstr("gamma"), HasSubstr("unreachable")));
  const Finished json =
      ds4ctl({"status", "--json", "--timeout", "0.3", "--cluster", dead_cluster()});
  EXPECT_EQ(json.exit_code, 1);
  const Json node = Json::parse(json.out)["nodes"][0];
  EXPECT_EQ(node["state"], "unreachable");
  EXPECT_THAT(node["detail"].get<std::string>(), HasSubstr("tcp://127.0.0.1:1"));
}

TEST(Ds4ctlStatus, AWatchEndsWithCtrlC) {
  TwoAgents agents;
  Subprocess watch("ds4ctl", {"status", "--watch", "--json", "--cluster", agents.cluster});
  ASSERT_TRUE(watch.wait_for("\n{\"nodes\""));  // the second look
  watch.signal(SIGINT);
  EXPECT_EQ(watch.finish().exit_code, 0);
}

TEST(Ds4ctlStatus, AReaderThatGoesAwayIsAnErrorNotASignal) {
  TwoAgents agents;
  Subprocess watch("ds4ctl", {"status", "--watch", "--cluster", agents.cluster});
  ASSERT_TRUE(watch.wait_for("NODE"));
  watch.close_stdout();
  const Finished finished = watch.finish();
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("standard output"));
}

TEST(Ds4ctlRelease, AsksTheNodeAndNamesThoseItLeaves) {
  TwoAgents agents;
  agents[0].status.layers = "0:2";
  agents[0].status.epoch = 4;
  agents[0].status.route = {{"alpha", agents.address(0), "0:2"},
                            {"beta", agents.address(1), "3:output"}};
  const Finished finished = ds4ctl({"release", "alpha", "--cluster", agents.cluster});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, AllOf(HasSubstr("alpha released 0:2"), HasSubstr("beta")));
  EXPECT_EQ(agents.heard(0, "release"), 1u);
  EXPECT_EQ(agents.heard(1, "release"), 0u);
  EXPECT_EQ(ds4ctl({"release", "gamma", "--cluster", agents.cluster}).exit_code, 2);
  EXPECT_EQ(ds4ctl({"release", "gamma", "--timeout", "0.3", "--cluster", dead_cluster()}).exit_code,
            1);
}

TEST(Ds4ctlCover, JsonIsTheSpanCover) {
  for (const char* layers : {"3:output", "0:2", "0:output", "2:2"}) {
    const Finished finished =
        ds4ctl({"cover", "--model", kModel, "--layers", layers, "--json", "--page-bytes", "4096"});
    ASSERT_EQ(finished.exit_code, 0) << finished.err;
    const Json json = Json::parse(finished.out);
    const auto file = ModelFile::open(kModel).value();
    const SpanCover cover =
        SpanCover::of(file->gguf(), LayerRange::parse(layers, 6).value(), 4096).value();
    EXPECT_EQ(json["file_bytes"], file->file_bytes());
    EXPECT_EQ(json["page_bytes"], 4096);
    EXPECT_EQ(json["tensor_bytes"], cover.tensor_bytes());
    EXPECT_EQ(json["spans"], cover.spans());
    std::uint64_t sum = 0;
    for (const Json& interval : json["intervals"]) {
      EXPECT_TRUE(cover.contains(interval["offset"], interval["bytes"]));
      sum += interval["bytes"].get<std::uint64_t>();
    }
    EXPECT_EQ(json["intervals"].size(), cover.intervals().size());
    EXPECT_EQ(sum, json["cover_bytes"].get<std::uint64_t>());
    EXPECT_EQ(json["hull"]["offset"], json["intervals"].front()["offset"]);
    EXPECT_GE(json["hull"]["bytes"].get<std::uint64_t>(), sum);
    EXPECT_GE(sum, json["tensor_bytes"].get<std::uint64_t>());
  }
}

TEST(Ds4ctlCover, TheTextNamesTheCoverAndTheNaiveRange) {
  const Finished finished = ds4ctl({"cover", "--model", kModel, "--layers", "3:output"});
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_THAT(finished.out,
              AllOf(HasSubstr("layers 3:output: span cover"), HasSubstr("would take")));
}

TEST(Ds4ctlCover, RefusesFilesAndRangesWithASentence) {
  const Finished missing = ds4ctl({"cover", "--model", "/nonexistent.gguf", "--layers", "0:2"});
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nonexistent.gguf"));
  const std::string text = temp_file("no.gguf", "this is no model at all, just a line of text\n");
  const Finished no_model = ds4ctl({"cover", "--model", text, "--layers", "0:2"});
  EXPECT_EQ(no_model.exit_code, 1);
  EXPECT_THAT(no_model.err, HasSubstr(text));
  for (const char* layers : {"0:6", "4:2", "x", "0:2:3", ""}) {
    const Finished refused = ds4ctl({"cover", "--model", kModel, "--layers", layers});
    EXPECT_NE(refused.exit_code, 0) << layers;
    EXPECT_THAT(refused.err, StartsWith("ds4ctl: "));
  }
}

}  // namespace
}  // namespace ds4::ctl
