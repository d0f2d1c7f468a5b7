#include "agent/keys/trust_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::keys {
namespace {

using ::testing::HasSubstr;

PublicKey key_of(KeyRole role, std::uint8_t number) {
  PublicKey key{role, {}};
  key.bytes.fill(number);
  return key;
}

const PublicKey kOwn = key_of(KeyRole::kOperator, 1);
const PublicKey kAlice = key_of(KeyRole::kOperator, 2);
const PublicKey kNode = key_of(KeyRole::kNode, 3);

TEST(TrustList, AnOperatorIsTrustedUntilRevokedAndAgainAfter) {
  TrustList list;
  EXPECT_FALSE(list.is_trusted(kAlice.bytes));
  ASSERT_TRUE(list.trust("alice", kAlice));
  EXPECT_TRUE(list.is_trusted(kAlice.bytes));
  ASSERT_TRUE(list.revoke("alice", kAlice));
  EXPECT_FALSE(list.is_trusted(kAlice.bytes));
  EXPECT_TRUE(list.is_revoked(kAlice.bytes));
  ASSERT_TRUE(list.trust("alice", kAlice));
  EXPECT_TRUE(list.is_trusted(kAlice.bytes));
  EXPECT_EQ(list.entries().size(), 1U);
}

TEST(TrustList, ANodesKeyNeverBecomesAnOperators) {
  TrustList list;
  const auto trusted = list.trust("b", kNode);
  ASSERT_FALSE(trusted);
  EXPECT_THAT(trusted.error().message, HasSubstr("cluster file"));
  ASSERT_TRUE(list.revoke("b", kNode));
  ASSERT_TRUE(list.trust("b", kNode));
  EXPECT_FALSE(list.is_revoked(kNode.bytes));
  EXPECT_FALSE(list.is_trusted(kNode.bytes));
  // Nor when somebody relabels it: the revocation is the bytes'.
  ASSERT_TRUE(list.revoke("b", kNode));
  EXPECT_TRUE(list.is_revoked(PublicKey{KeyRole::kOperator, kNode.bytes}.bytes));
}

TEST(TrustList, NamesAreCheckedAndTheListIsBounded) {
  TrustList list;
  EXPECT_FALSE(list.trust("", kAlice));
  EXPECT_FALSE(list.trust("a\nb", kAlice));
  EXPECT_FALSE(list.trust(std::string(129, 'x'), kAlice));
  PublicKey key = kAlice;
  for (std::size_t i = 0; i < kMaxTrustEntries; ++i) {
    key.bytes[0] = static_cast<std::uint8_t>(i);
    key.bytes[1] = static_cast<std::uint8_t>(i >> 8);
    ASSERT_TRUE(list.revoke("x", key)) << i;
  }
  EXPECT_EQ(list.revoke("x", kNode).error().code, ErrorCode::kResourceExhausted);
}

TEST(TrustList, TextAndBack) {
  TrustList list;
  ASSERT_TRUE(list.trust("alice of accounting", kAlice));
  ASSERT_TRUE(list.revoke("b", kNode));
  const auto back = parse_trust(encode_trust(list));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(*back, list);
  EXPECT_EQ(parse_trust("").value(), TrustList{});
}

TEST(TrustList, ADamagedTextIsNamedByItsLine) {
  const std::string good = "trusted " + to_text(kAlice) + " alice\n";
  const std::vector<std::string> damaged = {"perhaps x y",
                                            "trusted",
                                            "trusted " + to_text(kAlice),
                                            "trusted " + to_text(kNode) + " b",
                                            "revoked node:12 b",
                                            good};
  for (const std::string& bad : damaged) {
    const auto list = parse_trust("# note\n" + good + bad);
    ASSERT_FALSE(list) << bad;
    EXPECT_EQ(list.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(list.error().message, HasSubstr("3: "));
  }
}

TEST(Gate, OperatorsCommandAndPeersDoNot) {
  TrustList list;
  ASSERT_TRUE(list.trust("alice", kAlice));
  Gate gate(kOwn, list);
  gate.set_peers({kNode.bytes});
  EXPECT_TRUE(gate.may_command(kOwn.bytes));
  EXPECT_TRUE(gate.may_command(kAlice.bytes));
  EXPECT_FALSE(gate.may_command(kNode.bytes));
  EXPECT_TRUE(gate.is_peer(kNode.bytes));
  EXPECT_FALSE(gate.is_peer(kAlice.bytes));
  EXPECT_FALSE(gate.admits(key_of(KeyRole::kNode, 9).bytes));
}

TEST(Gate, WhoMayMeasureMayDoNothingElse) {
  Gate gate(kOwn, {});
  gate.set_probers({kNode.bytes});
  EXPECT_TRUE(gate.admits(kNode.bytes));
  EXPECT_TRUE(gate.is_prober(kNode.bytes));
  EXPECT_FALSE(gate.is_peer(kNode.bytes));
  EXPECT_FALSE(gate.may_command(kNode.bytes));
  gate.set_probers({});
  EXPECT_FALSE(gate.admits(kNode.bytes));
}

TEST(Gate, ARevocationBeatsEverything) {
  Gate gate(kOwn, {});
  gate.set_peers({kNode.bytes});
  TrustList list;
  ASSERT_TRUE(list.revoke("b", kNode));
  ASSERT_TRUE(list.revoke("own", kOwn));
  gate.set_list(list);
  gate.set_probers({kNode.bytes});
  EXPECT_FALSE(gate.admits(kNode.bytes));
  EXPECT_FALSE(gate.admits(kOwn.bytes));
}

TEST(Gate, LetsNobodyInBeforeItKnowsAnybody) {
  const Gate gate(kOwn, {});
  EXPECT_FALSE(gate.admits(kNode.bytes));
  EXPECT_FALSE(gate.is_peer(kOwn.bytes));
}

}  // namespace
}  // namespace ds4::keys
