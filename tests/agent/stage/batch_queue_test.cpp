#include "agent/stage/batch_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace ds4::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

wire::WorkItem item(std::uint64_t session, std::uint32_t first, std::size_t tokens,
                    bool sample = false) {
  wire::WorkItem work;
  work.session = session;
  work.first_position = first;
  work.context = 10000;
  work.tokens.resize(tokens);
  std::iota(work.tokens.begin(), work.tokens.end(), static_cast<std::int32_t>(first));
  if (sample) work.sample = SamplingParams{};
  return work;
}

void push(BatchQueue& queue, std::vector<wire::WorkItem> items) {
  queue.push({1, std::move(items), {}});
}

/// "session x rows" of each piece.
std::vector<std::pair<std::uint64_t, std::size_t>> shape(const std::vector<Piece>& batch) {
  std::vector<std::pair<std::uint64_t, std::size_t>> out;
  for (const Piece& piece : batch) out.emplace_back(piece.item.session, piece.item.tokens.size());
  return out;
}

using Rows = std::pair<std::uint64_t, std::size_t>;

TEST(BatchQueue, EverythingWaitingBecomesOneBatch) {
  BatchQueue queue(64);
  push(queue, {item(1, 0, 10), item(2, 5, 1)});
  push(queue, {item(3, 0, 20)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 1}, Rows{1, 10}, Rows{3, 20}));
  EXPECT_TRUE(queue.empty());
  EXPECT_THAT(queue.take_batch(), IsEmpty());
}

TEST(BatchQueue, DecodeRowsComeBeforePrefillThatCameEarlier) {
  BatchQueue queue(8);
  push(queue, {item(1, 0, 100)});
  push(queue, {item(2, 5, 1), item(3, 9, 1)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 1}, Rows{3, 1}, Rows{1, 6}));
}

TEST(BatchQueue, ASessionIsOnceInABatchAndKeepsItsOrder) {
  BatchQueue queue(64);
  push(queue, {item(1, 0, 4), item(1, 4, 1), item(1, 5, 3), item(2, 0, 2)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 4}, Rows{2, 2}));
  const auto second = queue.take_batch();
  EXPECT_THAT(shape(second), ElementsAre(Rows{1, 1}));
  EXPECT_EQ(second[0].item.first_position, 4U);
  EXPECT_EQ(queue.take_batch()[0].item.first_position, 5U);
  EXPECT_TRUE(queue.empty());
}

TEST(BatchQueue, ALongItemIsCutIntoPartsThatContinueEachOther) {
  BatchQueue queue(4);
  wire::WorkItem whole = item(1, 20, 10, /*sample=*/true);
  whole.prefix_hash = 77;
  wire::WorkFrame frame{1, {item(2, 0, 3), whole}, std::vector<float>(13 * 2)};
  queue.push(std::move(frame));
  std::vector<Piece> parts;
  while (!queue.empty()) {
    for (Piece& piece : queue.take_batch()) {
      if (piece.item.session == 1) parts.push_back(std::move(piece));
    }
  }
  std::vector<std::int32_t> tokens;
  std::uint64_t hash = 77;
  for (const Piece& part : parts) {
    EXPECT_EQ(part.item.first_position, 20 + tokens.size());
    EXPECT_EQ(part.first_row, 3 + tokens.size());
    EXPECT_EQ(part.item.prefix_hash, hash);
    EXPECT_EQ(part.item.context, whole.context);
    EXPECT_EQ(part.item.sample.has_value(), &part == &parts.back());
    hash = wire::extend_hash(hash, part.item.tokens);
    tokens.insert(tokens.end(), part.item.tokens.begin(), part.item.tokens.end());
  }
  EXPECT_EQ(tokens, whole.tokens);
  EXPECT_GE(parts.size(), 3U);
}

TEST(BatchQueue, PrefillTakesNoMoreThanItsShare) {
  BatchQueue queue(64);
  push(queue, {item(1, 0, 7), item(2, 0, 7), item(3, 3, 1)});
  EXPECT_THAT(shape(queue.take_batch({.prefill_rows = 10})),
              ElementsAre(Rows{3, 1}, Rows{1, 7}, Rows{2, 3}));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 4}));
}

TEST(BatchQueue, ALonePromptGoesInEqualPartsWithoutASmallRest) {
  BatchQueue queue(64);
  push(queue, {item(1, 0, 100)});
  for (const std::size_t rows : {34U, 33U, 33U}) {
    EXPECT_THAT(shape(queue.take_batch({.prefill_rows = 48})), ElementsAre(Rows{1, rows}));
  }
  push(queue, {item(1, 100, 48)});
  EXPECT_THAT(shape(queue.take_batch({.prefill_rows = 48})), ElementsAre(Rows{1, 48}));
}

TEST(BatchQueue, PrefillsTakeTurns) {
  BatchQueue queue(4);
  push(queue, {item(1, 0, 8), item(2, 0, 8)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 4}));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 4}));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 4}));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 4}));
}

TEST(BatchQueue, DecodesBeyondTheRowsTakeTurns) {
  BatchQueue queue(2);
  push(queue, {item(1, 5, 1), item(2, 5, 1), item(3, 5, 1)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 1}, Rows{2, 1}));
  push(queue, {item(1, 6, 1), item(2, 6, 1)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{3, 1}, Rows{1, 1}));
}

