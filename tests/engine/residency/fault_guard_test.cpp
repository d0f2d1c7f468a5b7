// SIGBUS in guarded addresses, and anywhere else.
#include "engine/residency/fault_guard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "engine/gguf/model_file.h"
#include "engine/residency/resident_slice.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4 {
namespace {

class FaultGuardTest : public ::testing::Test {
 protected:
  FaultGuardTest()
      : path_(dir_.write("model.gguf", test::synthetic_model(8, 40).build())),
        model_(ModelFile::open(path_).value()) {}
  void truncate() { ASSERT_EQ(::truncate(path_.c_str(), 8192), 0); }

  test::TempDir dir_;
  std::string path_;
  std::shared_ptr<const ModelFile> model_;
};

std::uint64_t sum(std::span<const std::byte> bytes) {
  std::uint64_t total = 0;
  for (const std::byte byte : bytes) total += static_cast<std::uint64_t>(byte);
  return total;
}

TEST_F(FaultGuardTest, ATruncatedFileBreaksItsSliceAndNothingElse) {
  const auto slice = ResidentSlice::load(model_, {3, 6, false}).value();
  const std::string other_path = dir_.write("other.gguf", test::synthetic_model(8, 40).build());
  const auto other = ResidentSlice::load(ModelFile::open(other_path).value(), {3, 6, false});
  ASSERT_TRUE(other);
  const auto bytes = slice->tensor("blk.5.ffn.weight")->bytes;
  const std::uint64_t before = sum(bytes);
  EXPECT_GT(before, 0u);
  EXPECT_FALSE(slice->broken());
  truncate();
  EXPECT_EQ(sum(bytes), 0u);  // lives
  ASSERT_TRUE(slice->broken());
  EXPECT_NE(slice->broken()->find(path_), std::string::npos);
  EXPECT_NE(slice->broken()->find("truncated"), std::string::npos);
  EXPECT_FALSE((*other)->broken());
  EXPECT_EQ(sum((*other)->tensor("blk.5.ffn.weight")->bytes), before);
}

TEST_F(FaultGuardTest, HoldsOnEveryThread) {
  const auto slice = ResidentSlice::load(model_, {0, 7, true}).value();
  truncate();
  std::vector<std::thread> threads;
  for (int layer = 0; layer < 8; ++layer) {
    threads.emplace_back([&, layer] {
      EXPECT_EQ(sum(slice->tensor("blk." + std::to_string(layer) + ".attn.weight")->bytes), 0u);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(slice->broken());
}

TEST_F(FaultGuardTest, AFileThatIsAlreadyShortIsAnErrorAndNotASignal) {
  // Truncated between the check and the reading: a progress callback stands in for the moment.
  LoadOptions options;
  options.chunk_bytes = 64 << 10;
  options.progress = [&](std::uint64_t, std::uint64_t) { truncate(); };
  const auto slice = ResidentSlice::load(model_, {2, 7, true}, options);
  ASSERT_FALSE(slice);
  EXPECT_TRUE(slice.error().code == ErrorCode::kIo || slice.error().code == ErrorCode::kMismatch)
      << slice.error().message;
}

using FaultGuardDeathTest = FaultGuardTest;

TEST_F(FaultGuardDeathTest, OutsideItsAddressesASigbusStillKills) {
  const auto slice = ResidentSlice::load(model_, {0, 0, false}).value();  // installs the handler
  const auto map_and_read = [&] {
    auto map = SpanMap::reserve(model_->file_bytes()).value();
    (void)map.map(model_->fd(), {16384, 20480});
    if (::truncate(path_.c_str(), 8192) != 0) return;
    touch_pages(map.base() + 16384, 1);
  };
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  EXPECT_DEATH(map_and_read(), "");
#else
  EXPECT_EXIT(map_and_read(), ::testing::KilledBySignal(SIGBUS), "");
#endif
}

}  // namespace
}  // namespace ds4
