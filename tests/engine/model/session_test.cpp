// Sessions and calls of a slice: limits, refusals, and that a refused call leaves no trace.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/engine/model/model_fixture.h"

namespace ds4::test {
namespace {

using testing::HasSubstr;

std::vector<std::byte> bytes_of(const DetachedSession& detached) {
  std::vector<std::byte> bytes;
  for (const auto piece : detached.pieces()) bytes.insert(bytes.end(), piece.begin(), piece.end());
  return bytes;
}

/// Gives the bytes once; fails behind their end.
SessionSource source_of(const std::vector<std::byte>& bytes) {
  return [rest = std::span(bytes)](std::span<std::byte> to) mutable -> Result<void> {
    if (to.size() > rest.size()) return fail(ErrorCode::kIo, "the saved session ends early");
    std::copy_n(rest.begin(), to.size(), to.begin());
    rest = rest.subspan(to.size());
    return {};
  };
}

class SessionTest : public testing::Test {
 protected:
  void SetUp() override {
    CpuSliceOptions options = fast(Graph::kOfficial);
    options.max_rows = 64;
    slice_ = make_slice("q4", "0:output", options);
    ASSERT_TRUE(slice_);
    tokens_ = read_case("q4.plain", "window130").tokens;
  }

  std::size_t vocab() const { return slice_->params().n_vocab; }

  Segment segment(SessionId session, std::uint32_t first, std::size_t count) const {
    return {session, first, std::span(tokens_).subspan(first, count), LogitsWanted::kAll};
  }
  /// Logits of the call's rows, or its error.
  Result<std::vector<float>> forward(const std::vector<Segment>& segments) {
    std::size_t rows = 0;
    for (const Segment& one : segments) rows += one.tokens.size();
    std::vector<float> logits(rows * vocab());
    DS4_TRY(slice_->forward({segments, {}}, {{}, logits}));
    return logits;
  }
  void expect_refused(const std::vector<Segment>& segments, ErrorCode code, const char* text) {
    const auto result = forward(segments);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_THAT(result.error().message, HasSubstr(text));
  }

