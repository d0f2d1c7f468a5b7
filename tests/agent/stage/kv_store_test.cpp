#include "agent/stage/kv_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "tests/agent/stage/fake_slice.h"
#include "tests/engine/gguf/temp_file.h"

namespace ds4::agent {
namespace {

using test::FakeControl;
using test::FakeOptions;
using test::FakeSlice;
using ::testing::HasSubstr;

constexpr std::uint64_t kMaker = 5;
constexpr std::uint64_t kFakeBytes = 6 * 4;  // of a FakeSlice's session

/// So many bytes; what is in them does not matter.
struct Bulk final : DetachedSession {
  explicit Bulk(std::size_t size) : bytes(size) {}
  std::vector<std::byte> bytes;
  std::vector<std::span<const std::byte>> pieces() const override { return {bytes}; }
};

/// Files as large as `bytes` at most, for as long as it lives.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &former_);
    const rlimit limit{bytes, former_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileLimit() { ::setrlimit(RLIMIT_FSIZE, &former_); }

 private:
  rlimit former_{};
};

class KvStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = KvDirectory::open(dir_.path());
    ASSERT_TRUE(opened) << opened.error().message;
    directory_ = *opened;
    make(1U << 20);
  }
  void make(std::uint64_t most_bytes) {
    store_ = std::make_unique<KvStore>(directory_, most_bytes, kMaker);
  }

  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      names.push_back(entry.path());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  static bool eventually(const std::function<bool()>& holds) {
    for (int i = 0; i < 6000; ++i) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  bool saved(std::uint64_t count) {
    return eventually([&] { return store_->stats().saved == count; });
  }
  void run(std::uint64_t session, std::uint32_t first, std::vector<std::int32_t> tokens) {
    const Segment segment{session, first, tokens, LogitsWanted::kLast};
    ASSERT_TRUE(slice_.forward({{&segment, 1}, {}}, {{}, logits_}));
  }
  /// A session of 3 tokens, put away.
  KvPlace put(std::uint64_t session) {
    EXPECT_TRUE(slice_.open_session(session, 100));
    run(session, 0, {3, 4, 5});
    const KvPlace place{session, 77, 100, 3};
    store_->put(place, *slice_.detach_session(session));
    return place;
  }
  /// The session goes on as one that never was away.
  void expect_goes_on(std::uint64_t session) {
    run(session, 3, {6, 7});
    const auto here = logits_;
    ASSERT_TRUE(slice_.open_session(1000, 100));
    run(1000, 0, {3, 4, 5, 6, 7});
    EXPECT_EQ(here, logits_);
    slice_.close_session(1000);
  }

  test::TempDir dir_;
  std::shared_ptr<const KvDirectory> directory_;
  std::unique_ptr<KvStore> store_;
  FakeSlice slice_{FakeOptions{}, std::make_shared<FakeControl>()};
  std::vector<float> logits_ = std::vector<float>(test::kFakeVocabulary);
};

TEST_F(KvStoreTest, ASessionReadBackGoesOnAsIfNothingHadBeen) {
  const KvPlace place = put(1);
  EXPECT_EQ(store_->find(1), place);
  ASSERT_TRUE(saved(1));
  ASSERT_EQ(files().size(), 1U);
  EXPECT_EQ(store_->stats().bytes, kFakeBytes);
  ASSERT_TRUE(store_->restore(1, slice_));
  expect_goes_on(1);
  EXPECT_EQ(store_->find(1), std::nullopt);
  EXPECT_TRUE(eventually([&] { return files().empty(); }));
  EXPECT_EQ(store_->stats().restored, 1U);
  EXPECT_EQ(store_->stats().bytes, 0U);
}

TEST_F(KvStoreTest, ASessionWantedBackAtOnceGoesOnToo) {
  for (std::uint64_t session = 1; session <= 200;
       ++session) {  // written, being written, or not yet
    put(session);
    ASSERT_TRUE(store_->restore(session, slice_));
    expect_goes_on(session);
    slice_.close_session(session);
  }
  EXPECT_TRUE(eventually([&] { return files().empty(); }));
  EXPECT_EQ(store_->stats().restored, 200U);
  EXPECT_EQ(store_->stats().bytes, 0U);
}

TEST_F(KvStoreTest, FilesAreForNobodyElseAndGoWithTheirSession) {
  put(1);
  put(2);
  ASSERT_TRUE(saved(2));
  for (const std::string& file : files()) {
    struct stat facts {};
    ASSERT_EQ(::stat(file.c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 0777, 0600U) << file;
  }
  store_->remove(1);
  EXPECT_TRUE(eventually([&] { return files().size() == 1; }));
  EXPECT_EQ(store_->find(1), std::nullopt);
  EXPECT_EQ(store_->restore(1, slice_).error().code, ErrorCode::kNotFound);
  EXPECT_NE(store_->find(2), std::nullopt);
}

TEST_F(KvStoreTest, NothingIsLeftWhenItEnds) {
  for (std::uint64_t session = 1; session <= 20; ++session) put(session);
  store_.reset();
  EXPECT_TRUE(files().empty());
}

TEST_F(KvStoreTest, WhatThePreviousAgentLeftIsRemovedAndNothingElse) {
  store_.reset();
  directory_.reset();
  std::ofstream(dir_.file("00000000000000a7.kv")) << "left";
  std::ofstream(dir_.file("00000000000000a8.kv.new")) << "half";
  std::ofstream(dir_.file("notes.kv")) << "somebody's";
  std::ofstream(dir_.file("00000000000000A7.kv")) << "somebody's";
  ASSERT_TRUE(KvDirectory::open(dir_.path()));
  EXPECT_THAT(files(),
              testing::ElementsAre(dir_.file("00000000000000A7.kv"), dir_.file("notes.kv")));
}

TEST_F(KvStoreTest, TwoAgentsCannotShareADirectory) {
  const auto second = KvDirectory::open(dir_.path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(second.error().message, HasSubstr("kv.directory"));
}

TEST_F(KvStoreTest, ADirectoryThatCannotBeIsAnErrorThatNamesIt) {
  std::ofstream(dir_.file("file")) << "no directory";
  const auto opened = KvDirectory::open(dir_.file("file"));
  ASSERT_FALSE(opened);
  EXPECT_THAT(opened.error().message, HasSubstr(dir_.file("file")));
}

TEST_F(KvStoreTest, ADamagedATruncatedAndAForeignFileCostTheSessionItsCacheAndNothingElse) {
  const auto damage = [&](const std::function<void(const std::string&)>& how, const char* words) {
    put(1);
    ASSERT_TRUE(eventually([&] { return files().size() == 1 && files()[0].ends_with(".kv"); }));
    how(files()[0]);
    const auto restored = store_->restore(1, slice_);
    ASSERT_FALSE(restored) << words;
    EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt) << restored.error().message;
    EXPECT_THAT(restored.error().message, HasSubstr(words));
    EXPECT_EQ(slice_.position(1).error().code, ErrorCode::kNotFound);
    EXPECT_EQ(store_->find(1), std::nullopt);
    EXPECT_TRUE(eventually([&] { return files().empty(); }));
  };
  damage(
      [](const std::string& file) {
        std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
        stream.seekp(kKvHeaderBytes + 5);
        stream.put('\x55');
      },
      "damaged");
  damage([](const std::string& file) { std::filesystem::resize_file(file, 80); }, "80 bytes");
  damage([](const std::string& file) { std::filesystem::resize_file(file, 0); }, "ends early");
  damage(
      [](const std::string& file) {
        const std::vector<std::byte> payload(kFakeBytes);
        const UniqueFd out(::open(file.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
        ASSERT_TRUE(write_kv_file(out.get(), KvPlace{2, 77, 100, 3}, kMaker,
                                  {std::span<const std::byte>(payload)}, [] { return true; }));
      },
      "another session");
  EXPECT_EQ(store_->stats().lost, 4U);
  put(1);
  EXPECT_TRUE(store_->restore(1, slice_));
  expect_goes_on(1);
}

TEST_F(KvStoreTest, AFileThatIsGoneIsAnErrorAndNotTheEnd) {
  put(1);
  ASSERT_TRUE(saved(1));
  std::filesystem::remove(files()[0]);
  EXPECT_EQ(store_->restore(1, slice_).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store_->find(1), std::nullopt);
}

TEST_F(KvStoreTest, BeyondItsBoundTheOldestGo) {
  make(3 * kFakeBytes);
  for (const std::uint64_t session : {9, 5, 7}) put(session);
  put(6);
  EXPECT_EQ(store_->find(9), std::nullopt);
  for (const std::uint64_t session : {5, 7, 6}) EXPECT_NE(store_->find(session), std::nullopt);
  EXPECT_EQ(store_->stats().bytes, 3 * kFakeBytes);
  EXPECT_EQ(store_->stats().sessions, 3U);
  EXPECT_TRUE(eventually([&] { return files().size() == 3; }));
  EXPECT_FALSE(store_->has_room(3 * kFakeBytes + 1));
  store_->put(KvPlace{8, 77, 100, 3}, std::make_unique<Bulk>(3 * kFakeBytes + 1));
  EXPECT_EQ(store_->find(8), std::nullopt);
  EXPECT_EQ(store_->stats().sessions, 3U);
}

TEST_F(KvStoreTest, AFullDiskCostsTheCacheAndTheNextOnesAreNotTried) {
  {
    const FileLimit limit(4096);
    make(1U << 20);  // its thread is what writes
    store_->put(KvPlace{1, 77, 100, 3}, std::make_unique<Bulk>(100'000));
    ASSERT_TRUE(eventually([&] { return store_->stats().lost == 1; }));
  }
  EXPECT_EQ(store_->find(1), std::nullopt);
  EXPECT_EQ(store_->stats().bytes, 0U);
  EXPECT_TRUE(files().empty());
  EXPECT_FALSE(store_->has_room(1));
}

TEST_F(KvStoreTest, ASliceWithoutRoomLeavesTheSessionHere) {
  FakeOptions small;
  small.kv_budget_positions = 99;
  FakeSlice full(small, std::make_shared<FakeControl>());
  put(1);
  EXPECT_EQ(store_->restore(1, full).error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(store_->find(1), std::nullopt);
  ASSERT_TRUE(store_->restore(1, slice_));
  expect_goes_on(1);
}

}  // namespace
}  // namespace ds4::agent