TEST(BatchQueue, PrefillIsNotStarvedByDecodes) {
  for (const std::uint32_t max_rows : {1U, 2U, 7U, 8U, 16U}) {
    BatchQueue queue(max_rows);
    push(queue, {item(1000, 0, 5)});
    std::size_t prefilled = 0;
    std::size_t decoded = 0;
    for (std::uint32_t step = 0; step < 20; ++step) {
      // As many decodes wait as could ever be taken.
      for (std::uint64_t session = 1; session <= max_rows; ++session) {
        push(queue, {item(session, step, 1)});
      }
      for (const Piece& piece : queue.take_batch()) {
        (piece.item.session == 1000 ? prefilled : decoded) += piece.item.tokens.size();
      }
    }
    EXPECT_EQ(prefilled, 5U) << max_rows;
    EXPECT_GE(decoded, 15 * max_rows / 2) << max_rows;
  }
}

TEST(BatchQueue, NeverMoreRowsThanAllowed) {
  for (const std::uint32_t max_rows : {1U, 3U, 8U, 33U}) {
    BatchQueue queue(max_rows);
    const BatchBounds bounds{.prefill_rows = std::max(1U, max_rows / 2)};
    for (std::uint64_t session = 1; session <= 40; ++session) {
      push(queue, {item(session, 0, session % 3 == 0 ? 1 : session)});
    }
    while (!queue.empty()) {
      std::size_t rows = 0;
      const auto batch = queue.take_batch(bounds);
      ASSERT_FALSE(batch.empty());
      for (const Piece& piece : batch) rows += piece.item.tokens.size();
      EXPECT_LE(rows, max_rows);
    }
  }
}

TEST(BatchQueue, ABatchFitsOneFrame) {
  BatchQueue queue(5000);
  for (std::uint64_t session = 0; session < 3000; ++session) {
    push(queue, {item(session, 0, session % 2 == 0 ? 1 : 2)});
  }
  std::size_t items = 0;
  while (!queue.empty()) {
    const auto batch = queue.take_batch();
    EXPECT_LE(batch.size(), wire::kMaxItems);
    items += batch.size();
  }
  EXPECT_EQ(items, 3000U);
}

TEST(BatchQueue, AClosingTakesTheWorkBeforeItAlongAndBarsWhatFollows) {
  BatchQueue queue(4);
  push(queue, {item(1, 0, 6), item(3, 0, 1), item(1, 6, 1)});
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{3, 1}, Rows{1, 3}));
  EXPECT_EQ(queue.waiting_rows(), 4U);
  queue.push_close(1);
  queue.push_close(2);
  EXPECT_EQ(queue.waiting_rows(), 0U);
  push(queue, {item(1, 0, 2)});
  EXPECT_THAT(queue.take_batch(), IsEmpty());
  EXPECT_THAT(queue.take_closes(), ElementsAre(1, 2));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 2}));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.waiting_rows(), 0U);
}

TEST(BatchQueue, AClosedSessionsPlaceInTheTurnsGoesToTheOthers) {
  BatchQueue queue(4);
  push(queue, {item(1, 0, 9), item(2, 0, 9), item(3, 5, 1), item(4, 5, 1)});
  queue.push_close(1);
  queue.push_close(3);
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{4, 1}, Rows{2, 3}));
  EXPECT_THAT(queue.take_closes(), ElementsAre(1, 3));
}

TEST(BatchQueue, AClosingLeavesWhatAForkWaitsFor) {
  BatchQueue queue(8);
  push(queue, {item(1, 0, 6)});
  queue.push_fork({1, 2, 0, 6, 0});
  push(queue, {item(1, 6, 3), item(2, 6, 1)});
  queue.push_close(1);
  EXPECT_EQ(queue.waiting_rows(), 7U);
  EXPECT_THAT(queue.take_closes(), IsEmpty());
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 6}));
  EXPECT_THAT(queue.take_closes(), IsEmpty());
  EXPECT_EQ(queue.take_forks().size(), 1U);
  EXPECT_THAT(queue.take_closes(), ElementsAre(1));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{2, 1}));
  EXPECT_TRUE(queue.empty());
}

TEST(BatchQueue, AClosingOfAForksTargetStillLetsTheForkBeTaken) {
  BatchQueue queue(8);
  push(queue, {item(1, 0, 6)});
  queue.push_fork({1, 2, 0, 6, 0});
  push(queue, {item(2, 6, 4)});
  queue.push_close(2);
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 6}));
  EXPECT_THAT(queue.take_closes(), IsEmpty());
  EXPECT_EQ(queue.take_forks().size(), 1U);
  EXPECT_THAT(queue.take_closes(), ElementsAre(2));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.waiting_rows(), 0U);
}

TEST(BatchQueue, ClosingTwiceIsTakenTwice) {
  BatchQueue queue(4);
  queue.push_close(1);
  queue.push_close(1);
  EXPECT_THAT(queue.take_closes(), ElementsAre(1, 1));
  EXPECT_TRUE(queue.empty());
}

TEST(BatchQueue, AForkWaitsForItsSourcesWorkAndTheTargetsWorkWaitsForIt) {
  BatchQueue queue(4);
  push(queue, {item(1, 0, 6)});
  queue.push_fork({1, 2, 0, 6, 0});
  push(queue, {item(1, 6, 1), item(2, 6, 1)});
  EXPECT_THAT(queue.take_forks(), IsEmpty());
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 3}));
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 3}));
  EXPECT_THAT(queue.take_batch(), IsEmpty());
  ASSERT_EQ(queue.take_forks().size(), 1U);
  EXPECT_THAT(shape(queue.take_batch()), ElementsAre(Rows{1, 1}, Rows{2, 1}));
  EXPECT_TRUE(queue.empty());
}

TEST(BatchQueue, ForksToAndFroNeverWaitForEachOther) {
  BatchQueue queue(4);
  queue.push_fork({1, 2, 0, 6, 0});
  queue.push_fork({2, 1, 0, 6, 0});
  queue.push_close(1);
  EXPECT_EQ(queue.take_forks().size(), 2U);
  EXPECT_THAT(queue.take_closes(), ElementsAre(1));
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace ds4::agent
