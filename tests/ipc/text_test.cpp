// Text through the library, with the tables of the embedded model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/gguf/model_file.h"
#include "ipc/client/ds4.hpp"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

class TextTest : public ::testing::Test {
 protected:
  static std::vector<std::byte> tables() {
    const auto file = ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
    EXPECT_TRUE(file) << file.error().message;
    return file ? (*file)->metadata_image() : std::vector<std::byte>();
  }
  static ModelCard card() {
    ModelCard out = small_card();
    out.limits.vocabulary = 4096;
    out.metadata = image;
    return out;
  }
  static inline const std::vector<std::byte> image = tables();
  SocketPlace place;
  FakeAgent agent{config_at(place.path()), card()};
  client::Connection connection{place.path()};
};

TEST_F(TextTest, TextComesBackAsItWas) {
  const std::string text =
      "What is the capital of France?\n\tDas ist s\xc3\xbc\xc3\x9f. \xe4\xb8\xad\xe6\x96\x87";
  const auto tokens = connection.tokenize(text);
  EXPECT_FALSE(tokens.empty());
  EXPECT_EQ(connection.detokenize(tokens), text);
  EXPECT_TRUE(connection.tokenize("").empty());
}

TEST_F(TextTest, LongTextNeedsMoreThanTheFirstGuess) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "word" + std::to_string(i) + " ";
  const auto tokens = connection.tokenize(text);
  EXPECT_GT(tokens.size(), 2000U);
  EXPECT_EQ(connection.detokenize(tokens), text);
}

TEST_F(TextTest, TooSmallABufferTellsTheSize) {
  std::size_t count = 0;
  EXPECT_EQ(ds4_tokenize(connection.get(), "one two three", 13, 0, nullptr, 0, &count),
            DS4_TOO_SMALL);
  EXPECT_GT(count, 0U);
  std::vector<ds4_token> tokens(count);
  EXPECT_EQ(ds4_tokenize(connection.get(), "one two three", 13, 0, tokens.data(), count, &count),
            DS4_OK);
}

TEST_F(TextTest, ChatBeginsWithBosAndUserTextCannotForgeATurn) {
  const ds4_info info = connection.info();
  EXPECT_EQ(info.has_text, 1U);
  ASSERT_GE(info.bos, 0);
  ASSERT_GE(info.eos, 0);
  const auto plain = connection.chat("Define ocean.");
  ASSERT_FALSE(plain.empty());
  EXPECT_EQ(plain.front(), info.bos);
  EXPECT_NE(connection.chat("Define ocean.", true), plain);
  const std::string eos_text = connection.detokenize(std::span(&info.eos, 1), true);
  ASSERT_FALSE(eos_text.empty());
  EXPECT_THAT(connection.chat(eos_text), ::testing::Not(::testing::Contains(info.eos)));
  EXPECT_THAT(connection.tokenize(eos_text, true), ::testing::ElementsAre(info.eos));
}

TEST_F(TextTest, ChatRefusesUnknownRoles) {
  const ds4_message message = {9, "x", 1};
  std::size_t count = 0;
  EXPECT_EQ(ds4_chat(connection.get(), &message, 1, 0, nullptr, 0, &count), DS4_INVALID);
}

TEST_F(TextTest, TheDecoderNeverSplitsACharacterAndOutlivesItsConnection) {
  const std::string text = "\xf0\x9f\x90\x99\xe4\xb8\xad na\xc3\xafve \xf0\x9f\x8c\x8a";
  const auto tokens = connection.tokenize(text);
  auto own = std::make_unique<client::Connection>(place.path());
  client::Decoder decoder = own->decoder();
  own.reset();
  std::string joined;
  for (const ds4_token token : tokens) {
    const std::string_view piece = decoder.push(token);
    // A piece begins and ends between characters.
    if (!piece.empty()) {
      EXPECT_NE(static_cast<unsigned char>(piece.front()) & 0xc0, 0x80);
    }
    joined += piece;
  }
  joined += decoder.finish();
  EXPECT_EQ(joined, text);
}

TEST_F(TextTest, StopAtEosIsAStopToken) {
  const ds4_info info = connection.info();
  const std::vector<ds4_token> prompt = {info.eos > 0 ? info.eos
                                                      : 0};  // the answer begins with eos
  std::vector<std::int32_t> stops;
  agent.with([&](Server&) {
    agent.handler().on_generate = [&](ClientId, const GenerateRequest& r) { stops = r.stop; };
  });
  client::Request request;
  request.prompt = prompt;
  request.max_tokens = 1;
  connection.submit(request);
  while (const auto event = connection.next(std::chrono::seconds(20)))
    if (client::is_final(*event)) break;
  agent.with([&](Server&) { EXPECT_THAT(stops, ::testing::ElementsAre(info.eos)); });
}

TEST_F(TextTest, BrokenTablesAreNamedAndHurtNothingElse) {
  SocketPlace other;
  ModelCard broken = small_card();
  const std::string garbage = "GGUF but not really";
  broken.metadata = std::as_bytes(std::span(garbage));
  FakeAgent odd(config_at(other.path()), broken);
  client::Connection odd_connection(other.path());
  try {
    odd_connection.tokenize("x");
    FAIL();
  } catch (const client::Error& e) {
    EXPECT_EQ(e.status(), DS4_INTERNAL);
    EXPECT_THAT(e.what(), ::testing::HasSubstr("model tables"));
  }
  EXPECT_EQ(odd_connection.info().eos, -1);
}

}  // namespace
}  // namespace ds4::ipc::testing
