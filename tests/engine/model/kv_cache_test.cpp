#include "engine/model/kv_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace ds4 {
namespace {

HyperParams params() {
  HyperParams hp;
  hp.n_layer = 3;
  hp.head_dim = 128;
  hp.index_dim = 64;
  hp.rope_dim = 64;
  hp.window = 128;
  hp.compress_ratio = {0, 4, 128};
  return hp;
}

const cpu::Ops& ops() {
  return cpu::ops_for(cpu::Isa::kScalar);
}

constexpr LayerRange kAll{0, 2, true};

std::uint64_t in_pages(std::uint64_t bytes) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

TEST(KvPlan, CountsEveryPart) {
  constexpr std::uint64_t kContext = 1000, kFloat = 4;
  constexpr std::uint64_t kRaw = 128 * 128 * kFloat;
  // Ratio 4: 250 rows and as many index rows; sums of two halves, three floats a channel.
  constexpr std::uint64_t kFour =
      250 * (128 + 64) * kFloat + 3 * 2 * 128 * kFloat + 3 * 2 * 64 * kFloat;
  constexpr std::uint64_t kOneTwentyEight = 7 * 128 * kFloat + 3 * 128 * kFloat;
  EXPECT_EQ(KvPlan::make(params(), kAll, Graph::kPlain, kContext).bytes,
            in_pages(3 * kRaw + kFour + kOneTwentyEight));
  EXPECT_EQ(KvPlan::make(params(), {0, 0, false}, Graph::kPlain, kContext).bytes, in_pages(kRaw));
}

TEST(KvPlan, TheOfficialGraphHoldsCodes) {
  // 64 codes, an exponent, three bytes of padding and 64 floats; 32 bytes of codes, two exponents
  // and padding. Every part begins on a cache line.
  constexpr std::uint64_t kRow = 64 + 4 + 256, kIndexRow = 32 + 4, kSums = 3 * 4;
  const auto lines = [](std::uint64_t bytes) { return (bytes + 63) / 64 * 64; };
  EXPECT_EQ(
      KvPlan::make(params(), kAll, Graph::kOfficial, 1000).bytes,
      in_pages(3 * lines(128 * kRow) + lines(250 * kRow) + lines(250 * kIndexRow) +
               lines(256 * kSums) + lines(128 * kSums) + lines(7 * kRow) + lines(128 * kSums)));
}

TEST(KvPlan, AShortContextNeedsNoWholeWindow) {
  EXPECT_EQ(KvPlan::make(params(), {0, 0, false}, Graph::kPlain, 10).ring_rows, 10u);
  EXPECT_EQ(KvPlan::make(params(), {0, 0, false}, Graph::kPlain, 10).bytes, in_pages(10 * 128 * 4));
}

TEST(KvPlan, SaysWhatItsBytesAre) {
  const KvPlan plan = KvPlan::make(params(), kAll, Graph::kOfficial, 1000);
  // 128 * 324 * 3 + 250 * 324 + 3072 + 250 * 36 + 1536 + 7 * 324 + 1536, then up to whole pages.
  constexpr std::uint64_t kParts = 222'828;
  EXPECT_EQ(plan.describe(),
            fmt::format("raw rows 324 B x 128 x 3 layers + ratio-4 rows 324 B x 250 x 1 layer + "
                        "ratio-4 sums 3072 B x 1 layer + index rows 36 B x 250 x 1 layer + "
                        "index sums 1536 B x 1 layer + ratio-128 rows 324 B x 7 x 1 layer + "
                        "ratio-128 sums 1536 B x 1 layer + padding {} B = {} B for 1000 positions",
                        plan.bytes - kParts, plan.bytes));
}

TEST(KvPlan, LeavesOutWhatAShortContextLacks) {
  const KvPlan plan = KvPlan::make(params(), {2, 2, false}, Graph::kPlain, 100);
  EXPECT_EQ(plan.describe(),
            fmt::format("raw rows 512 B x 100 x 1 layer + ratio-128 sums 1536 B x 1 layer + "
                        "padding {} B = {} B for 100 positions",
                        plan.bytes - 52'736, plan.bytes));
}

TEST(SessionCache, HoldsExactlyThePlannedBytes) {
  for (const std::uint32_t context : {1u, 127u, 4096u, 1'000'000u}) {
    const auto cache = SessionCache::open(params(), kAll, Graph::kOfficial, context, ops());
    ASSERT_TRUE(cache);
    EXPECT_EQ((*cache)->bytes(), KvPlan::make(params(), kAll, Graph::kOfficial, context).bytes);
    EXPECT_EQ((*cache)->context(), context);
  }
}

/// Pages of the mapping at `base` that memory backs.
std::size_t resident_pages(const float* base, std::uint64_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> map(bytes / page);
  EXPECT_EQ(mincore(const_cast<float*>(base), bytes, map.data()), 0);
  std::size_t count = 0;
  for (const unsigned char one : map) count += one & 1u;
  return count;
}

TEST(SessionCache, TakesMemoryOnlyForWhatIsWritten) {
  const auto cache = SessionCache::open(params(), {0, 0, false}, Graph::kPlain, 100'000, ops());
  ASSERT_TRUE(cache);
  const float* base = (*cache)->layer(0).raw.get(0, nullptr);
  EXPECT_EQ(resident_pages(base, (*cache)->bytes()), 0u);
  const std::vector<float> row(128, 1.0f);
  (*cache)->layer(0).raw.put(0, row.data());
  EXPECT_EQ(resident_pages(base, (*cache)->bytes()), 1u);
}

TEST(SessionCache, PartsDoNotOverlap) {
  constexpr std::uint32_t kContext = 300;
  const auto cache = SessionCache::open(params(), kAll, Graph::kPlain, kContext, ops());
  ASSERT_TRUE(cache);
  float next = 0;
  const auto fill = [&](RowStore& store, std::uint32_t rows, std::uint32_t n) {
    for (std::uint32_t row = 0; row < rows; ++row)
      store.put(row, std::vector<float>(n, ++next).data());
  };
  const auto fill_sums = [&](cpu::SoftmaxSums& sums, std::uint32_t n) {
    for (float* part : {sums.max, sums.sum, sums.acc}) std::fill_n(part, n, ++next);
  };
  const auto check = [&](const RowStore& store, std::uint32_t rows, std::uint32_t n) {
    std::vector<float> scratch(n);
    for (std::uint32_t row = 0; row < rows; ++row) {
      const float* got = store.get(row, scratch.data());
      EXPECT_EQ(std::vector<float>(got, got + n), std::vector<float>(n, ++next));
    }
  };
  const auto check_sums = [&](const cpu::SoftmaxSums& sums, std::uint32_t n) {
    for (const float* part : {sums.max, sums.sum, sums.acc})
      EXPECT_EQ(std::vector<float>(part, part + n), std::vector<float>(n, ++next));
  };
  const auto every_part = [&](const auto& rows, const auto& sums) {
    for (std::uint32_t layer = 0; layer < 3; ++layer) rows((*cache)->layer(layer).raw, 128, 128);
    rows((*cache)->layer(1).compressed, 75, 128);
    sums((*cache)->layer(1).sums, 256);
    rows((*cache)->layer(1).index, 75, 64);
    sums((*cache)->layer(1).index_sums, 128);
    rows((*cache)->layer(2).compressed, 2, 128);
    sums((*cache)->layer(2).sums, 128);
  };
  every_part(fill, fill_sums);
  next = 0;
  every_part(check, check_sums);
}

}  // namespace
}  // namespace ds4
