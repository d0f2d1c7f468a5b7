#include "agent/keys/key.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::keys {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Key, TextAndBack) {
  for (const KeyRole role : {KeyRole::kNode, KeyRole::kOperator}) {
    const KeyPair pair = make_key_pair(role).value();
    const auto back = parse_public_key(to_text(pair.public_key));
    ASSERT_TRUE(back) << back.error().message;
    EXPECT_EQ(*back, pair.public_key);
  }
}

TEST(Key, TheTextSaysWhoseItIs) {
  EXPECT_THAT(to_text(make_key_pair(KeyRole::kNode).value().public_key), StartsWith("node:"));
  EXPECT_THAT(to_text(make_key_pair(KeyRole::kOperator).value().public_key),
              StartsWith("operator:"));
}

TEST(Key, EveryPairIsAnother) {
  const KeyPair one = make_key_pair(KeyRole::kNode).value();
  const KeyPair two = make_key_pair(KeyRole::kNode).value();
  EXPECT_NE(one.public_key, two.public_key);
  EXPECT_NE(one.secret, two.secret);
}

TEST(Key, TheSecretBringsItsPublicKeyBack) {
  const KeyPair pair = make_key_pair(KeyRole::kNode).value();
  const auto back = parse_secret_text(secret_text(pair), KeyRole::kNode);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->public_key, pair.public_key);
  EXPECT_EQ(back->secret, pair.secret);
}

TEST(Key, MalformedTextsAreRefusedWithoutRepeatingThem) {
  const std::string digits(64, 'a');
  for (const std::string& bad :
       {std::string(), std::string("node:"), digits, "Node:" + digits, "node:" + digits + "a",
        "node:" + digits.substr(1), "node:" + digits.substr(1) + "g",
        "node:" + std::string(64, 'A'), " node:" + digits, "node:" + digits + "\n",
        "node-secret:" + digits}) {
    const auto key = parse_public_key(bad);
    ASSERT_FALSE(key) << bad;
    EXPECT_EQ(key.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(key.error().message, HasSubstr("ds4ctl keys show"));
    EXPECT_THAT(key.error().message, Not(HasSubstr(digits.substr(1))));
  }
}

TEST(Key, ASecretOfTheOtherKindIsRefused) {
  const KeyPair pair = make_key_pair(KeyRole::kNode).value();
  EXPECT_FALSE(parse_secret_text(secret_text(pair), KeyRole::kOperator));
  EXPECT_FALSE(parse_secret_text(to_text(pair.public_key), KeyRole::kNode));
  EXPECT_FALSE(parse_secret_text("", KeyRole::kNode));
}

}  // namespace
}  // namespace ds4::keys
