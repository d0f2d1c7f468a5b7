#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace ds4 {
namespace {

using namespace std::string_view_literals;

TEST(NextUtf8, ReadsOneCharacterOfEachLength) {
  const auto expect = [](std::string_view text, char32_t code_point) {
    const Utf8Char c = next_utf8(text);
    EXPECT_EQ(c.status, Utf8Status::kValid);
    EXPECT_EQ(c.code_point, code_point);
    EXPECT_EQ(c.bytes, text.size() - 1);
  };
  expect("a!", U'a');
  expect("\0!"sv, U'\0');
  expect("é!", U'é');
  expect("世!", U'世');
  expect("😀!", U'😀');
  expect("\xF4\x8F\xBF\xBF!", 0x10FFFF);
  expect("\xED\x9F\xBF!", 0xD7FF);
  expect("\xEE\x80\x80!", 0xE000);
}

TEST(NextUtf8, RefusesWhatUnicodeForbidsAtTheFirstWrongByte) {
  for (const std::string_view text : {"\x80", "\xBF",          // continuation without a start
                                      "\xC0\x80", "\xC1\xBF",  // overlong
                                      "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF",     // overlong
                                      "\xED\xA0\x80",                         // surrogate
                                      "\xF4\x90\x80\x80", "\xF5", "\xFF"}) {  // above U+10FFFF
    const Utf8Char c = next_utf8(text);
    EXPECT_EQ(c.status, Utf8Status::kInvalid) << text;
    EXPECT_EQ(c.bytes, 1u) << text;
  }
}

TEST(NextUtf8, TakesTheLongestPossibleStartAsOneError) {
  const Utf8Char c = next_utf8("\xF0\x9F\x98!");
  EXPECT_EQ(c.status, Utf8Status::kInvalid);
  EXPECT_EQ(c.bytes, 3u);
}

TEST(NextUtf8, TellsUnfinishedFromWrong) {
  const std::string_view text = "😀";
  for (std::size_t bytes = 1; bytes < text.size(); ++bytes) {
    const Utf8Char c = next_utf8(text.substr(0, bytes));
    EXPECT_EQ(c.status, Utf8Status::kIncomplete) << bytes;
    EXPECT_EQ(c.bytes, bytes);
  }
}

}  // namespace
}  // namespace ds4
