// Weights in device memory, on whatever GPU is here.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/device_part.h"
#include "engine/gguf/model_file.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/residency/keeper_fake.h"
#include "tests/engine/residency/synthetic_model.h"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kLayers = 6;

class CudaDeviceWeights : public testing::Test {
 protected:
  CudaDeviceWeights()
      : path_(dir_.write("model.gguf", test::synthetic_model(kLayers, 700).build())),
        model_(ModelFile::open(path_).value()) {}

  std::shared_ptr<CudaEngine> engine(DescriptorKeeper* keeper = nullptr) {
    return open_engine({.plugin_path = "", .keeper = keeper, .readers = 3, .ring_bytes = 1u << 20})
        .value();
  }
  static LayerRange layers(const char* text) { return LayerRange::parse(text, kLayers).value(); }

  /// Every byte of every tensor of the range, read back, against the file.
  void expect_the_files_bytes(const CudaWeights& weights) {
    std::uint64_t tensors = 0;
    for (const TensorInfo& tensor : model_->gguf().tensors()) {
      if (!weights.range().owns(tensor.name)) continue;
      std::vector<std::byte> there(tensor.bytes);
      std::vector<std::byte> here(tensor.bytes);
      const auto ok = weights.read_back(tensor.name, 0, there);
      ASSERT_TRUE(ok) << ok.error().message;
      ASSERT_EQ(::pread(model_->fd(), here.data(), here.size(), static_cast<off_t>(tensor.offset)),
                static_cast<ssize_t>(here.size()));
      EXPECT_EQ(std::memcmp(here.data(), there.data(), here.size()), 0) << tensor.name;
      ++tensors;
    }
    EXPECT_GT(tensors, 0u);
  }
  std::string kept_name(const std::string& part) const {
    return "ds4." + model_->fingerprint() + ".cuda0-" + part;
  }

  const test::TempDir dir_;
  const std::string path_;
  const std::shared_ptr<const ModelFile> model_;
};

std::uint64_t free_bytes(const CudaEngine& engine) {
  return engine.facts().value().free_bytes;
}

TEST_F(CudaDeviceWeights, HoldTheFilesBytes) {
  const auto weights = engine()->load(model_, layers("2:output"));
  ASSERT_TRUE(weights) << weights.error().message;
  expect_the_files_bytes(**weights);
  EXPECT_GE((*weights)->figures().read_bytes, (*weights)->cover().cover_bytes());
  EXPECT_GE((*weights)->device_bytes(), (*weights)->cover().cover_bytes());
  EXPECT_EQ((*weights)->audit().value().device_bytes, (*weights)->cover().cover_bytes());
}

TEST_F(CudaDeviceWeights, RefuseTensorsOfOtherLayersAndOfNone) {
  const auto weights = engine()->load(model_, layers("2:3")).value();
  const auto foreign = weights->tensor("blk.4.ffn.weight");
  ASSERT_FALSE(foreign);
  EXPECT_EQ(foreign.error().code, ErrorCode::kOutOfRange);
  EXPECT_NE(foreign.error().message.find("blk.4.ffn.weight"), std::string::npos);
  EXPECT_NE(foreign.error().message.find("2:3"), std::string::npos);
  const auto none = weights->tensor("blk.2.nothing");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
}

TEST_F(CudaDeviceWeights, ShareLayersThatAreAliveAndFreeTheRestAtOnce) {
  test::FakeKeeper keeper;
  const auto gpu = engine(&keeper);
  auto small = gpu->load(model_, layers("0:2")).value();
  const std::byte* const address = small->tensor("blk.1.ffn.weight")->data;
  auto large = gpu->load(model_, layers("0:4")).value();
  EXPECT_EQ(large->tensor("blk.1.ffn.weight")->data, address);
  EXPECT_GT(large->figures().kept_bytes, 0u);
  EXPECT_LT(large->figures().read_bytes, large->figures().kept_bytes);
  expect_the_files_bytes(*large);

  small.reset();  // all of it lives on in `large`
  EXPECT_EQ(keeper.names(),
            (std::vector<std::string>{"cuda0-L0", "cuda0-L1", "cuda0-L2", "cuda0-L3", "cuda0-L4"}));
  small = gpu->load(model_, layers("0:2")).value();
  EXPECT_EQ(small->figures().read_bytes, 0u);
  const std::uint64_t before = free_bytes(*gpu);
  keeper.forgotten.clear();
  large.reset();
  EXPECT_EQ(keeper.names(), (std::vector<std::string>{"cuda0-L0", "cuda0-L1", "cuda0-L2"}));
  EXPECT_GT(free_bytes(*gpu), before);
  expect_the_files_bytes(*small);
}

TEST_F(CudaDeviceWeights, OutliveTheirEngineWithTheKeeper) {
  test::FakeKeeper keeper;
  {
    const auto first = engine(&keeper);
    const auto weights = first->load(model_, layers("1:3")).value();
    first->leave();
  }
  const auto second = engine(&keeper);
  const auto weights = second->load(model_, layers("1:4")).value();
  EXPECT_GT(weights->figures().adopted_bytes, weights->figures().read_bytes);
  EXPECT_GT(weights->figures().read_bytes, 0u) << "layer 4 was not there";
  EXPECT_EQ(weights->note(), "");
  expect_the_files_bytes(*weights);
}