  std::unique_ptr<Slice> slice_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::vector<float>> results_;
};

TEST_F(SessionTest, PositionCountsTheTokensHeld) {
  ASSERT_TRUE(slice_->open_session(7, 100));
  EXPECT_EQ(slice_->position(7).value(), 0u);
  ASSERT_TRUE(forward({segment(7, 0, 5)}));
  EXPECT_EQ(slice_->position(7).value(), 5u);
  slice_->close_session(7);
  EXPECT_EQ(slice_->position(7).error().code, ErrorCode::kNotFound);
}

TEST_F(SessionTest, AReopenedSessionRemembersNothing) {
  ASSERT_TRUE(slice_->open_session(7, 130));
  const auto first = forward({segment(7, 0, 60)});
  slice_->close_session(7);
  ASSERT_TRUE(slice_->open_session(7, 130));
  const auto second = forward({segment(7, 0, 60)});
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(same_bits(*first, *second));
}

TEST_F(SessionTest, TheContextDoesNotChangeAResult) {
  ASSERT_TRUE(slice_->open_session(1, 60));
  ASSERT_TRUE(slice_->open_session(2, slice_->params().context_length));
  const auto tight = forward({segment(1, 0, 60)});
  const auto wide = forward({segment(2, 0, 60)});
  ASSERT_TRUE(tight && wide);
  EXPECT_TRUE(same_bits(*tight, *wide));
}

TEST_F(SessionTest, OpeningTwiceIsRefused) {
  ASSERT_TRUE(slice_->open_session(7, 100));
  EXPECT_EQ(slice_->open_session(7, 100).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(SessionTest, AContextTheModelDoesNotHaveIsRefused) {
  EXPECT_EQ(slice_->open_session(7, 0).error().code, ErrorCode::kOutOfRange);
  const auto beyond = slice_->open_session(7, slice_->params().context_length + 1);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, ErrorCode::kOutOfRange);
  EXPECT_THAT(beyond.error().message, HasSubstr("1048577"));
}

TEST_F(SessionTest, ClosingAnUnknownSessionIsHarmless) {
  slice_->close_session(99);
}

// Every refusal below is followed by the call that was right, whose result must be what a session
// that was never refused gets.
TEST_F(SessionTest, ARefusedCallChangesNoCache) {
  ASSERT_TRUE(slice_->open_session(1, 60));
  ASSERT_TRUE(slice_->open_session(2, 60));
  ASSERT_TRUE(slice_->open_session(3, 130));
  ASSERT_TRUE(forward({segment(1, 0, 40)}));
  ASSERT_TRUE(forward({segment(3, 0, 40)}));

  const auto good = segment(1, 40, 10);
  std::vector<std::int32_t> bad_tokens(tokens_.begin(), tokens_.begin() + 3);
  bad_tokens[2] = 4096;
  const Segment foreign{2, 0, bad_tokens, LogitsWanted::kAll};
  expect_refused({good, foreign}, ErrorCode::kOutOfRange, "token 4096 at position 2");
  bad_tokens[2] = -1;
  expect_refused({good, foreign}, ErrorCode::kOutOfRange, "token -1 at position 2");
  expect_refused({good, segment(2, 5, 1)}, ErrorCode::kMismatch, "holds 0 positions");
  expect_refused({good, segment(4, 0, 1)}, ErrorCode::kNotFound, "session 4");
  expect_refused({good, segment(1, 50, 1)}, ErrorCode::kInvalidArgument, "two segments");
  expect_refused({good, segment(2, 0, 0)}, ErrorCode::kInvalidArgument, "without tokens");
  expect_refused({segment(1, 40, 21)}, ErrorCode::kOutOfRange, "context of 60");
  expect_refused({good, segment(2, 0, 55)}, ErrorCode::kOutOfRange, "64 rows");
  expect_refused({}, ErrorCode::kInvalidArgument, "without segments");

  EXPECT_EQ(slice_->position(1).value(), 40u);
  EXPECT_EQ(slice_->position(2).value(), 0u);
  const auto after = forward({good});
  const auto wanted = forward({segment(3, 40, 10)});
  ASSERT_TRUE(after && wanted);
  EXPECT_TRUE(same_bits(*after, *wanted));
}

TEST_F(SessionTest, BuffersOfAnotherSizeAreRefused) {
  ASSERT_TRUE(slice_->open_session(1, 60));
  const Segment one = segment(1, 0, 2);
  std::vector<float> logits(2 * vocab()), streams(2 * 4 * 256);
  const std::span<float> none;
  const auto refused = [&](std::span<const float> in, std::span<float> out, std::span<float> to) {
    const auto result = slice_->forward({{&one, 1}, in}, {out, to});
    return !result && result.error().code == ErrorCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused({}, none, std::span(logits).first(vocab())));
  EXPECT_TRUE(refused({}, none, none));
  EXPECT_TRUE(refused(streams, none, logits));
  EXPECT_TRUE(refused({}, streams, logits));
  EXPECT_EQ(slice_->position(1).value(), 0u);
  EXPECT_TRUE(slice_->forward({{&one, 1}, {}}, {none, logits}));
}

TEST_F(SessionTest, AMiddleSliceWantsStreamsAndHasNoLogits) {
  const auto middle = make_slice("q4", "2:3", fast(Graph::kOfficial));
  ASSERT_TRUE(middle);
  ASSERT_TRUE(middle->open_session(1, 60));
  const Segment one = segment(1, 0, 2);  // logits wanted: heeded only where there is a head
  std::vector<float> in(2 * 4 * 256, 0.5f), out(2 * 4 * 256), logits(2 * vocab());
  EXPECT_FALSE(middle->forward({{&one, 1}, {}}, {out, {}}));
  EXPECT_FALSE(middle->forward({{&one, 1}, in}, {out, logits}));
  EXPECT_FALSE(middle->forward({{&one, 1}, in}, {std::span(out).first(1024), {}}));
  EXPECT_EQ(middle->position(1).value(), 0u);
  EXPECT_TRUE(middle->forward({{&one, 1}, in}, {out, {}}));
}

// Positions on both sides of the ends of windows and of blocks of 4 and 128.
TEST_F(SessionTest, ASessionTakenOutAndRestoredGoesOnWithTheSameBits) {
  for (const std::uint32_t held : {1u, 3u, 4u, 60u, 127u, 128u, 129u}) {
    const auto at = [&](SessionId session, std::uint32_t first, std::uint32_t end) {
      Result<std::vector<float>> last;
      for (; first < end; first += 50) {
        last = forward({segment(session, first, std::min(50u, end - first))});
        ASSERT_TRUE(last) << last.error().message;
      }
      if (end == tokens_.size()) results_.push_back(*last);
    };
    results_.clear();
    for (const SessionId session : {1, 2}) {
      ASSERT_TRUE(slice_->open_session(session, 130));
      at(session, 0, held);
    }
    const std::uint64_t bytes = slice_->kv_bytes();
    auto detached = slice_->detach_session(1);
    ASSERT_TRUE(detached);
    EXPECT_EQ(slice_->position(1).error().code, ErrorCode::kNotFound);
    EXPECT_EQ(slice_->kv_bytes(), bytes / 2);
    const std::vector<std::byte> saved = bytes_of(**detached);
    detached->reset();
    ASSERT_TRUE(slice_->restore_session(1, 130, held, source_of(saved)));
    EXPECT_EQ(slice_->position(1).value(), held);
    EXPECT_EQ(slice_->kv_bytes(), bytes);
    for (const SessionId session : {1, 2}) {
      at(session, held, 130);
      slice_->close_session(session);
    }
    ASSERT_EQ(results_.size(), 2u);
    EXPECT_TRUE(same_bits(results_[0], results_[1])) << held;
  }
}

TEST_F(SessionTest, WhatIsTakenOutIsWhatThePositionsHaveWrittenAndNoMore) {
  ASSERT_TRUE(slice_->open_session(1, slice_->params().context_length));
  ASSERT_TRUE(forward({segment(1, 0, 40)}));
  const auto detached = slice_->detach_session(1);
  ASSERT_TRUE(detached);
  EXPECT_LT(bytes_of(**detached).size(), slice_->kv_bytes_for(130));
}

TEST_F(SessionTest, ASourceThatFailsLeavesNoSession) {
  ASSERT_TRUE(slice_->open_session(1, 130));
  ASSERT_TRUE(forward({segment(1, 0, 40)}));
  const auto detached = slice_->detach_session(1);
  ASSERT_TRUE(detached);
  std::vector<std::byte> saved = bytes_of(**detached);
  saved.pop_back();
  EXPECT_EQ(slice_->restore_session(1, 130, 40, source_of(saved)).error().code, ErrorCode::kIo);
  EXPECT_EQ(slice_->position(1).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(slice_->kv_bytes(), 0u);
  EXPECT_EQ(slice_->restore_session(1, 30, 40, source_of(saved)).error().code,
            ErrorCode::kOutOfRange);
  EXPECT_EQ(slice_->detach_session(1).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(slice_->open_session(1, 130));
  EXPECT_EQ(slice_->restore_session(1, 130, 40, source_of(saved)).error().code,
            ErrorCode::kInvalidArgument);
}

TEST(KvBudget, RefusesWithTheBytesNeededAndLeft) {
  CpuSliceOptions options = fast();
  const auto unlimited = make_slice("q4", "0:output", options);
  ASSERT_TRUE(unlimited);
  const std::uint64_t one = unlimited->kv_bytes_for(1000);
  options.kv_budget_bytes = 2 * one + 1;
  const auto slice = make_slice("q4", "0:output", options);
  ASSERT_TRUE(slice);
  ASSERT_TRUE(slice->open_session(1, 1000));
  ASSERT_TRUE(slice->open_session(2, 1000));
  EXPECT_EQ(slice->kv_bytes(), 2 * one);
  const auto third = slice->open_session(3, 1000);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, ErrorCode::kResourceExhausted);
  EXPECT_THAT(third.error().message, HasSubstr(std::to_string(one)));
  EXPECT_THAT(third.error().message, HasSubstr("1 of " + std::to_string(2 * one + 1)));
  EXPECT_EQ(slice->kv_bytes(), 2 * one);
  slice->close_session(1);
  EXPECT_EQ(slice->kv_bytes(), one);
  EXPECT_TRUE(slice->open_session(3, 1000));
}

TEST(KvBytes, AddUpOverASplit) {
  const auto bytes = [](const char* range) {
    return make_slice("q4", range, fast())->kv_bytes_for(10'000);
  };
  // Each slice rounds up to pages.
  EXPECT_NEAR(static_cast<double>(bytes("0:2") + bytes("3:output")),
              static_cast<double>(bytes("0:output")), 65536.0);
}

TEST(MakeCpuSlice, NeedsRoomForARow) {
  CpuSliceOptions options = fast();
  options.max_rows = 0;
  const auto slice = make_cpu_slice(resident("q4", "0:output"), options);
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace ds4::test
