#include "agent/loader/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>

#include "agent/plan/layer_loads.h"
#include "engine/cuda/plugin.h"
#include "engine/gguf/model_file.h"
#include "engine/residency/span_map.h"
#include "tests/engine/gguf/temp_file.h"

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
  FdStore store;
};

TEST_F(LoaderTest, LoadsOneAfterAnother) {
  Loader loader(model, config, store);
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
  EXPECT_EQ(loader.progress().seconds_left, 0U);
  EXPECT_EQ(loader.progress().bytes_total, loader.progress().bytes_done);
}

TEST_F(LoaderTest, ItsDescriptorStaysReadableUntilEveryOutcomeIsTaken) {
  Loader loader(model, config, store);
  loader.load(1, {0, 0, false});
  loader.load(2, {1, 1, false});
  const std::string info = "/proc/self/fdinfo/" + std::to_string(loader.event_fd());
  const auto announced = [&] {
    std::ifstream file(info);
    for (std::string word; file >> word;) {
      if (word == "eventfd-count:" && file >> word) return std::stoi(word, nullptr, 16);
    }
    return -1;
  };
  while (announced() < 2) ::usleep(1000);
  const auto readable = [&] {
    pollfd event{loader.event_fd(), POLLIN, 0};
    return ::poll(&event, 1, 0) == 1;
  };
  EXPECT_EQ(loader.take()->epoch, 1U);
  EXPECT_TRUE(readable());
  EXPECT_EQ(loader.take()->epoch, 2U);
  EXPECT_FALSE(readable());
  EXPECT_FALSE(loader.take());
}

