#include "ipc/validate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace ds4::ipc {
namespace {

const RequestLimits kLimits{
    .vocabulary = 100, .context = 1000, .max_requests = 4, .max_stop_tokens = 2};

SubmissionEntry generate() {
  SubmissionEntry entry;
  entry.request_id = 1;
  entry.op = static_cast<std::uint16_t>(Op::kGenerate);
  return entry;
}

SubmissionEntry plain(Op op) {
  SubmissionEntry entry;
  entry.request_id = 1;
  entry.op = static_cast<std::uint16_t>(op);
  entry.top_p = 0;
  return entry;
}

/// The status of the refusal after `change`; kOkStop if there was none.
Status with(SubmissionEntry entry, const std::function<void(SubmissionEntry&)>& change) {
  change(entry);
  const auto refusal = check_fields(entry, kLimits);
  if (!refusal) return Status::kOkStop;
  EXPECT_FALSE(refusal->sentence.empty());
  return refusal->status;
}

TEST(CheckFields, AcceptsTheBoundsThemselves) {
  EXPECT_EQ(with(generate(), [](auto&) {}), Status::kOkStop);
  EXPECT_EQ(with(generate(), [](auto& e) { e.temperature = kMaxTemperature; }), Status::kOkStop);
  EXPECT_EQ(with(generate(), [](auto& e) { e.top_p = 1e-6F; }), Status::kOkStop);
  EXPECT_EQ(with(generate(), [](auto& e) { e.min_p = 0.999F; }), Status::kOkStop);
  EXPECT_EQ(with(generate(), [](auto& e) { e.stop_tokens = 2; }), Status::kOkStop);
  EXPECT_EQ(with(generate(), [](auto& e) { e.flags = kKnownFlags; }), Status::kOkStop);
}

TEST(CheckFields, RefusesNumbersBeyondTheirBounds) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinite = std::numeric_limits<float>::infinity();
  for (const float bad : {-0.1F, kMaxTemperature + 1, nan, infinite, -infinite})
    EXPECT_EQ(with(generate(), [&](auto& e) { e.temperature = bad; }), Status::kInvalid) << bad;
  for (const float bad : {0.0F, -1.0F, 1.5F, nan, infinite})
    EXPECT_EQ(with(generate(), [&](auto& e) { e.top_p = bad; }), Status::kInvalid) << bad;
  for (const float bad : {-0.1F, 1.0F, nan, infinite})
    EXPECT_EQ(with(generate(), [&](auto& e) { e.min_p = bad; }), Status::kInvalid) << bad;
  EXPECT_EQ(with(generate(), [](auto& e) { e.stop_tokens = 3; }), Status::kInvalid);
}

TEST(CheckFields, RefusesWhatOnlyALaterVersionCouldMean) {
  EXPECT_EQ(with(generate(), [](auto& e) { e.flags = kKnownFlags + 1; }), Status::kInvalid);
  EXPECT_EQ(with(generate(), [](auto& e) { e.reserved[63] = 1; }), Status::kInvalid);
  EXPECT_EQ(with(generate(), [](auto& e) { e.op = 0; }), Status::kInvalid);
  EXPECT_EQ(with(generate(), [](auto& e) { e.op = 5; }), Status::kInvalid);
}

TEST(CheckFields, OtherOperationsMayNotSetFieldsTheyDoNotUse) {
  EXPECT_EQ(with(plain(Op::kCancel), [](auto&) {}), Status::kOkStop);
  EXPECT_EQ(with(plain(Op::kCancel), [](auto& e) { e.session_id = 1; }), Status::kInvalid);
  EXPECT_EQ(with(plain(Op::kCancel), [](auto& e) { e.top_p = 1; }), Status::kInvalid);
  EXPECT_EQ(with(plain(Op::kPromptPart), [](auto& e) { e.arena_begin = 5, e.prompt_tokens = 5; }),
            Status::kOkStop);
  EXPECT_EQ(with(plain(Op::kPromptPart), [](auto& e) { e.stop_tokens = 1; }), Status::kInvalid);
  EXPECT_EQ(with(plain(Op::kCloseSession), [](auto& e) { e.session_id = 9; }), Status::kOkStop);
  EXPECT_EQ(with(plain(Op::kCloseSession), [](auto&) {}), Status::kInvalid);
  EXPECT_EQ(with(plain(Op::kCloseSession), [](auto& e) { e.session_id = 9, e.max_tokens = 1; }),
            Status::kInvalid);
}

TEST(CheckTokens, NamesTheFirstTokenOutsideTheVocabulary) {
  const std::vector<std::int32_t> good = {0, 99};
  EXPECT_FALSE(check_tokens(good, 100, "prompt token"));
  for (const std::int32_t bad : {-1, 100, INT32_MIN, INT32_MAX}) {
    const std::vector<std::int32_t> tokens = {1, bad, 200};
    const auto refusal = check_tokens(tokens, 100, "prompt token");
    ASSERT_TRUE(refusal);
    EXPECT_EQ(refusal->status, Status::kOutOfRange);
    EXPECT_NE(refusal->sentence.find("prompt token 1 is " + std::to_string(bad)), std::string::npos)
        << refusal->sentence;
  }
  EXPECT_FALSE(check_tokens({}, 0, "prompt token"));
}

}  // namespace
}  // namespace ds4::ipc
