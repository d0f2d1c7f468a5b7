#include "ctl/ds4ctl/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

keys::PublicKey key_of(std::uint8_t number) {
  keys::PublicKey key;
  key.bytes.fill(number);
  return key;
}

const keys::NodeCard kHere{"a", key_of(1), "tcp://10.0.0.1:9"};

Cluster two(std::optional<keys::PublicKey> a, std::optional<keys::PublicKey> b) {
  return {{{"a", "tcp://10.0.0.1:7341", false, a}, {"b", "tcp://10.0.0.2:7341", false, b}},
          "c.toml"};
}

Cluster nobody_named() {
  return {{{kLocalNodeName, kLocalNodeAddress, true}}, "this machine"};
}

TEST(CompleteCluster, ThisMachinesAgentNeedsNoKeyInTheFile) {
  const auto cluster = complete_cluster(two(std::nullopt, key_of(2)), kHere);
  ASSERT_TRUE(cluster) << cluster.error().message;
  EXPECT_EQ(cluster->nodes[0].key, key_of(1));
  EXPECT_EQ(cluster->nodes[0].address, "tcp://10.0.0.1:7341");  // the file's word
  EXPECT_EQ(cluster->nodes[1].key, key_of(2));
}

TEST(CompleteCluster, AnotherMachinesKeyIsAskedForWithTheLineToWrite) {
  const auto cluster = complete_cluster(two(key_of(1), std::nullopt), kHere);
  ASSERT_FALSE(cluster);
  EXPECT_THAT(cluster.error().message,
              AllOf(HasSubstr("c.toml"), HasSubstr("node b has no key"),
                    HasSubstr("b = { address = \"tcp://10.0.0.2:7341\", key = \"node:...\" }"),
                    HasSubstr("ds4ctl keys show")));
}

TEST(CompleteCluster, AKeyInTheFileIsNeverReplaced) {
  const auto cluster = complete_cluster(two(key_of(7), key_of(2)), kHere);
  ASSERT_TRUE(cluster);
  EXPECT_EQ(cluster->nodes[0].key, key_of(7));
}

TEST(CompleteCluster, WithoutAFileTheAgentOfThisMachineIsFoundWhereItListens) {
  const auto cluster = complete_cluster(nobody_named(), kHere);
  ASSERT_TRUE(cluster);
  EXPECT_EQ(cluster->nodes[0].address, "tcp://10.0.0.1:9");
  EXPECT_EQ(cluster->nodes[0].key, key_of(1));
  EXPECT_FALSE(cluster->insecure);
}

TEST(CompleteCluster, AnInsecureAgentOfThisMachineIsSpokenToInPlainText) {
  const auto cluster = complete_cluster(nobody_named(), keys::NodeCard{"a", {}, "tcp://[::1]:9"});
  ASSERT_TRUE(cluster);
  EXPECT_TRUE(cluster->insecure);
}

TEST(CompleteCluster, AnInsecureCardDoesNotMakeANamedNodeInsecure) {
  const keys::NodeCard insecure{"a", {}, "tcp://[::1]:9"};
  EXPECT_FALSE(complete_cluster(two(std::nullopt, key_of(2)), insecure));
}

TEST(CompleteCluster, AnInsecureFileNeedsNoKeys) {
  Cluster cluster = two(std::nullopt, std::nullopt);
  cluster.insecure = true;
  EXPECT_TRUE(complete_cluster(cluster, std::nullopt));
}

TEST(CompleteCluster, WithoutFileAndAgentThereIsNobodyToAsk) {
  const auto cluster = complete_cluster(nobody_named(), std::nullopt);
  ASSERT_FALSE(cluster);
  EXPECT_THAT(cluster.error().message, HasSubstr("start ds4d"));
}

}  // namespace
}  // namespace ds4::ctl
