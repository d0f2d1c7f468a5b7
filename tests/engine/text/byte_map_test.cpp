#include "engine/text/byte_map.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "tests/engine/text/tokenizer_fixture.h"

namespace ds4 {
namespace {

TEST(ByteMap, KeepsVisibleLatinAndMovesTheRestBehindIt) {
  EXPECT_EQ(byte_to_char('A'), U'A');
  EXPECT_EQ(byte_to_char(0xE9), U'é');
  EXPECT_EQ(byte_to_char(0x00), char32_t{0x100});
  EXPECT_EQ(byte_to_char(' '), U'Ġ');
  EXPECT_EQ(byte_to_char('\n'), U'Ċ');
  EXPECT_EQ(byte_to_char(0x7F), char32_t{0x121});
  EXPECT_EQ(byte_to_char(0xAD), char32_t{0x143});
}

TEST(ByteMap, EveryByteComesBackFromACharacterOfItsOwn) {
  std::set<char32_t> seen;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t c = byte_to_char(static_cast<unsigned char>(byte));
    EXPECT_TRUE(seen.insert(c).second) << byte;
    EXPECT_EQ(bytes_of_mapped(test::utf8(c)), std::string(1, static_cast<char>(byte)));
  }
}

TEST(ByteMap, RefusesCharactersThatStandForNoByte) {
  EXPECT_FALSE(bytes_of_mapped("a b"));     // a plain space is written "Ġ"
  EXPECT_FALSE(bytes_of_mapped("\u00AD"));  // soft hyphen: written "Ń"
  EXPECT_FALSE(bytes_of_mapped("\u0144"));  // the first behind the map
  EXPECT_FALSE(bytes_of_mapped("世"));
  EXPECT_FALSE(bytes_of_mapped("a\xC4"));  // not UTF-8
  EXPECT_EQ(bytes_of_mapped(""), "");
}

}  // namespace
}  // namespace ds4
