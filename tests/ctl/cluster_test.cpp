#include "ctl/ds4ctl/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace ds4::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string refusal(std::string_view text) {
  const auto cluster = parse_cluster(text, "cluster.toml");
  EXPECT_FALSE(cluster.has_value()) << text;
  if (cluster) return "";
  EXPECT_EQ(cluster.error().code, ErrorCode::kCorrupt);
  return cluster.error().message;
}

TEST(Cluster, KeepsTheOrderOfTheFile) {
  const auto cluster = parse_cluster(
      "# ours\n[nodes]\nzeta = \"tcp://10.0.0.1:7341\"\nalpha = \"tcp://[fe80::1]:1\"\n", "c.toml");
  ASSERT_TRUE(cluster.has_value()) << cluster.error().message;
  ASSERT_EQ(cluster->nodes.size(), 2u);
  EXPECT_EQ(cluster->nodes[0], (Node{"zeta", "tcp://10.0.0.1:7341"}));
  EXPECT_EQ(cluster->nodes[1], (Node{"alpha", "tcp://[fe80::1]:1"}));
  EXPECT_EQ(cluster->find("alpha")->address, "tcp://[fe80::1]:1");
}

TEST(Cluster, RefusesUnknownKeysByNameAndLine) {
  const std::string message = refusal("[nodes]\na = \"tcp://h:1\"\n\n[node]\nb = \"tcp://h:2\"\n");
  EXPECT_THAT(message, StartsWith("cluster.toml:4:"));
  EXPECT_THAT(message, HasSubstr("'node'"));
}

TEST(Cluster, RefusesIllTypedNodesByNameAndLine) {
  EXPECT_THAT(refusal("[nodes]\na = \"tcp://h:1\"\nb = 7\n"),
              StartsWith("cluster.toml:3: nodes.b"));
  EXPECT_THAT(refusal("[nodes]\nb = { key = 3 }\n"), HasSubstr("nodes.b.key"));
  EXPECT_THAT(refusal("[nodes]\nb = { adress = \"tcp://h:1\" }\n"), HasSubstr("'adress'"));
  EXPECT_THAT(refusal("[nodes]\nb = {}\n"), HasSubstr("nodes.b"));
  EXPECT_THAT(refusal("insecure = 1\n[nodes]\nb = \"tcp://h:1\"\n"), HasSubstr("insecure"));
  EXPECT_THAT(refusal("nodes = 3\n"), HasSubstr("[nodes]"));
}

TEST(Cluster, RefusesMalformedAddresses) {
  for (const char* address :
       {"10.0.0.1:7341", "ipc:///tmp/x", "tcp://host", "tcp://:1", "tcp://*:1", "tcp://host:0",
        "tcp://host:65536", "tcp://host:12x", "tcp://host:", "tcp://fe80::1:7341", "tcp://a b:1",
        "tcp://a;b:1", "tcp://[]:1"}) {
    const std::string message = refusal("[nodes]\nbeta = \"" + std::string(address) + "\"\n");
    EXPECT_THAT(message, HasSubstr("nodes.beta")) << address;
    EXPECT_THAT(message, HasSubstr("tcp://host:port")) << address;
  }
}

TEST(Cluster, RefusesMalformedNames) {
  EXPECT_THAT(refusal("[nodes]\n\"a=b\" = \"tcp://h:1\"\n"), HasSubstr("a=b"));
  EXPECT_THAT(refusal("[nodes]\n\"\" = \"tcp://h:1\"\n"), HasSubstr("name"));
}

TEST(Cluster, RefusesTwoNodesAtOneAddress) {
  const std::string message = refusal("[nodes]\na = \"tcp://h:1\"\nb = \"tcp://h:1\"\n");
  EXPECT_THAT(message, StartsWith("cluster.toml:3:"));
  EXPECT_THAT(message, HasSubstr("a and b"));
}

TEST(Cluster, RefusesFilesWithoutNodes) {
  EXPECT_THAT(refusal(""), HasSubstr("[nodes]"));
  EXPECT_THAT(refusal("[nodes]\n"), HasSubstr("no node"));
}

TEST(Cluster, SaysWhereTheSyntaxBreaks) {
  EXPECT_THAT(refusal("[nodes]\na = tcp://h:1\n"), StartsWith("cluster.toml:2:"));
  EXPECT_THAT(refusal("[nodes]\na = \"tcp://h:1\"\na = \"tcp://h:2\"\n"),
              StartsWith("cluster.toml:3:"));
}

TEST(Cluster, RefusesHugeFiles) {
  EXPECT_THAT(refusal(std::string(kMaxClusterBytes + 1, '#')), HasSubstr("at most"));
}

TEST(Cluster, AnUnknownNodeIsAnsweredWithThoseThatExist) {
  const Cluster cluster{{{"a", "tcp://h:1"}, {"b", "tcp://h:2"}}, "c.toml"};
  const auto found = cluster.find("c");
  ASSERT_FALSE(found.has_value());
  EXPECT_EQ(found.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(found.error().message, HasSubstr("'c' is not in c.toml; it has: a, b"));
}

TEST(Cluster, AMissingFileThatWasNamedIsAnError) {
  const auto cluster = load_cluster("/nonexistent/cluster.toml");
  ASSERT_FALSE(cluster.has_value());
  EXPECT_EQ(cluster.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(cluster.error().message, HasSubstr("/nonexistent/cluster.toml"));
}

TEST(Cluster, ADirectoryIsNoFile) {
  EXPECT_FALSE(load_cluster(std::filesystem::temp_directory_path().string()).has_value());
}

TEST(Cluster, WithoutAFileThereIsOneAgentOnThisMachine) {
  if (std::filesystem::exists(kDefaultClusterFile)) GTEST_SKIP() << "this machine has a cluster";
  const auto cluster = load_cluster("");
  ASSERT_TRUE(cluster.has_value()) << cluster.error().message;
  ASSERT_EQ(cluster->nodes.size(), 1u);
  EXPECT_EQ(cluster->nodes[0], (Node{kLocalNodeName, kLocalNodeAddress, true}));
}

TEST(Cluster, NodesHaveKeysAndNoTwoTheSame) {
  const std::string key = "node:" + std::string(64, 'a');
  const std::string b = "b = { address = \"tcp://h:2\", key = \"" + key + "\" }\n";
  const auto cluster = parse_cluster("[nodes]\na = \"tcp://h:1\"\n" + b, "cluster.toml");
  ASSERT_TRUE(cluster) << cluster.error().message;
  EXPECT_FALSE(cluster->nodes[0].key);
  EXPECT_EQ(keys::to_text(*cluster->nodes[1].key), key);
  EXPECT_THAT(refusal("[nodes]\n" + b + "c = { address = \"tcp://h:3\", key = \"" + key + "\" }\n"),
              HasSubstr("same key"));
  EXPECT_THAT(refusal("[nodes]\nb = { address = \"tcp://h:2\", key = \"operator:" +
                      std::string(64, 'a') + "\" }\n"),
              HasSubstr("must be the node: key"));
}

TEST(Cluster, InsecureIsAWordOfTheWholeFile) {
  const auto cluster = parse_cluster("insecure = true\n[nodes]\na = \"tcp://h:1\"\n", "c.toml");
  ASSERT_TRUE(cluster) << cluster.error().message;
  EXPECT_TRUE(cluster->insecure);
}

}  // namespace
}  // namespace ds4::ctl
