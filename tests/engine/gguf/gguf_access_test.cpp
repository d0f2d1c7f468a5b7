// Typed access to metadata.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/gguf/gguf.h"
#include "tests/engine/gguf/gguf_builder.h"

namespace ds4 {
namespace {

using test::Bytes;
using test::GgufBuilder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Owns the bytes that the views point into.
struct Parsed {
  explicit Parsed(const GgufBuilder& builder) : bytes(builder.build()) {
    auto result = GgufFile::parse(bytes, bytes.size());
    if (result) file = std::move(*result);
  }
  Bytes bytes;
  GgufFile file;
};

template <typename T, typename Matcher>
void expect_error(const Result<T>& result, ErrorCode code, const Matcher& message) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, code);
  EXPECT_THAT(result.error().message, message);
}

TEST(GgufAccess, TakesAnyIntegerTypeThatHoldsTheValue) {
  const Parsed parsed(GgufBuilder()
                          .meta("u8", std::uint8_t{7})
                          .meta("i8", std::int8_t{7})
                          .meta("u16", std::uint16_t{7})
                          .meta("i16", std::int16_t{7})
                          .meta("u32", std::uint32_t{7})
                          .meta("i32", std::int32_t{7})
                          .meta("u64", std::uint64_t{7})
                          .meta("i64", std::int64_t{7}));
  for (const auto* key : {"u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"}) {
    EXPECT_EQ(parsed.file.u64(key).value_or(0), 7u) << key;
    EXPECT_EQ(parsed.file.u32(key).value_or(0), 7u) << key;
  }
}

TEST(GgufAccess, RefusesIntegersThatDoNotFit) {
  const Parsed parsed(GgufBuilder()
                          .meta("negative", std::int32_t{-1})
                          .meta("large", std::uint64_t{1} << 32)
                          .meta("largest", UINT64_MAX));
  expect_error(parsed.file.u64("negative"), ErrorCode::kCorrupt,
               AllOf(HasSubstr("'negative'"), HasSubstr("-1")));
  expect_error(parsed.file.u32("large"), ErrorCode::kCorrupt,
               AllOf(HasSubstr("'large'"), HasSubstr("32 bits")));
  EXPECT_EQ(parsed.file.u64("largest").value_or(0), UINT64_MAX);
}

TEST(GgufAccess, ReadsFloatsOfBothWidths) {
  const Parsed parsed(GgufBuilder().meta("f32", 1.5f).meta("f64", 2.5));
  EXPECT_EQ(parsed.file.f32("f32").value_or(0), 1.5f);
  EXPECT_EQ(parsed.file.f32("f64").value_or(0), 2.5f);
}

TEST(GgufAccess, ReadsBoolsAndRefusesOtherBytes) {
  const Parsed parsed(
      GgufBuilder()
          .meta("yes", true)
          .meta("no", false)
          .raw_pair(
              test::ByteWriter().string("maybe").type(MetaType::kBool).number(std::uint8_t{2})));
  EXPECT_TRUE(parsed.file.boolean("yes").value_or(false));
  EXPECT_FALSE(parsed.file.boolean("no").value_or(true));
  expect_error(parsed.file.boolean("maybe"), ErrorCode::kCorrupt, HasSubstr("'maybe'"));
}

TEST(GgufAccess, ReadsStringsWithAnyBytes) {
  const Parsed parsed(GgufBuilder().meta("text", std::string_view("a\0\xff", 3)).meta("none", ""));
  EXPECT_EQ(parsed.file.string("text").value_or(""), std::string_view("a\0\xff", 3));
  EXPECT_EQ(parsed.file.string("none").value_or("?"), "");
}

TEST(GgufAccess, ReadsArrays) {
  const Parsed parsed(
      GgufBuilder()
          .meta_array<std::int32_t>("ints", {0, 4, 128})
          .meta_array<float>("floats", {0.5f, -1.0f})
          .meta_array("texts", {std::string("a"), std::string(), std::string("ccc")})
          .meta_array<std::uint8_t>("none", {}));
  EXPECT_THAT(parsed.file.u32_array("ints").value(), ElementsAre(0u, 4u, 128u));
  EXPECT_THAT(parsed.file.f32_array("floats").value(), ElementsAre(0.5f, -1.0f));
  EXPECT_THAT(parsed.file.string_array("texts").value(), ElementsAre("a", "", "ccc"));
  EXPECT_TRUE(parsed.file.u32_array("none").value().empty());
}

TEST(GgufAccess, RefusesAnArrayWithAnElementThatDoesNotFit) {
  const Parsed parsed(GgufBuilder()
                          .meta_array<std::int32_t>("signed", {1, -2})
                          .meta_array<std::uint64_t>("wide", {1, 1ull << 40}));
  expect_error(parsed.file.u32_array("signed"), ErrorCode::kCorrupt, HasSubstr("'signed'"));
  expect_error(parsed.file.u32_array("wide"), ErrorCode::kCorrupt, HasSubstr("'wide'"));
}

TEST(GgufAccess, NamesTheAbsentKey) {
  const Parsed parsed(GgufBuilder().meta("present", 1u));
  EXPECT_TRUE(parsed.file.has("present"));
  EXPECT_FALSE(parsed.file.has("absent"));
  const auto absent = AllOf(HasSubstr("no key"), HasSubstr("'absent'"));
  expect_error(parsed.file.u64("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.u32("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.f32("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.boolean("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.string("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.u32_array("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.f32_array("absent"), ErrorCode::kNotFound, absent);
  expect_error(parsed.file.string_array("absent"), ErrorCode::kNotFound, absent);
}

TEST(GgufAccess, NamesTheKeyAndBothTypesWhenTheyDiffer) {
  const Parsed parsed(
      GgufBuilder().meta("text", "x").meta("number", 1u).meta_array<std::uint32_t>("list", {1}));
  const auto mismatch = [](auto key, auto wanted, auto found) {
    return AllOf(HasSubstr(key), HasSubstr(wanted), HasSubstr(found));
  };
  expect_error(parsed.file.u64("text"), ErrorCode::kCorrupt,
               mismatch("'text'", "integer", "string"));
  expect_error(parsed.file.f32("number"), ErrorCode::kCorrupt,
               mismatch("'number'", "float", "u32"));
  expect_error(parsed.file.boolean("number"), ErrorCode::kCorrupt,
               mismatch("'number'", "bool", "u32"));
  expect_error(parsed.file.string("number"), ErrorCode::kCorrupt,
               mismatch("'number'", "string", "u32"));
  expect_error(parsed.file.u32("list"), ErrorCode::kCorrupt,
               mismatch("'list'", "single value", "array"));
  expect_error(parsed.file.u32_array("number"), ErrorCode::kCorrupt,
               mismatch("'number'", "array", "u32"));
  expect_error(parsed.file.f32_array("list"), ErrorCode::kCorrupt,
               mismatch("'list'", "float", "u32"));
  expect_error(parsed.file.string_array("list"), ErrorCode::kCorrupt,
               mismatch("'list'", "strings", "u32"));
}

}  // namespace
}  // namespace ds4
