#include "engine/base/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace ds4 {
namespace {

Result<int> parse_positive(int value) {
  if (value <= 0) return fail(ErrorCode::kInvalidArgument, "not positive");
  return value;
}

Result<int> twice(int value) {
  DS4_ASSIGN(const int parsed, parse_positive(value));
  return 2 * parsed;
}

TEST(Result, AssignPassesValuesAndErrors) {
  EXPECT_EQ(twice(4).value(), 8);
  EXPECT_EQ(twice(0).error().code, ErrorCode::kInvalidArgument);
}

TEST(Result, ContextIsAddedInFront) {
  Error error = Error{ErrorCode::kCorrupt, "beyond end of file"}.in("load blk.3.attn_kv.weight");
  EXPECT_EQ(error.message, "load blk.3.attn_kv.weight: beyond end of file");
  EXPECT_EQ(error.code, ErrorCode::kCorrupt);
}

TEST(Result, ErrnoChoosesCodeAndNamesTheCall) {
  errno = ENOENT;
  auto missing = fail_errno("open /no/such/file");
  EXPECT_EQ(missing.value().code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.value().message, testing::StartsWith("open /no/such/file: No such file"));
}

}  // namespace
}  // namespace ds4
