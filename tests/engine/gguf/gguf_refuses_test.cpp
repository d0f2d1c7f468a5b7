// What the parser refuses, and that each refusal names the thing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/gguf/gguf.h"
#include "tests/engine/gguf/gguf_builder.h"

namespace ds4 {
namespace {

using test::Bytes;
using test::ByteWriter;
using test::GgufBuilder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kLargeFile = 1ull << 40;  // the bytes given are then only its beginning

template <typename Matcher>
void expect_refused(const Bytes& bytes, std::uint64_t file_bytes, ErrorCode code,
                    const Matcher& message) {
  const auto file = GgufFile::parse(bytes, file_bytes);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().code, code) << file.error().message;
  EXPECT_THAT(file.error().message, message);
}

template <typename Matcher>
void expect_refused(const Bytes& bytes, ErrorCode code, const Matcher& message) {
  expect_refused(bytes, bytes.size(), code, message);
}

TEST(GgufRefuses, AnEmptyFile) {
  expect_refused({}, ErrorCode::kCorrupt, HasSubstr("empty"));
}

TEST(GgufRefuses, AFileOfAnotherKind) {
  expect_refused(ByteWriter().raw("PK\x03\x04 and so on").bytes(), ErrorCode::kCorrupt,
                 AllOf(HasSubstr("not a GGUF file"), HasSubstr("'PK?")));
}

TEST(GgufRefuses, AFileShorterThanItsMagic) {
  expect_refused(ByteWriter().raw("GG").bytes(), ErrorCode::kCorrupt, HasSubstr("magic"));
}

TEST(GgufRefuses, BigEndianFilesOfBothKinds) {
  expect_refused(GgufBuilder().magic("FUGG").build(), ErrorCode::kUnsupported,
                 HasSubstr("big-endian"));
  expect_refused(GgufBuilder().version(0x03000000).build(), ErrorCode::kUnsupported,
                 HasSubstr("big-endian"));
}

TEST(GgufRefuses, OtherVersions) {
  for (const std::uint32_t version : {0u, 1u, 4u}) {
    expect_refused(GgufBuilder().version(version).build(), ErrorCode::kUnsupported,
                   HasSubstr("version " + std::to_string(version)));
  }
}

TEST(GgufRefuses, CountsThatCannotFitIntoTheFile) {
  expect_refused(GgufBuilder().claim_pairs(kMax).build(), ErrorCode::kCorrupt,
                 HasSubstr("metadata pairs"));
  expect_refused(GgufBuilder().claim_tensors(kMax).build(), ErrorCode::kCorrupt,
                 HasSubstr("tensors"));
}

TEST(GgufRefuses, CountsBeyondAnyModelEvenInALargeFile) {
  expect_refused(GgufBuilder().claim_pairs(1u << 20).build(), kLargeFile, ErrorCode::kUnsupported,
                 HasSubstr("1048576 metadata pairs"));
  expect_refused(GgufBuilder().claim_tensors(1u << 20).build(), kLargeFile, ErrorCode::kUnsupported,
                 HasSubstr("1048576 tensors"));
}

TEST(GgufRefuses, NothingButAsksForMoreWhenGivenTooLittle) {
  const GgufBuilder builder = GgufBuilder()
                                  .meta("some.key", "some value")
                                  .meta_array<std::uint32_t>("numbers", {1, 2, 3})
                                  .meta_array("strings", {std::string("x"), std::string("yy")})
                                  .tensor("weights", TensorType::kF32, {2, 2});
  const Bytes header = builder.header();
  const std::uint64_t file_bytes = builder.build().size();
  for (std::size_t given = 0; given < header.size(); ++given) {
    const Bytes part(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(given));
    expect_refused(part, file_bytes, ErrorCode::kOutOfRange, StartsWith("truncated"));
  }
  EXPECT_TRUE(GgufFile::parse(header, file_bytes));
}

TEST(GgufRefuses, AFileThatEndsInsideItsHeader) {
  const Bytes header = GgufBuilder()
                           .meta("some.key", "some value")
                           .tensor("weights", TensorType::kF32, {2, 2})
                           .header();
  for (std::size_t length = 1; length < header.size(); ++length) {
    const Bytes part(header.begin(), header.begin() + static_cast<std::ptrdiff_t>(length));
    expect_refused(part, ErrorCode::kCorrupt, HasSubstr("truncated or damaged"));
  }
}

TEST(GgufRefuses, AFileThatEndsInsideItsTensorsAndSaysWhatIsMissing) {
  Bytes bytes = GgufBuilder()
                    .tensor("blk.0.a", TensorType::kF32, {8})
                    .tensor("blk.1.b", TensorType::kF32, {8})
                    .build();
  bytes.resize(bytes.size() - 5);
  expect_refused(
      bytes, ErrorCode::kCorrupt,
      AllOf(HasSubstr("truncated"), HasSubstr("'blk.1.b'"), HasSubstr("5 bytes are missing")));
}

TEST(GgufRefuses, LengthsThatOverflow) {
  // A key, a string, an array of numbers and one of strings, each of 2^64 - 1.
  const ByteWriter key = ByteWriter().number(kMax);
  const ByteWriter text = ByteWriter().string("k").type(MetaType::kString).number(kMax);
  const ByteWriter numbers =
      ByteWriter().string("k").type(MetaType::kArray).type(MetaType::kU64).number(kMax);
  const ByteWriter strings =
      ByteWriter().string("k").type(MetaType::kArray).type(MetaType::kString).number(kMax);
  expect_refused(GgufBuilder().raw_pair(key).build(), kLargeFile, ErrorCode::kCorrupt,
                 HasSubstr("metadata pair 0"));
  expect_refused(GgufBuilder().raw_pair(text).build(), kLargeFile, ErrorCode::kCorrupt,
                 HasSubstr("'k'"));
  expect_refused(GgufBuilder().raw_pair(numbers).build(), kLargeFile, ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'k'"), HasSubstr("overflow")));
  expect_refused(GgufBuilder().raw_pair(strings).build(), ErrorCode::kCorrupt, HasSubstr("'k'"));
}

TEST(GgufRefuses, UnknownValueTypes) {
  const ByteWriter scalar = ByteWriter().string("k").number(std::uint32_t{13}).number(0ull);
  const ByteWriter array =
      ByteWriter().string("k").type(MetaType::kArray).number(std::uint32_t{99}).number(0ull);
  expect_refused(GgufBuilder().raw_pair(scalar).build(), ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'k'"), HasSubstr("type 13")));
  expect_refused(GgufBuilder().raw_pair(array).build(), ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'k'"), HasSubstr("type 99")));
}

TEST(GgufRefuses, ArraysOfArrays) {
  const ByteWriter nested =
      ByteWriter().string("k").type(MetaType::kArray).type(MetaType::kArray).number(0ull);
  expect_refused(GgufBuilder().raw_pair(nested).build(), ErrorCode::kUnsupported,
                 AllOf(HasSubstr("'k'"), HasSubstr("arrays of arrays")));
}

TEST(GgufRefuses, EmptyAndOversizedNames) {
  expect_refused(GgufBuilder().meta("", "x").build(), ErrorCode::kCorrupt, HasSubstr("key of"));
  expect_refused(GgufBuilder().meta(std::string(65536, 'k'), "x").build(), ErrorCode::kCorrupt,
                 HasSubstr("65536 bytes"));
  expect_refused(GgufBuilder().tensor("", TensorType::kF32, {1}).build(), ErrorCode::kCorrupt,
                 HasSubstr("name of tensor 0"));
  expect_refused(GgufBuilder().tensor(std::string(256, 't'), TensorType::kF32, {1}).build(),
                 ErrorCode::kCorrupt, HasSubstr("name of tensor 0"));
}

TEST(GgufRefuses, TheSameNameTwice) {
  expect_refused(GgufBuilder().meta("k", 1u).meta("k", 1u).build(), ErrorCode::kCorrupt,
                 HasSubstr("key 'k' stands twice"));
  expect_refused(
      GgufBuilder().tensor("t", TensorType::kF32, {1}).tensor("t", TensorType::kF32, {1}).build(),
      ErrorCode::kCorrupt, HasSubstr("tensor 't' stands twice"));
}

TEST(GgufRefuses, SplitFiles) {
  expect_refused(GgufBuilder().meta("split.count", std::uint16_t{3}).build(),
                 ErrorCode::kUnsupported,
                 AllOf(HasSubstr("not supported yet"), HasSubstr("merge it first")));
  const Bytes whole = GgufBuilder().meta("split.count", std::uint16_t{1}).build();
  EXPECT_TRUE(GgufFile::parse(whole, whole.size()));
}

TEST(GgufRefuses, BadAlignments) {
  for (const std::uint32_t alignment : {0u, 3u, 48u}) {
    expect_refused(GgufBuilder().meta("general.alignment", alignment).build(), ErrorCode::kCorrupt,
                   HasSubstr("general.alignment"));
  }
  expect_refused(GgufBuilder().meta("general.alignment", "32").build(), ErrorCode::kCorrupt,
                 HasSubstr("general.alignment"));
}

TEST(GgufRefuses, MisalignedTensors) {
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {1}, 33).build(), kLargeFile,
                 ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("alignment 32")));
}

TEST(GgufRefuses, TensorTypesItDoesNotKnow) {
  expect_refused(GgufBuilder().tensor_at("t", static_cast<TensorType>(14), {256}, 0).build(),
                 kLargeFile, ErrorCode::kUnsupported,
                 AllOf(HasSubstr("'t'"), HasSubstr("type 14")));
}

TEST(GgufRefuses, RowsThatAreNotWholeBlocks) {
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kQ4_K, {128, 2}, 0).build(), kLargeFile,
                 ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("blocks of 256")));
}

