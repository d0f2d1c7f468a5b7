// `ds4ctl run` against a client server in this test: the library, the rings and the text are real,
// only the answers are made up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>

#include "engine/gguf/model_file.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"
#include "tests/ctl/subprocess.h"
#include "tests/ipc/fake_agent.h"

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

enum class Behaviour { kAnswer, kRefuse, kAnswerUntilCancelled, kNeverEnd };

/// Answers with `answer`, or otherwise misbehaves, and remembers what it was asked.
class ScriptedHandler final : public ipc::RequestHandler {
 public:
  void on_request(ipc::ClientId client, ipc::Request request) override {
    if (const auto* generate = std::get_if<ipc::GenerateRequest>(&request)) {
      last = *generate;
      begin(client, *generate);
    } else if (const auto* cancel = std::get_if<ipc::CancelRequest>(&request)) {
      ++cancels;
      if (behaviour != Behaviour::kNeverEnd) finish(client, cancel->id, ipc::Status::kCancelled, 1);
    }
  }
  void on_gone(ipc::ClientId) override {}
  void on_space(ipc::ClientId) override {}

  ipc::Server* server = nullptr;
  Behaviour behaviour = Behaviour::kAnswer;
  std::vector<std::int32_t> answer;
  ipc::GenerateRequest last;
  int cancels = 0;

 private:
  void begin(ipc::ClientId client, const ipc::GenerateRequest& request) {
    if (behaviour == Behaviour::kRefuse) {
      ipc::Server::Final final;
      final.status = ipc::Status::kRouteNotReady;
      final.sentence = "beta does not answer";
      return server->finish(client, request.id, final);
    }
    auto position = static_cast<std::uint32_t>(request.prompt.size());
    for (const std::int32_t token : answer) server->token(client, request.id, token, position++, 0);
    if (behaviour == Behaviour::kAnswer) {
      finish(client, request.id, ipc::Status::kOkStop, answer.size());
    }
  }
  void finish(ipc::ClientId client, std::uint64_t id, ipc::Status status, std::size_t generated) {
    ipc::Server::Final final;
    final.status = status;
    final.prompt_tokens = static_cast<std::uint32_t>(last.prompt.size());
    final.generated_tokens = static_cast<std::uint32_t>(generated);
    server->finish(client, id, final);
  }
};

class RunCli : public ::testing::Test {
 protected:
  RunCli() {
    ipc::ModelCard card = ipc::testing::small_card();
    card.limits.vocabulary = 4096;
    card.limits.context = 4096;
    card.metadata = image_;
    server_ = ipc::Server::listen(ipc::testing::config_at(place_.path()), handler).value();
    handler.server = server_.get();
    EXPECT_TRUE(server_->set_model(card).has_value());
    server_->set_route_state(ipc::RouteState::kReady);
  }
  ~RunCli() override { stop(); }

  std::vector<std::string> line(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"run", "--socket", place_.path()});
    return arguments;
  }
  void serve() {
    thread_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        pollfd fd = {server_->poll_fd(), POLLIN, 0};
        ::poll(&fd, 1, 20);
        server_->run_ready();
        server_->flush();
      }
    });
  }
  /// Afterwards the handler's members may be read.
  void stop() {
    if (thread_.joinable()) {
      thread_.request_stop();
      thread_.join();
    }
  }
  Finished run(const std::vector<std::string>& arguments) {
    serve();
    Finished finished = run_program("ds4ctl", line(arguments));
    stop();
    return finished;
  }

  static inline const std::shared_ptr<const ModelFile> model =
      ModelFile::open(source_path("packaging/models/tiny-v4-q4.gguf")).value();
  const Tokenizer tokenizer = Tokenizer::load(model->gguf()).value();
  ScriptedHandler handler;

 private:
  const std::vector<std::byte> image_ = model->metadata_image();
  ipc::testing::SocketPlace place_;
  std::unique_ptr<ipc::Server> server_;
  std::jthread thread_;
};

