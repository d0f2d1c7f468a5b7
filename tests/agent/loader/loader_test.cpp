#include "agent/loader/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>

#include "engine/gguf/model_file.h"

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() {
    config.engine.threads = 1;
    config.memory.lock = false;
  }

  LoadOutcome wait_for_outcome(Loader& loader) const {
    while (true) {
      pollfd event{loader.event_fd(), POLLIN, 0};
      ::poll(&event, 1, -1);
      if (auto outcome = loader.take()) return *std::move(outcome);
    }
  }

  std::shared_ptr<const ModelFile> model =
      ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf").value();
  Config config;
};

TEST_F(LoaderTest, LoadsOneAfterAnother) {
  Loader loader(model, config);
  loader.load(1, {0, 2, false});
  loader.load(2, {3, 5, true});
  const LoadOutcome first = wait_for_outcome(loader);
  EXPECT_EQ(first.epoch, 1U);
  ASSERT_TRUE(first.slice) << first.slice.error().message;
  EXPECT_EQ(first.slice->slice->range(), (LayerRange{0, 2, false}));
  const LoadOutcome second = wait_for_outcome(loader);
  EXPECT_EQ(second.epoch, 2U);
  ASSERT_TRUE(second.slice);
  EXPECT_EQ(loader.progress().bytes_done, second.slice->weights->cover().cover_bytes());
  EXPECT_EQ(loader.progress().bytes_total, loader.progress().bytes_done);
}

TEST_F(LoaderTest, ACancelledEpochIsNeverDelivered) {
  Loader loader(model, config);
  // Whether the first is still waiting, under way or done when it is cancelled: the second's
  // outcome is the only one.
  for (std::uint64_t epoch = 1; epoch < 40; epoch += 2) {
    loader.load(epoch, {0, 2, false});
    if (epoch % 4 == 1) loader.progress();
    loader.cancel(epoch);
    loader.load(epoch + 1, {0, 0, false});
    EXPECT_EQ(wait_for_outcome(loader).epoch, epoch + 1);
    EXPECT_FALSE(loader.take());
  }
}

TEST_F(LoaderTest, DestroysWhatIsDiscarded) {
  std::atomic<bool> gone = false;
  {
    Loader loader(model, config);
    loader.discard(std::shared_ptr<void>(nullptr, [&](void*) { gone = true; }));
  }
  EXPECT_TRUE(gone);
}

TEST_F(LoaderTest, StopsInTheMiddleOfItsWork) {
  Loader loader(model, config);
  for (std::uint64_t epoch = 1; epoch < 20; ++epoch) loader.load(epoch, {0, 5, true});
}

}  // namespace
}  // namespace ds4::agent
