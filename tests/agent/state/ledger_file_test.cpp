#include "agent/state/ledger_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

const Ledger kLedger = {
    7,
    Assignment{
        5, "f00d", {{"a", "tcp://10.0.0.1:1", "0:2"}, {"b", "tcp://10.0.0.2:1", "3:output"}}, 1}};

class LedgerFileTest : public ::testing::Test {
 protected:
  LedgerFileTest() {
    std::string pattern = ::testing::TempDir() + "ds4-ledger-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~LedgerFileTest() override { std::filesystem::remove_all(directory_); }

  void write(std::string_view text) const { std::ofstream(directory_ / "route.json") << text; }

  std::filesystem::path directory_;
};

TEST(LedgerText, ComesBackAsItWas) {
  const auto decoded = decode_ledger(encode_ledger(kLedger));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(*decoded, kLedger);
  const auto without = decode_ledger(encode_ledger({3, std::nullopt}));
  ASSERT_TRUE(without);
  EXPECT_EQ(*without, (Ledger{3, std::nullopt}));
}

TEST(LedgerText, RefusesDamageAndOtherVersions) {
  EXPECT_FALSE(decode_ledger(""));
  EXPECT_FALSE(decode_ledger("{}"));
  EXPECT_FALSE(decode_ledger(R"({"version": 1})"));
  EXPECT_FALSE(decode_ledger(R"({"version": 1, "highest_epoch": -1})"));
  const auto newer = decode_ledger(R"({"version": 2, "highest_epoch": 1})");
  ASSERT_FALSE(newer);
  EXPECT_THAT(newer.error().message, HasSubstr("version 2"));
  const auto index = decode_ledger(
      R"({"version": 1, "highest_epoch": 1, "assignment":
          {"epoch": 1, "fingerprint": "f", "index": 1, "route":
           [{"node": "a", "address": "tcp://a:1", "layers": "0:output"}]}})");
  ASSERT_FALSE(index);
  EXPECT_THAT(index.error().message, HasSubstr("index"));
}

TEST_F(LedgerFileTest, IsEmptyAtFirstAndKeepsWhatIsSaved) {
  const auto nested = directory_ / "made" / "here";
  {
    const auto file = LedgerFile::open(nested);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(file->load().value(), Ledger{});
    ASSERT_TRUE(file->save(kLedger));
  }
  const auto file = LedgerFile::open(nested);
  ASSERT_TRUE(file);
  EXPECT_EQ(file->load().value(), kLedger);
}

TEST_F(LedgerFileTest, ASecondAgentIsRefused) {
  const auto first = LedgerFile::open(directory_);
  ASSERT_TRUE(first);
  const auto second = LedgerFile::open(directory_);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message, HasSubstr("another ds4d uses the state directory"));
}

TEST_F(LedgerFileTest, ADamagedFileIsNamedWithTheWayOut) {
  write("{\"version\": 1, \"high");
  const auto file = LedgerFile::open(directory_);
  const auto ledger = file->load();
  ASSERT_FALSE(ledger);
  EXPECT_THAT(ledger.error().message, HasSubstr((directory_ / "route.json").string()));
  EXPECT_THAT(ledger.error().message, HasSubstr("move it away"));
}

TEST_F(LedgerFileTest, AHugeFileIsRefused) {
  write(std::string((1U << 20) + 1, ' '));
  EXPECT_FALSE(LedgerFile::open(directory_)->load());
}

TEST_F(LedgerFileTest, ADirectoryThatCannotBeMadeIsNamed) {
  write("a file");
  const auto file = LedgerFile::open(directory_ / "route.json" / "below");
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().message, HasSubstr("state directory"));
}

TEST_F(LedgerFileTest, AFailedSaveKeepsTheFormerLedger) {
  const auto file = LedgerFile::open(directory_);
  ASSERT_TRUE(file->save(kLedger));
  // No byte may be written any more: what a full disk looks like.
  rlimit former{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &former), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit none = former;
  none.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
  const auto saved = file->save({8, std::nullopt});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &former), 0);
  std::signal(SIGXFSZ, handler);

  ASSERT_FALSE(saved);
  EXPECT_THAT(saved.error().message, HasSubstr("route.json"));
  EXPECT_EQ(file->load().value(), kLedger);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "route.json.new"));
}

}  // namespace
}  // namespace ds4::agent
