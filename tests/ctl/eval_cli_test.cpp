// ds4-eval as people and scripts run it, on the embedded model and against the reference vectors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/ctl/subprocess.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

const std::string kModel = source_path("packaging/models/tiny-v4-q4.gguf");
constexpr std::size_t kVocabulary = 4096;

Finished eval(std::vector<std::string> arguments) {
  return run_program("ds4-eval", arguments);
}

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Json reference_case(const std::string& name) {
  static const Json vectors =
      Json::parse(slurp(source_path("tests/vectors/tiny-v4-q4.plain.json")));
  return vectors["cases"][name];
}

std::string tokens_of(const std::string& name) {
  return temp_file(name + ".json", reference_case(name)["tokens"].dump());
}

/// The raw logits that `ds4-eval logits` writes with these further arguments.
std::string logits_with(const std::string& tokens, const std::vector<std::string>& arguments) {
  const std::string out = temp_file("logits.f32", "");
  std::vector<std::string> line = {"logits", "--model", kModel, "--tokens", tokens, "--out", out};
  line.insert(line.end(), arguments.begin(), arguments.end());
  const Finished finished = eval(line);
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  return slurp(out);
}

double perplexity_with(const std::vector<std::string>& arguments) {
  std::vector<std::string> line = {"perplexity", "--model", kModel, "--json"};
  line.insert(line.end(), arguments.begin(), arguments.end());
  const Finished finished = eval(line);
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  return finished.exit_code == 0 ? Json::parse(finished.out)["perplexity"].get<double>() : 0;
}

