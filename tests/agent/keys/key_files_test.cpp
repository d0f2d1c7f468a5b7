#include "agent/keys/key_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

namespace ds4::keys {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class KeyFiles : public ::testing::Test {
 protected:
  KeyFiles() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ds4-keys-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    directory = pattern;
  }
  ~KeyFiles() override { std::filesystem::remove_all(directory); }

  std::string path(const std::string& name) const { return directory + "/" + name; }
  unsigned mode_of(const std::string& name) const {
    struct stat info {};
    EXPECT_EQ(::stat(path(name).c_str(), &info), 0);
    return info.st_mode & 07777;
  }
  std::size_t files() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator(directory))
      ++count;
    return count;
  }

  std::string directory;
};

TEST_F(KeyFiles, AreMadeOnceAndThenKept) {
  const auto first = load_or_make_key(directory, KeyRole::kNode);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(mode_of("node.key"), 0600U);
  EXPECT_EQ(files(), 1U);  // nothing is left beside it
  const auto again = load_or_make_key(directory, KeyRole::kNode);
  ASSERT_TRUE(again);
  EXPECT_EQ(again->secret, first->secret);
}

TEST_F(KeyFiles, MadeByManyAtOnceAreOne) {
  std::vector<std::jthread> threads;
  std::vector<std::optional<KeyPair>> made(8);
  for (auto& pair : made) {
    threads.emplace_back([&] {
      if (auto key = load_or_make_key(directory, KeyRole::kOperator)) pair = *key;
    });
  }
  threads.clear();
  const KeyPair kept = load_key(directory, KeyRole::kOperator).value();
  for (const auto& pair : made) {
    ASSERT_TRUE(pair);
    EXPECT_EQ(pair->secret, kept.secret);
  }
  EXPECT_EQ(files(), 1U);
}

TEST_F(KeyFiles, AnUmaskThatHidesEverythingStillLetsOthersReadTheCard) {
  const mode_t before = ::umask(077);
  const auto saved = save_card(directory, {"a", std::nullopt, "tcp://127.0.0.1:1"});
  ::umask(before);
  ASSERT_TRUE(saved);
  EXPECT_EQ(mode_of("node.pub"), 0644U);
}

TEST_F(KeyFiles, ThatOthersCanReadAreRefused) {
  ASSERT_TRUE(load_or_make_key(directory, KeyRole::kNode));
  for (const mode_t mode : {0644, 0640, 0602, 0610}) {
    ASSERT_EQ(::chmod(path("node.key").c_str(), mode), 0);
    for (const auto& key :
         {load_key(directory, KeyRole::kNode), load_or_make_key(directory, KeyRole::kNode)}) {
      ASSERT_FALSE(key) << mode;
      EXPECT_EQ(key.error().code, ErrorCode::kPermission);
      EXPECT_THAT(key.error().message, AllOf(HasSubstr("node.key"), HasSubstr("chmod 600")));
    }
  }
}

TEST_F(KeyFiles, AnOperatorsMayBeGivenToAGroupButNotToEverybody) {
  ASSERT_TRUE(load_or_make_key(directory, KeyRole::kOperator));
  ASSERT_EQ(::chmod(path("operator.key").c_str(), 0640), 0);
  EXPECT_TRUE(load_key(directory, KeyRole::kOperator));
  for (const mode_t mode : {0644, 0660, 0604}) {
    ASSERT_EQ(::chmod(path("operator.key").c_str(), mode), 0);
    EXPECT_FALSE(load_key(directory, KeyRole::kOperator)) << mode;
  }
}

TEST_F(KeyFiles, DamagedOnesAreNotReplaced) {
  { std::ofstream(path("node.key")) << "nonsense\n"; }
  ASSERT_EQ(::chmod(path("node.key").c_str(), 0600), 0);
  const auto key = load_or_make_key(directory, KeyRole::kNode);
  ASSERT_FALSE(key);
  EXPECT_EQ(key.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(key.error().message, HasSubstr("move it away"));
}

TEST_F(KeyFiles, ADirectoryOrNothingInTheirPlaceIsASentence) {
  EXPECT_EQ(load_key(directory, KeyRole::kNode).error().code, ErrorCode::kNotFound);
  std::filesystem::create_directory(path("node.key"));
  EXPECT_EQ(load_key(directory, KeyRole::kNode).error().code, ErrorCode::kPermission);
  EXPECT_FALSE(load_or_make_key(path("missing"), KeyRole::kNode));
}

TEST_F(KeyFiles, TheCardTellsTheAgent) {
  const KeyPair pair = make_key_pair(KeyRole::kNode).value();
  const NodeCard card{"a box", pair.public_key, "tcp://10.0.0.1:7341"};
  ASSERT_TRUE(save_card(directory, card));
  EXPECT_EQ(load_card(directory).value(), card);
  const NodeCard insecure{"b", std::nullopt, "tcp://127.0.0.1:1"};
  ASSERT_TRUE(save_card(directory, insecure));
  EXPECT_EQ(load_card(directory).value(), insecure);
}

TEST(Card, MalformedOnesAreRefused) {
  for (const char* bad : {"", "\n", "insecure\n", "insecure tcp://a:1\n", "insecure tcp://a:1 \n",
                          "insecure  x\n", "node:12 tcp://a:1 a\n", "insecure tcp://a:1 a",
                          "insecure tcp://a:1 a\nmore\n", "insecure tcp://a:1 \x1b[2J\n"}) {
    EXPECT_FALSE(parse_card(bad)) << bad;
  }
}

TEST_F(KeyFiles, TrustIsKeptAndDamageIsNotForgotten) {
  EXPECT_EQ(load_trust(directory).value(), TrustList{});
  TrustList list;
  ASSERT_TRUE(list.revoke("b", make_key_pair(KeyRole::kNode)->public_key));
  ASSERT_TRUE(save_trust(directory, list));
  EXPECT_EQ(mode_of("trust"), 0600U);
  EXPECT_EQ(load_trust(directory).value(), list);
  { std::ofstream(path("trust")) << "revoked\n"; }
  const auto damaged = load_trust(directory);
  ASSERT_FALSE(damaged);
  EXPECT_THAT(damaged.error().message, AllOf(HasSubstr("trust:1: "), HasSubstr("move the file")));
}

}  // namespace
}  // namespace ds4::keys