TEST_F(CudaDeviceWeights, AreNotTakenFromMemoryWithoutAMark) {
  test::FakeKeeper keeper;
  const auto plan = plan_parts(*model_, layers("2:2")).value().front();
  const auto cut_short =
      DeviceMemory::allocate(0, part_bytes(0, plan).value()).value();  // and never filled
  keeper.keep(kept_name("L2"), cut_short.share().value().get());
  const auto weights = engine(&keeper)->load(model_, layers("2:2")).value();
  EXPECT_EQ(weights->figures().adopted_bytes, 0u);
  EXPECT_NE(weights->note().find("L2"), std::string::npos) << weights->note();
  EXPECT_EQ(keeper.forgotten, std::vector<std::string>{kept_name("L2")});
  expect_the_files_bytes(*weights);
}

TEST_F(CudaDeviceWeights, AreNotTakenFromWhatIsNoDeviceMemory) {
  test::FakeKeeper keeper;
  const UniqueFd other(::memfd_create("other", MFD_CLOEXEC));
  keeper.keep(kept_name("L2"), other.get());
  const auto weights = engine(&keeper)->load(model_, layers("2:2"));
  ASSERT_TRUE(weights) << weights.error().message;
  EXPECT_EQ((*weights)->figures().adopted_bytes, 0u);
  expect_the_files_bytes(**weights);
}

TEST_F(CudaDeviceWeights, LeaveNothingBehindWhenCancelled) {
  test::FakeKeeper keeper;
  const auto gpu = engine(&keeper);
  const std::uint64_t before = free_bytes(*gpu);
  const std::atomic<bool> cancel = true;
  LoadOptions options;
  options.cancel = &cancel;
  const auto weights = gpu->load(model_, layers("0:output"), options);
  ASSERT_FALSE(weights);
  EXPECT_EQ(weights.error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(keeper.kept.empty());
  EXPECT_EQ(free_bytes(*gpu), before);
}

TEST_F(CudaDeviceWeights, AreRefusedWithFiguresWhenTheDeviceIsFull) {
  const auto gpu = engine();
  void* hog = nullptr;
  ASSERT_EQ(cudaMalloc(&hog, free_bytes(*gpu) - (6u << 20)), cudaSuccess);
  const auto weights = gpu->load(model_, layers("0:output"));
  cudaFree(hog);
  ASSERT_FALSE(weights);
  EXPECT_EQ(weights.error().code, ErrorCode::kResourceExhausted);
  EXPECT_NE(weights.error().message.find("GiB"), std::string::npos) << weights.error().message;
  EXPECT_TRUE(gpu->load(model_, layers("0:output"))) << "the engine lives on";
}

TEST_F(CudaDeviceWeights, AreRefusedWhenTheFileHasChanged) {
  ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(model_->file_bytes() - 4096)), 0);
  const auto weights = engine()->load(model_, layers("0:output"));
  ASSERT_FALSE(weights);
  EXPECT_EQ(weights.error().code, ErrorCode::kMismatch);
}

TEST_F(CudaDeviceWeights, SurviveThoseWhoLoadedThem) {
  auto gpu = engine();
  auto again = ModelFile::open(path_).value();
  auto first = gpu->load(again, layers("0:1")).value();
  const auto second = gpu->load(model_, layers("0:1")).value();
  first.reset();
  again.reset();
  gpu.reset();
  expect_the_files_bytes(*second);
}

TEST_F(CudaDeviceWeights, RegisteredPagesAreTheFilesBytes) {
  const auto gpu = engine();
  for (int round = 0; round < 2; ++round) {  // the second time, the first is unregistered
    std::shared_ptr<const ResidentSlice> pages =
        ResidentSlice::load(model_, layers("3:output")).value();
    const auto weights = gpu->register_host(pages);
    ASSERT_TRUE(weights) << weights.error().message;
    pages.reset();
    expect_the_files_bytes(**weights);
    EXPECT_GE((*weights)->registered_bytes(), (*weights)->cover().cover_bytes());
    EXPECT_EQ((*weights)->device_bytes(), 0u);
    EXPECT_FALSE((*weights)->tensor("blk.0.ffn.weight"));
  }
}

TEST_F(CudaDeviceWeights, RegisteredSlicesShareTheirPagesAndGoAlone) {
  const auto gpu = engine();
  const auto space =
      WeightSpace::open(model_, make_file_store(model_, /*drop_released=*/false)).value();
  const auto registered = [&](const char* text) {
    return gpu->register_host(ResidentSlice::load(space, layers(text)).value());
  };
  auto small = registered("0:2");
  ASSERT_TRUE(small) << small.error().message;
  auto large = registered("0:4");
  ASSERT_TRUE(large) << large.error().message;
  small->reset();
  expect_the_files_bytes(**large);
  small = registered("2:output");
  ASSERT_TRUE(small) << small.error().message;
  large->reset();
  expect_the_files_bytes(**small);
}

}  // namespace
}  // namespace ds4::cuda