TEST_F(RunCli, AsksInTheChatFormatAndPrintsTheAnswerAsALine) {
  handler.answer = tokenizer.encode("The capital of France is Paris.", false);
  const Finished finished = run({"--system", "Be brief.", "What is the capital of France?"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.out, "The capital of France is Paris.\n");
  EXPECT_THAT(finished.err, IsEmpty());
  const std::vector<ChatMessage> messages = {{Role::kSystem, "Be brief."},
                                             {Role::kUser, "What is the capital of France?"}};
  EXPECT_THAT(handler.last.prompt, ElementsAreArray(render_chat(tokenizer, messages).value()));
  EXPECT_THAT(handler.last.stop, ::testing::Contains(tokenizer.eos()));
}

TEST_F(RunCli, PassesTheSamplingParametersOn) {
  const Finished finished = run({"-n", "7", "--temp", "0.5", "--top-p", "0.9", "--top-k", "40",
                                 "--min-p", "0.05", "--seed", "18446744073709551615", "hello"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.out, "\n");
  EXPECT_EQ(handler.last.max_tokens, 7u);
  EXPECT_FLOAT_EQ(handler.last.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(handler.last.sampling.top_p, 0.9f);
  EXPECT_FLOAT_EQ(handler.last.sampling.min_p, 0.05f);
  EXPECT_EQ(handler.last.sampling.top_k, 40u);
  EXPECT_EQ(handler.last.sampling.seed, ~std::uint64_t{0});
}

TEST_F(RunCli, RawTextStandsAsItIsAfterTheBeginOfSentence) {
  EXPECT_EQ(run({"--raw", "once upon"}).exit_code, 0);
  std::vector<Token> expected = tokenizer.encode("once upon", false);
  expected.insert(expected.begin(), tokenizer.bos());
  EXPECT_THAT(handler.last.prompt, ElementsAreArray(expected));
}

TEST_F(RunCli, StatsGoToStderr) {
  handler.answer = tokenizer.encode("Paris is a city", false);
  const Finished finished = run({"--stats", "hello"});
  EXPECT_EQ(finished.out, "Paris is a city\n");
  EXPECT_THAT(finished.err,
              AllOf(HasSubstr("prompt "), HasSubstr("tokens/s"), HasSubstr("ok_stop")));
}

TEST_F(RunCli, ARefusalIsItsSentenceAndExitCode1) {
  handler.behaviour = Behaviour::kRefuse;
  const Finished finished = run({"hello"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_EQ(finished.err, "ds4ctl: beta does not answer\n");
}

TEST_F(RunCli, CtrlCCancelsAndExits130) {
  handler.behaviour = Behaviour::kAnswerUntilCancelled;
  handler.answer = tokenizer.encode("Well,", false);
  serve();
  Subprocess process("ds4ctl", line({"hello"}));
  ASSERT_TRUE(process.wait_for("Well,"));
  process.signal(SIGINT);
  const Finished finished = process.finish();
  stop();
  EXPECT_EQ(finished.exit_code, 130);
  EXPECT_EQ(finished.out, "Well,\n");
  EXPECT_EQ(handler.cancels, 1);
}

TEST_F(RunCli, AnAgentThatDoesNotConfirmTheCancelIsLeftAlone) {
  handler.behaviour = Behaviour::kNeverEnd;
  handler.answer = tokenizer.encode("Well,", false);
  serve();
  Subprocess process("ds4ctl", line({"hello"}));
  ASSERT_TRUE(process.wait_for("Well,"));
  process.signal(SIGINT);
  EXPECT_EQ(process.finish().exit_code, 130);
}

TEST_F(RunCli, APromptBeyondTheContextIsASentence) {
  std::string prompt;
  for (int i = 0; i < 5000; ++i) prompt += "word " + std::to_string(i) + " ";
  const Finished finished = run({prompt});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, AllOf(StartsWith("ds4ctl: "), HasSubstr("4096")));
}

TEST(RunCliAlone, WithoutAnAgentThereIsASentence) {
  const Finished finished =
      run_program("ds4ctl", {"run", "--socket", "/nonexistent/client.sock", "hello"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, AllOf(StartsWith("ds4ctl: "), HasSubstr("/nonexistent/client.sock")));
}

}  // namespace
}  // namespace ds4::ctl