TEST(GgufRefuses, DimensionsThatMakeNoTensor) {
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {}, 0).build(), kLargeFile,
                 ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("0 dimensions")));
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {1, 1, 1, 1, 1}, 0).build(),
                 kLargeFile, ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'t'"), HasSubstr("5 dimensions")));
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {4, 0}, 0).build(), kLargeFile,
                 ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("dimension 1 is zero")));
}

TEST(GgufRefuses, SizesThatOverflow) {
  expect_refused(
      GgufBuilder().tensor_at("t", TensorType::kF32, {1ull << 33, 1ull << 33}, 0).build(),
      kLargeFile, ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("overflows")));
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {1ull << 62}, 0).build(),
                 kLargeFile, ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'t'"), HasSubstr("size in bytes overflows")));
}

TEST(GgufRefuses, OffsetsThatOverflow) {
  expect_refused(GgufBuilder().tensor_at("t", TensorType::kF32, {8}, kMax - 31).build(), kMax,
                 ErrorCode::kCorrupt, AllOf(HasSubstr("'t'"), HasSubstr("overflows")));
}

TEST(GgufRefuses, OverlappingTensors) {
  expect_refused(GgufBuilder()
                     .tensor_at("one", TensorType::kF32, {9}, 0)
                     .tensor_at("two", TensorType::kF32, {8}, 32)
                     .build(),
                 kLargeFile, ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'one'"), HasSubstr("'two'"), HasSubstr("overlap")));
}

TEST(GgufRefuses, TensorsThatShareTheirPlace) {
  expect_refused(GgufBuilder()
                     .tensor_at("one", TensorType::kF32, {8}, 64)
                     .tensor_at("two", TensorType::kF32, {8}, 64)
                     .build(),
                 kLargeFile, ErrorCode::kCorrupt, HasSubstr("overlap"));
}

TEST(GgufRefuses, ToPrintControlCharactersOfHostileNames) {
  const auto name = std::string("\x1b[2J\n") + std::string(100, 'x');
  expect_refused(GgufBuilder().tensor_at(name, static_cast<TensorType>(99), {1}, 0).build(),
                 kLargeFile, ErrorCode::kUnsupported,
                 AllOf(HasSubstr("'?[2J?xxx"), HasSubstr("...'")));
}

}  // namespace
}  // namespace ds4
