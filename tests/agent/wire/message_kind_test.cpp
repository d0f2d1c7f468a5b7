#include "agent/wire/message_kind.h"

#include <gtest/gtest.h>

namespace ds4::wire {
namespace {

Result<MessageKind> decode(const std::string& part) {
  return decode_kind(std::as_bytes(std::span(part.data(), part.size())));
}

TEST(MessageKind, EveryKindRoundTrips) {
  for (const auto kind :
       {MessageKind::kControl, MessageKind::kWork, MessageKind::kToken, MessageKind::kClose,
        MessageKind::kFork, MessageKind::kError, MessageKind::kPing}) {
    const auto decoded = decode(encode_kind(kind));
    ASSERT_TRUE(decoded) << static_cast<char>(kind);
    EXPECT_EQ(*decoded, kind);
  }
}

TEST(MessageKind, AnotherVersionIsUnsupportedAndBothAreNamed) {
  const auto decoded = decode(std::string("W\x07"));
  ASSERT_FALSE(decoded);
  EXPECT_EQ(decoded.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(decoded.error().message.find("version 7"), std::string::npos);
  EXPECT_NE(decoded.error().message.find("version 1"), std::string::npos);
}

TEST(MessageKind, AnythingButTwoBytesIsCorrupt) {
  for (const std::string& part : {std::string(), std::string("W"), std::string("W\x01\x01")}) {
    const auto decoded = decode(part);
    ASSERT_FALSE(decoded);
    EXPECT_EQ(decoded.error().code, ErrorCode::kCorrupt);
  }
}

TEST(MessageKind, UnknownKindsAreCorrupt) {
  int known = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const auto decoded = decode({static_cast<char>(byte), '\x01'});
    known += decoded.has_value();
    if (!decoded) {
      EXPECT_EQ(decoded.error().code, ErrorCode::kCorrupt);
    }
  }
  EXPECT_EQ(known, 8);
}

}  // namespace
}  // namespace ds4::wire