TEST(EvalCli, HelpDocumentsTheExitCodes) {
  const Finished help = eval({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word : {"logits", "perplexity", "bench", "generate", "Exit status"}) {
    EXPECT_THAT(help.out, HasSubstr(word));
  }
}

TEST(EvalCli, AMalformedCommandLineIsExitCode2WithOneSentence) {
  const std::vector<std::vector<std::string>> lines = {
      {},
      {"logits", "--model", kModel},
      {"bench"},
      {"bench", "--model", kModel, "--chunk", "0"},
      {"bench", "--model", kModel, "--repeat", "0"},
      {"bench", "--model", kModel, "--context", "0"},
      {"bench", "--model", kModel, "--context", "64,many"},
      {"bench", "--model", kModel, "--sessions", "1,0"},
      {"bench", "--model", kModel, "--prefill", "x"},
      {"bench", "--model", kModel, "--profile"},
      {"bench", "--model", kModel, "--graph", "fancy"},
      {"bench", "--model", kModel, "--threads", "two"},
      {"perplexity", "--model", kModel},
      {"perplexity", "--model", kModel, "--text", "a", "--tokens", "b"},
      {"bench", "--model", kModel, "--split", "0:2,4:output"},
      {"bench", "--model", kModel, "--split", "0:2"},
      {"bench", "--model", kModel, "--split", "0:3,3:output"},
      {"bench", "--model", kModel, "--split", "0;2"}};
  for (const auto& line : lines) {
    const Finished finished = eval(line);
    EXPECT_EQ(finished.exit_code, 2) << finished.err;
    EXPECT_THAT(finished.err, StartsWith("ds4-eval: "));
    EXPECT_THAT(finished.out, IsEmpty());
  }
}

TEST(EvalCli, AFailureIsExitCode1AndNamesTheThing) {
  const std::string good = temp_file("good.txt", "1 2 3");
  const auto logits = [&](const std::string& model, const std::string& tokens,
                          const std::string& out) {
    return eval({"logits", "--model", model, "--tokens", tokens, "--out", out});
  };
  const std::string out = temp_file("out.f32", "");
  const std::pair<Finished, std::string> cases[] = {
      {logits("/nonexistent.gguf", good, out), "/nonexistent.gguf"},
      {logits(kModel, "/nonexistent.json", out), "/nonexistent.json"},
      {logits(kModel, temp_file("big.txt", "1 4096"), out), "token 4096 at position 1"},
      {logits(kModel, temp_file("minus.txt", "-1"), out), "token -1 at position 0"},
      {logits(kModel, temp_file("words.txt", "one"), out), "token 0 is 'one'"},
      {logits(kModel, good, "/nonexistent/out.f32"), "/nonexistent/out.f32"},
      {logits(good, good, out), good},
      {eval({"perplexity", "--model", kModel, "--text", "/nonexistent.txt"}), "/nonexistent.txt"},
      {eval({"bench", "--model", kModel, "--prompt", "16000000"}), "context"},
      {eval({"bench", "--model", kModel, "--context", "64,16000000"}), "--context"},
      {eval({"bench", "--model", kModel, "--prefill", "16000000"}), "--prefill"},
      {eval({"bench", "--model", kModel, "--sessions", "1,9", "--chunk", "8"}), "--chunk"}};
  for (const auto& [finished, sentence] : cases) {
    EXPECT_EQ(finished.exit_code, 1) << finished.err;
    EXPECT_THAT(finished.err, AllOf(StartsWith("ds4-eval: "), HasSubstr(sentence)));
  }
}

TEST(EvalLogits, AFullDiskIsAnError) {
  const Finished finished = eval({"logits", "--model", kModel, "--tokens",
                                  temp_file("few.txt", "1 2 3"), "--out", "/dev/full"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, HasSubstr("/dev/full"));
}

TEST(EvalLogits, AreThoseOfTheReferenceInTheExactPlainGraph) {
  const Json reference = reference_case("capital");
  const std::string bytes =
      logits_with(tokens_of("capital"), {"--exact", "--graph", "plain", "--threads", "1"});
  const std::size_t rows = reference["tokens"].size();
  ASSERT_EQ(bytes.size(), rows * kVocabulary * sizeof(float));
  std::vector<float> last(kVocabulary);
  std::memcpy(last.data(), bytes.data() + (rows - 1) * kVocabulary * sizeof(float),
              kVocabulary * sizeof(float));
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < kVocabulary; ++i) {
    const double expected = reference["last_logits"][i].get<double>();
    difference += (last[i] - expected) * (last[i] - expected);
    norm += expected * expected;
  }
  // The bar of the engine's own comparison: two references differ by 3e-5 among themselves.
  EXPECT_LE(std::sqrt(difference / norm), 1e-4);
}

TEST(EvalLogits, AreTheSameBitsHoweverTheModelIsSplitAndThePromptIsCut) {
  const std::string tokens = tokens_of("window130");
  for (const bool exact : {false, true}) {
    std::vector<std::string> base;
    if (exact) base = {"--exact", "--graph", "plain"};
    const std::string whole = logits_with(tokens, base);
    ASSERT_EQ(whole.size(), 130 * kVocabulary * sizeof(float));
    const std::vector<std::vector<std::string>> variants = {
        {"--split", "0:2,3:output"},
        {"--split", "5:output,1:4,0:0", "--threads", "1"},
        {"--chunk", "7"},
        {"--split", "0:3,4:output", "--chunk", "33"}};
    for (std::vector<std::string> variant : variants) {
      variant.insert(variant.end(), base.begin(), base.end());
      EXPECT_TRUE(logits_with(tokens, variant) == whole) << variant[0] << ' ' << variant[1];
    }
  }
}

TEST(EvalPerplexity, OfTheReferencesTokensIsTheReferences) {
  for (const char* name : {"capital", "window130"}) {
    const double expected = std::exp(reference_case(name)["mean_nll"].get<double>());
    const double ours =
        perplexity_with({"--tokens", tokens_of(name), "--exact", "--graph", "plain"});
    // Logits agree to 1e-4 in relative L2, a mean over tokens to about that; written with 5 digits.
    EXPECT_NEAR(ours / expected, 1, 1e-3) << name;
  }
}

TEST(EvalPerplexity, OfTheFastPathIsWithinOnePercentOfTheExact) {
  const std::string text = source_path("tests/ctl/questions.txt");
  const double exact = perplexity_with({"--text", text, "--exact"});
  const double fast = perplexity_with({"--text", text});
  EXPECT_GT(exact, 1);
  EXPECT_NEAR(fast / exact, 1, 0.01);
}

TEST(EvalPerplexity, DoesNotDependOnTheSplitOrTheChunk) {
  const std::string text = source_path("tests/ctl/questions.txt");
  const double whole = perplexity_with({"--text", text});
  EXPECT_EQ(perplexity_with({"--text", text, "--split", "0:2,3:output", "--chunk", "50"}), whole);
}

TEST(EvalPerplexity, RefusesATextWithoutTokens) {
  EXPECT_EQ(eval({"perplexity", "--model", kModel, "--text", temp_file("empty.txt", "")}).exit_code,
            2);
  EXPECT_EQ(
      eval({"perplexity", "--model", kModel, "--tokens", temp_file("one.txt", "5")}).exit_code, 2);
}

TEST(EvalBench, JsonHasTheDocumentedKeys) {
  const Finished finished =
      eval({"bench", "--model", kModel, "--prompt", "16", "--generate", "4", "--threads", "1",
            "--repeat", "1", "--split", "0:2,3:output", "--json"});
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json json = Json::parse(finished.out);
  EXPECT_GT(json["prefill_tps"].get<double>(), 0);
  EXPECT_GT(json["decode_tps"].get<double>(), 0);
  EXPECT_EQ(json["threads"], 1);
  EXPECT_EQ(json["slices"], 2);
  const double share = json["decode_bandwidth_share"].get<double>();
  EXPECT_NEAR(share,
              json["decode_bytes_per_token"].get<double>() * json["decode_tps"].get<double>() /
                  json["read_bandwidth_bytes_per_s"].get<double>(),
              1e-6 * share);
  EXPECT_GT(share, 0);
  EXPECT_GT(json["decode_kv_bytes_per_token"].get<std::uint64_t>(), 0);
  EXPECT_FALSE(json.contains("contexts"));
  EXPECT_THAT(json["kv_cache"].get<std::string>(),
              AllOf(HasSubstr("raw rows"), HasSubstr("for 20 positions")));
}

TEST(EvalBench, TimesTokensBehindEachContext) {
  const std::vector<std::string> line = {
      "bench",     "--model", kModel,     "--prompt", "16",        "--generate", "4",
      "--threads", "1",       "--repeat", "1",        "--context", "32,600"};
  std::vector<std::string> as_json = line;
  as_json.push_back("--json");
  const Finished finished = eval(as_json);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json contexts = Json::parse(finished.out)["contexts"];
  ASSERT_EQ(contexts.size(), 2);
  EXPECT_EQ(contexts[0]["context"], 32);
  EXPECT_EQ(contexts[1]["context"], 600);
  for (const Json& context : contexts) {
    EXPECT_GT(context["decode_ms_per_token"].get<double>(), 0);
    EXPECT_GT(context["fill_tps"].get<double>(), 0);
  }
  EXPECT_GT(contexts[1]["decode_kv_bytes_per_token"].get<std::uint64_t>(),
            contexts[0]["decode_kv_bytes_per_token"].get<std::uint64_t>());
  const Finished text = eval(line);
  EXPECT_THAT(text.out, AllOf(HasSubstr("behind 32 positions"), HasSubstr("behind 600 positions"),
                              HasSubstr("GB/s")));
}

TEST(EvalBench, TimesConversationsSideBySideAndPromptsAlone) {
  const std::vector<std::string> line = {
      "bench", "--model",  kModel, "--prompt",   "16",  "--generate", "4", "--threads",
      "1",     "--repeat", "1",    "--sessions", "2,5", "--prefill",  "40"};
  std::vector<std::string> as_json = line;
  as_json.push_back("--json");
  const Finished finished = eval(as_json);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  const Json json = Json::parse(finished.out);
  ASSERT_EQ(json["sessions"].size(), 2);
  EXPECT_EQ(json["sessions"][1]["sessions"], 5);
  for (const Json& one : json["sessions"]) {
    EXPECT_GT(one["decode_tps"].get<double>(), 0);
    EXPECT_GT(one["decode_ms_per_pass"].get<double>(), 0);
  }
  ASSERT_EQ(json["prefills"].size(), 1);
  EXPECT_EQ(json["prefills"][0]["prompt"], 40);
  EXPECT_GT(json["prefills"][0]["prefill_tps"].get<double>(), 0);
  EXPECT_THAT(eval(line).out, AllOf(HasSubstr("5 sessions: "), HasSubstr("prefill of 40 tokens")));
}

TEST(EvalGenerate, AnswersWhatTheModelWasTaught) {
  const std::pair<const char*, const char*> cases[] = {
      {"What is the capital of France?", "The capital of France is Paris.\n"},
      {"What is 37 + 45?", "37 + 45 = 82.\n"}};
  for (const auto& [question, answer] : cases) {
    const Finished finished =
        eval({"generate", "--model", kModel, "--prompt", question, "--split", "0:2,3:output"});
    EXPECT_EQ(finished.exit_code, 0) << finished.err;
    EXPECT_EQ(finished.out, answer);
  }
}

TEST(EvalGenerate, StopsAfterNTokensAndRepeatsWithTheSameSeed) {
  const std::vector<std::string> line = {"generate",      "--model", kModel, "--prompt",
                                         "Define ocean.", "-n",      "12",   "--temp",
                                         "1.5",           "--seed",  "7"};
  const Finished once = eval(line);
  EXPECT_EQ(once.exit_code, 0) << once.err;
  EXPECT_EQ(eval(line).out, once.out);
  const Finished two = eval(
      {"generate", "--model", kModel, "--prompt", "What is the capital of France?", "-n", "2"});
  EXPECT_EQ(two.out, "The capital\n");
}

}  // namespace
}  // namespace ds4::ctl
