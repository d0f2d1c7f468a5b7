#include "ipc/region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <string>

namespace ds4::ipc {
namespace {

Region::Created make(const RegionShape& shape = {}) {
  auto created = Region::create(shape);
  EXPECT_TRUE(created) << created.error().message;
  return std::move(*created);
}

TEST(Region, ClientCanNeitherShrinkNorGrowIt) {
  const auto created = make();
  EXPECT_NE(::ftruncate(created.fd.get(), 0), 0);
  EXPECT_NE(::ftruncate(created.fd.get(), 1 << 30), 0);
  EXPECT_EQ(errno, EPERM);
  // Nor can it add a seal, such as one against writing.
  EXPECT_NE(::fcntl(created.fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(Region, SurvivesAHolePunchedByTheClient) {
  auto created = make();
  created.region.header().submission_tail = 5;
  if (::fallocate(created.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) != 0)
    GTEST_SKIP() << "no hole punching here";
  EXPECT_EQ(created.region.header().submission_tail, 0U);
}

TEST(Region, BothEndsSeeTheSameBytes) {
  auto created = make({.submission_entries = 16, .completion_entries = 32, .arena_tokens = 2048});
  const auto opened = Region::open(created.fd.get(), created.region.shape().region_bytes());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->shape(), created.region.shape());
  created.region.arena()[2047] = 4711;
  EXPECT_EQ(opened->arena()[2047], 4711);
  created.region.completions().slots[0] = 9;
  EXPECT_EQ(opened->completions().slots[0], 9U);
  EXPECT_EQ(opened->submissions().entries, 16U);
}

TEST(Region, OpenRefusesAWrongSizeOrAForeignFile) {
  const auto created = make();
  const auto bytes = created.region.shape().region_bytes();
  EXPECT_FALSE(Region::open(created.fd.get(), bytes + 4096));
  EXPECT_FALSE(Region::open(created.fd.get(), 0));
  const std::string zeros(bytes, '\0');
  const auto foreign = make_sealed_memfd("foreign", std::as_bytes(std::span(zeros)));
  ASSERT_TRUE(foreign);
  EXPECT_FALSE(Region::open(foreign->get(), bytes));
}

TEST(Region, OpenRefusesHeadersThatContradictThemselves) {
  const auto damage = [](auto change) {
    auto created = make();
    change(created.region.header());
    return Region::open(created.fd.get(), created.region.shape().region_bytes());
  };
  EXPECT_TRUE(damage([](RegionHeader&) {}));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.magic = 1; }));
  EXPECT_EQ(damage([](RegionHeader& h) { h.major = 2; }).error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(damage([](RegionHeader& h) { h.header_bytes = 64; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.region_bytes -= 1; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.submission_entries = 63; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.completion_entries = 1U << 30; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.arena_tokens = 0; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.arena_offset = 0xffffff80; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.submission_offset = 64; }));
  EXPECT_FALSE(damage([](RegionHeader& h) { h.completion_offset += 4; }));
}

TEST(Region, ShapesAreRoundedAndBounded) {
  const RegionShape most{
      .submission_entries = 256, .completion_entries = 4096, .arena_tokens = 65536};
  Hello wishes;
  EXPECT_EQ(fit_shape(wishes, most), RegionShape{});
  wishes.submission_entries = 1;
  wishes.completion_entries = 1000;
  wishes.arena_tokens = UINT32_MAX;
  const RegionShape fitted = fit_shape(wishes, most);
  EXPECT_EQ(fitted.submission_entries, kMinRingEntries);
  EXPECT_EQ(fitted.completion_entries, 1024U);
  EXPECT_EQ(fitted.arena_tokens, 65536U);
  // Even a nonsensical bound gives a region that can be made.
  const RegionShape odd =
      fit_shape(wishes, {.submission_entries = 0, .completion_entries = 100, .arena_tokens = 1});
  EXPECT_TRUE(Region::create(odd));
  EXPECT_EQ(odd.completion_entries, 64U);
}

TEST(Region, CreateRefusesShapesThatAreNoPowersOfTwo) {
  EXPECT_FALSE(
      Region::create({.submission_entries = 9, .completion_entries = 64, .arena_tokens = 1024}));
  EXPECT_FALSE(Region::create(
      {.submission_entries = 8, .completion_entries = 1U << 17, .arena_tokens = 1024}));
}

TEST(SealedMemfd, HoldsItsBytesForGood) {
  const std::string text(10'000, 'x');
  const auto fd = make_sealed_memfd("text", std::as_bytes(std::span(text)));
  ASSERT_TRUE(fd);
  EXPECT_LT(::pwrite(fd->get(), "y", 1, 0), 0);
  EXPECT_NE(::ftruncate(fd->get(), 1), 0);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_WRITE, MAP_SHARED, fd->get(), 0), MAP_FAILED);
  const auto mapping = Mapping::map(fd->get(), text.size(), Mapping::Access::kReadOnly);
  ASSERT_TRUE(mapping) << mapping.error().message;
  EXPECT_EQ(std::memcmp(mapping->data(), text.data(), text.size()), 0);
}

}  // namespace
}  // namespace ds4::ipc