TEST_F(LoaderTest, ACancelledEpochIsNeverDelivered) {
  Loader loader(model, config, store);
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

TEST_F(LoaderTest, SlicesOfOneModelShareWhatTheyHaveInCommon) {
  Loader loader(model, config, store);
  loader.load(1, {0, 2, false});
  const LoadOutcome first = wait_for_outcome(loader);
  loader.load(2, {1, 4, false});
  const LoadOutcome second = wait_for_outcome(loader);
  ASSERT_TRUE(first.slice && second.slice);
  EXPECT_GT(second.slice->weights->figures().kept_bytes, 0U);
  EXPECT_EQ(
      second.slice->weights->figures().kept_bytes + second.slice->weights->figures().read_bytes,
      second.slice->weights->cover().cover_bytes());
}

/// A model file that is replaced by another one, as a package's upgrade does, between two loads.
class ReplacedModel : public LoaderTest {
 protected:
  ReplacedModel() {
    std::filesystem::copy_file(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf", path_);
    model = ModelFile::open(path_).value();
  }
  /// By a copy of itself; if a tensor is named, with another byte at that offset in it.
  void replace(const char* tensor, std::uint64_t offset) {
    const std::string fresh = directory_.file("fresh.gguf");
    std::filesystem::copy_file(path_, fresh);
    if (tensor != nullptr) {
      std::fstream file(fresh, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(model->gguf().find(tensor)->offset + offset));
      file.put('!');
    }
    std::filesystem::rename(fresh, path_);
  }
  /// Loads, replaces, loads again; the figures of the second load.
  LoadFigures load_twice(Config::Strategy strategy, const char* tensor, std::uint64_t offset = 0) {
    config.residency.strategy = strategy;
    Loader loader(model, config, store);
    loader.load(1, {0, 2, false});
    const LoadOutcome first = wait_for_outcome(loader);
    replace(tensor, offset);
    loader.use_model(ModelFile::open(path_).value());
    loader.load(2, {0, 2, false});
    const LoadOutcome second = wait_for_outcome(loader);
    EXPECT_TRUE(first.slice && second.slice);
    return second.slice->weights->figures();
  }
  std::uint64_t cover_bytes() const {
    return SpanCover::of(model->gguf(), {0, 2, false}, system_page_bytes())->cover_bytes();
  }

 private:
  test::TempDir directory_;
  const std::string path_ = directory_.file("model.gguf");
};

TEST_F(ReplacedModel, ByItsEqualLeavesCopiesWhereTheyAre) {
  const LoadFigures figures = load_twice(Config::Strategy::kMemfd, nullptr);
  EXPECT_EQ(figures.kept_bytes, cover_bytes());
  EXPECT_EQ(figures.read_bytes, 0U);
}

TEST_F(ReplacedModel, ByItsEqualIsMappedWherePagesAreTheFiles) {
  const LoadFigures figures = load_twice(Config::Strategy::kFile, nullptr);
  EXPECT_EQ(figures.kept_bytes, 0U);
  EXPECT_EQ(figures.read_bytes, cover_bytes());
}

TEST_F(ReplacedModel, ByAnotherIsCopiedAgain) {
  const LoadFigures figures = load_twice(Config::Strategy::kMemfd, "blk.1.attn_q_a.weight");
  EXPECT_EQ(figures.kept_bytes, 0U);
  EXPECT_EQ(figures.read_bytes, cover_bytes());
}

TEST_F(ReplacedModel, WhoseTensorEndsOtherwiseIsCopiedAgain) {
  const std::uint64_t last = model->gguf().find("blk.1.attn_q_a.weight")->bytes - 1;
  const LoadFigures figures = load_twice(Config::Strategy::kMemfd, "blk.1.attn_q_a.weight", last);
  EXPECT_EQ(figures.kept_bytes, 0U);
  EXPECT_EQ(figures.read_bytes, cover_bytes());
}

TEST_F(LoaderTest, AStrategyThatThisMachineLacksIsASentence) {
  if (CudaEngine::open()) GTEST_SKIP() << "there is a GPU here";
  config.residency.strategy = Config::Strategy::kCudaDevice;
  Loader loader(model, config, store);
  loader.load(1, {0, 2, false});
  const LoadOutcome outcome = wait_for_outcome(loader);
  ASSERT_FALSE(outcome.slice);
  EXPECT_EQ(outcome.slice.error().code, ErrorCode::kUnsupported);
  EXPECT_GT(outcome.slice.error().message.size(), 20U);
}

TEST_F(LoaderTest, AutoComputesOnTheCpuWhereThereIsNoGpu) {
  if (CudaEngine::open()) GTEST_SKIP() << "there is a GPU here";
  config.engine.device = Config::Device::kAuto;
  Loader loader(model, config, store);
  loader.load(1, {0, 2, false});
  const LoadOutcome outcome = wait_for_outcome(loader);
  ASSERT_TRUE(outcome.slice) << outcome.slice.error().message;
  EXPECT_EQ(outcome.slice->weights->strategy(), "file");
}

TEST_F(LoaderTest, WhatTheHostCannotHoldIsNotBegunWithWhereTheHostHasToHoldIt) {
  for (const auto device : {Config::Device::kCpu, Config::Device::kAuto}) {
    if (device != Config::Device::kCpu && CudaEngine::open()) GTEST_SKIP() << "there is a GPU here";
    config.engine.device = device;
    Loader loader(model, config, store);
    loader.load(1, {0, 2, false}, fail(ErrorCode::kResourceExhausted, "too large"));
    const LoadOutcome outcome = wait_for_outcome(loader);
    ASSERT_FALSE(outcome.slice);
    EXPECT_EQ(outcome.slice.error().code, ErrorCode::kResourceExhausted);
    EXPECT_EQ(outcome.slice.error().message, "too large");
    EXPECT_EQ(loader.progress().bytes_done, 0U);
  }
}

TEST_F(LoaderTest, OnlyAGpuThatTheConfigurationAllowsLeavesThePlaceOfWeightsOpen) {
  using Device = Config::Device;
  using Strategy = Config::Strategy;
  const auto surely = [&](Device device, Strategy strategy) {
    config.engine.device = device;
    config.residency.strategy = strategy;
    return surely_takes_host_memory(config);
  };
  EXPECT_TRUE(surely(Device::kCpu, Strategy::kAuto));
  EXPECT_TRUE(surely(Device::kCpu, Strategy::kFile));
  EXPECT_TRUE(surely(Device::kCpu, Strategy::kMemfd));
  EXPECT_TRUE(surely(Device::kAuto, Strategy::kCudaRegistered));
  EXPECT_FALSE(surely(Device::kAuto, Strategy::kAuto));
  EXPECT_FALSE(surely(Device::kCuda, Strategy::kAuto));
  EXPECT_FALSE(surely(Device::kCpu, Strategy::kCudaDevice));
}

TEST_F(LoaderTest, MemoryThatMustBeLockedAndCannotIsAnErrorWithTheWayOut) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    if (::setrlimit(RLIMIT_MEMLOCK, &none) != 0 ||
        (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0)) {
      ::_exit(2);
    }
    config.memory.lock = config.memory.must_lock = true;
    Loader loader(model, config, store);
    loader.load(1, {0, 2, false});
    const LoadOutcome refused = wait_for_outcome(loader);
    const bool told = !refused.slice && refused.slice.error().code == ErrorCode::kPermission &&
                      refused.slice.error().message.find("LimitMEMLOCK") != std::string::npos;
    ::_exit(told ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers replace mlock(2) by nothing";
#else
  EXPECT_EQ(status, 0);
#endif
}

class Measuring : public LoaderTest {
 protected:
  Result<Measured> measure(Loader& loader, std::optional<LayerRange> held) const {
    const HyperParams params = HyperParams::read(model->gguf()).value();
    loader.measure(held, plan::layer_loads(model->gguf(), params, {.context = 1024}).value());
    while (true) {
      pollfd event{loader.event_fd(), POLLIN, 0};
      ::poll(&event, 1, -1);
      if (auto measured = loader.take_measured()) return *std::move(measured);
    }
  }
};

TEST_F(Measuring, ANodeWithoutLayersKnowsItsMemorysBandwidth) {
  Loader loader(model, config, store);
  const auto measured = measure(loader, std::nullopt);
  ASSERT_TRUE(measured) << measured.error().message;
  EXPECT_TRUE(measured->host_memory);
  EXPECT_TRUE(measured->rates.empty());
  EXPECT_GT(measured->overall.decode_bytes_per_s, 0U);
  EXPECT_EQ(measured->overall.row_macs_per_s, 0U);
  EXPECT_THAT(measured->how, HasSubstr("bandwidth"));
}

TEST_F(Measuring, ANodeWithLayersRunsOneOfEachKindAndReadsNothing) {
  for (const auto strategy : {Config::Strategy::kFile, Config::Strategy::kMemfd}) {
    config.residency.strategy = strategy;
    Loader loader(model, config, store);
    loader.load(1, {1, 5, true});
    const LoadOutcome serving = wait_for_outcome(loader);
    ASSERT_TRUE(serving.slice) << serving.slice.error().message;
    const auto measured = measure(loader, LayerRange{1, 5, true});
    ASSERT_TRUE(measured) << measured.error().message;
    EXPECT_EQ(measured->how, "measured on layers 1, 2, 3");
    ASSERT_EQ(measured->rates.size(), 3U);
    const std::uint64_t kinds[] = {0, 4, 128};
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(measured->rates[i].kind, kinds[i]);
      EXPECT_GT(measured->rates[i].decode_bytes_per_s, 0U);
      EXPECT_GT(measured->rates[i].row_macs_per_s, 0U);
    }
    EXPECT_GT(measured->overall.row_macs_per_s, 0U);
    // What serves is as it was: the measuring's claims are gone, its own are not.
    EXPECT_EQ(serving.slice->weights->audit()->outside_cover_bytes, 0U);
    EXPECT_FALSE(serving.slice->weights->broken());
  }
}

TEST_F(Measuring, ComesBehindTheLoadsThatWait) {
  Loader loader(model, config, store);
  loader.load(1, {0, 5, true});
  ASSERT_TRUE(measure(loader, std::nullopt));
  EXPECT_TRUE(loader.take());
}

TEST_F(LoaderTest, DestroysWhatIsDiscarded) {
  std::atomic<bool> gone = false;
  {
    Loader loader(model, config, store);
    loader.discard(std::shared_ptr<void>(nullptr, [&](void*) { gone = true; }));
  }
  EXPECT_TRUE(gone);
}

TEST_F(LoaderTest, StopsInTheMiddleOfItsWork) {
  Loader loader(model, config, store);
  for (std::uint64_t epoch = 1; epoch < 20; ++epoch) loader.load(epoch, {0, 5, true});
}

}  // namespace
}  // namespace ds4::agent
