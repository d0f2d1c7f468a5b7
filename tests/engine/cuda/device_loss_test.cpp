// A GPU that fails takes its slices along, and nothing else. Alone in its program, because nothing
// computes on the GPU afterwards.
#include "engine/cuda/cuda_engine.h"
#include "tests/engine/cuda/bad_kernel.h"
#include "tests/engine/model/model_fixture.h"

namespace ds4::test {
namespace {

constexpr std::int32_t kTokens[] = {0, 17, 99, 4};

Result<SampledToken> step(Slice& slice, std::uint32_t at) {
  SampledToken token;
  const Segment segment{1, at, {&kTokens[at], 1}, LogitsWanted::kLast};
  DS4_TRY(slice.forward({{&segment, 1}, {}}, {{}, {}, {&token, 1}}));
  return token;
}

TEST(CudaDeviceLoss, FailsTheSliceAndItsWeightsWithASentenceAndNothingElse) {
  const auto model = ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf");
  ASSERT_TRUE(model);
  const auto engine = cuda::open_engine({});
  ASSERT_TRUE(engine) << engine.error().message;
  const auto weights = (*engine)->load(*model, *LayerRange::parse("0:output", kLayers));
  ASSERT_TRUE(weights) << weights.error().message;
  auto made = (*engine)->make_slice(*weights, {});
  ASSERT_TRUE(made) << made.error().message;
  const std::unique_ptr<Slice> slice = std::move(*made);
  ASSERT_TRUE(slice->open_session(1, 8));
  ASSERT_TRUE(step(*slice, 0));
  EXPECT_EQ((*weights)->broken(), std::nullopt);

  lose_device();
  const auto failed = step(*slice, 1);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable) << failed.error().message;
  EXPECT_NE((*weights)->broken().value_or("").find("GPU 0 failed"), std::string::npos);
  // It stays so, and says so at once.
  EXPECT_EQ(step(*slice, 1).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(slice->open_session(2, 8).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(slice->position(1).value_or(0), 1u);
  slice->close_session(1);

  const auto on_cpu = make_slice("q4", "0:output", fast());
  ASSERT_TRUE(on_cpu->open_session(1, 8));
  EXPECT_TRUE(step(*on_cpu, 0));
}

}  // namespace
}  // namespace ds4::test
