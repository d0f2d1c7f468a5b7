#include "agent/loader/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/available_memory.h"

namespace ds4::agent {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::uint64_t kGiB = 1ULL << 30;

/// Two GiB a layer and one for the head; a gigabyte for caches, half of one for scratch.
MemoryNeed need_of(const LayerRange& range) {
  return {range.count() * 2 * kGiB + (range.output ? kGiB : 0), kGiB, kGiB / 2};
}

TEST(CheckBudget, TakesWhatFitsToTheByte) {
  EXPECT_TRUE(check_budget({0, 9, false}, 20 * kGiB + kGiB * 3 / 2, need_of));
  EXPECT_FALSE(check_budget({0, 9, false}, 20 * kGiB + kGiB * 3 / 2 - 1, need_of));
}

TEST(CheckBudget, RefusesWithTheFiguresAndTheLargestRangeThatFits) {
  const auto refused = check_budget({4, 13, true}, 10 * kGiB, need_of);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(
      refused.error().message,
      AllOf(HasSubstr("layers 4:output need 22.50 GiB"), HasSubstr("weights 21.00 GiB"),
            HasSubstr("KV cache 1.00 GiB"), HasSubstr("scratch 512.00 MiB"),
            HasSubstr("can give 10.00 GiB"), HasSubstr("4:7 is the most that fits from layer 4")));
}

TEST(CheckBudget, GivesUpTheHeadFirst) {
  const auto refused = check_budget({4, 5, true}, 6 * kGiB, need_of);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("4:5 is the most that fits"));
}

TEST(CheckBudget, SaysWhenNotEvenOneLayerFits) {
  const auto refused = check_budget({4, 13, true}, kGiB, need_of);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("not even layer 4 fits"));
}

TEST(CheckBudget, UnknownMemoryRefusesNothing) {
  EXPECT_TRUE(check_budget({0, 60, true}, budget_bytes({}, {}), need_of));
}

TEST(BudgetBytes, IsWhatIsConfigured) {
  Config::Memory memory;
  memory.budget_bytes = 5 * kGiB;
  EXPECT_EQ(budget_bytes(memory, {kGiB, {}, 7 * kGiB}), 5 * kGiB);
}

TEST(BudgetBytes, AutoIsTheLeastOfMachineAndGroupsWithWhatIsHeldAlready) {
  MemorySupply supply;
  supply.available_bytes = 40 * kGiB;
  EXPECT_EQ(budget_bytes({}, supply), 40 * kGiB - kMachineReserveBytes);
  supply.group.left_bytes = 12 * kGiB;
  EXPECT_EQ(budget_bytes({}, supply), 12 * kGiB - kGroupReserveBytes);
  supply.held_bytes = 8 * kGiB;
  EXPECT_EQ(budget_bytes({}, supply), 20 * kGiB - kGroupReserveBytes);
  supply.group.left_bytes = 0;
  EXPECT_EQ(budget_bytes({}, supply), 8 * kGiB);
}

TEST(ChooseKvBudget, IsWhatIsConfiguredOrAQuarterButOneSessionWhereThatFits) {
  Config::Memory memory;
  EXPECT_EQ(choose_kv_budget(memory, 8 * kGiB, kGiB), 2 * kGiB);
  EXPECT_EQ(choose_kv_budget(memory, 2 * kGiB, kGiB), kGiB);
  EXPECT_EQ(choose_kv_budget(memory, kGiB / 2, kGiB), kGiB / 2);
  EXPECT_EQ(choose_kv_budget(memory, 0, kGiB), 0U);
  memory.kv_mib = 10;
  EXPECT_EQ(choose_kv_budget(memory, 8 * kGiB, kGiB), 10U << 20);
}

TEST(AvailableMemory, IsKnownOnLinux) {
  EXPECT_GT(available_memory_bytes(), 0U);
}

}  // namespace
}  // namespace ds4::agent
