// Opening: what is read, what is refused before anything is parsed, and the fingerprint.
#include "engine/gguf/model_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/engine/gguf/gguf_builder.h"
#include "tests/engine/gguf/temp_file.h"

namespace ds4 {
namespace {

using test::Bytes;
using test::GgufBuilder;
using test::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

GgufBuilder small_model() {
  return GgufBuilder()
      .meta("general.name", "small")
      .tensor("a", TensorType::kF32, {16})
      .tensor("b", TensorType::kF32, {5000});
}

template <typename Matcher>
void expect_refused(const std::string& path, ErrorCode code, const Matcher& message) {
  const auto model = ModelFile::open(path);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, code) << model.error().message;
  EXPECT_THAT(model.error().message, AllOf(StartsWith(path), message));
}

std::string fingerprint_of(const std::string& path) {
  const auto model = ModelFile::open(path);
  EXPECT_TRUE(model) << model.error().message;
  return model ? (*model)->fingerprint() : "";
}

TEST(ModelFile, OpensAndKeepsItsDescriptor) {
  const TempDir dir;
  const Bytes bytes = small_model().build();
  const std::string path = dir.write("m.gguf", bytes);
  const auto model = ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ((*model)->path(), path);
  EXPECT_GE((*model)->fd(), 0);
  EXPECT_EQ((*model)->file_bytes(), bytes.size());
  EXPECT_EQ((*model)->gguf().string("general.name").value_or(""), "small");
}

TEST(ModelFile, ReadsHeadersLargerThanItsFirstRead) {
  const TempDir dir;
  const std::string text(3u << 20, 'x');  // beyond two doublings of 1 MiB
  const std::string path = dir.write(
      "m.gguf", GgufBuilder().meta("long", text).tensor("t", TensorType::kF32, {4}).build());
  const auto model = ModelFile::open(path);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ((*model)->gguf().string("long").value_or(""), text);
  EXPECT_NE((*model)->gguf().find("t"), nullptr);
}

TEST(ModelFile, MetadataImageIsAModelWithoutTensors) {
  const TempDir dir;
  const auto model = ModelFile::open(dir.write("m.gguf", small_model().build()));
  ASSERT_TRUE(model) << model.error().message;
  const Bytes image = (*model)->metadata_image();
  const auto parsed = GgufFile::parse(image, image.size());
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->string("general.name").value_or(""), "small");
  EXPECT_TRUE(parsed->tensors().empty());
}

TEST(ModelFile, FingerprintIsOfTheContentsAndNotOfTheName) {
  const TempDir dir;
  const std::string one = fingerprint_of(dir.write("one.gguf", small_model().build()));
  const std::string two = fingerprint_of(dir.write("two.gguf", small_model().build()));
  EXPECT_THAT(one, MatchesRegex("[0-9a-f]+"));
  EXPECT_EQ(one.size(), 32u);
  EXPECT_EQ(one, two);
}

TEST(ModelFile, FingerprintTellsHeadersSizesAndWeightsApart) {
  const TempDir dir;
  const Bytes original = small_model().build();
  const std::string fingerprint = fingerprint_of(dir.write("original.gguf", original));

  Bytes longer = original;
  longer.resize(longer.size() + 32);
  EXPECT_NE(fingerprint, fingerprint_of(dir.write("longer.gguf", longer)));

  const Bytes renamed = GgufBuilder()
                            .meta("general.name", "smell")
                            .tensor("a", TensorType::kF32, {16})
                            .tensor("b", TensorType::kF32, {5000})
                            .build();
  EXPECT_NE(fingerprint, fingerprint_of(dir.write("renamed.gguf", renamed)));

  const auto parsed = GgufFile::parse(original, original.size());
  ASSERT_TRUE(parsed);
  for (const auto* tensor : {"a", "b"}) {
    Bytes changed = original;
    changed[parsed->find(tensor)->offset] ^= std::byte{1};
    EXPECT_NE(fingerprint, fingerprint_of(dir.write("changed.gguf", changed))) << tensor;
  }
}

TEST(ModelFile, RefusesWhatIsNotThere) {
  const TempDir dir;
  expect_refused(dir.file("absent.gguf"), ErrorCode::kNotFound, HasSubstr("No such file"));
}

TEST(ModelFile, RefusesADirectory) {
  const TempDir dir;
  expect_refused(dir.path(), ErrorCode::kInvalidArgument, HasSubstr("a directory"));
}

TEST(ModelFile, RefusesAPipeWithoutWaitingForIt) {
  const TempDir dir;
  const std::string path = dir.file("pipe.gguf");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  expect_refused(path, ErrorCode::kInvalidArgument, HasSubstr("not a regular file"));
}

TEST(ModelFile, RefusesAnEmptyFile) {
  const TempDir dir;
  expect_refused(dir.write("m.gguf", {}), ErrorCode::kCorrupt, HasSubstr("empty"));
}

TEST(ModelFile, RefusesPartsOfASplitModelByTheirName) {
  const TempDir dir;
  const Bytes bytes = small_model().build();
  expect_refused(dir.write("m-00002-of-00003.gguf", bytes), ErrorCode::kUnsupported,
                 AllOf(HasSubstr("part 00002 of 00003"), HasSubstr("not supported yet"),
                       HasSubstr("merge it first")));
  EXPECT_TRUE(ModelFile::open(dir.write("m-00001-of-00001.gguf", bytes)));
  EXPECT_TRUE(ModelFile::open(dir.write("m-0001-of-00003.gguf", bytes)));
  EXPECT_TRUE(ModelFile::open(dir.write("-of-00003.gguf", bytes)));
}

TEST(ModelFile, TellsATruncatedFileFromAHeaderNotYetRead) {
  const TempDir dir;
  // Ends inside its header, but behind the first read.
  Bytes bytes = GgufBuilder().meta("long", std::string(3u << 20, 'x')).build();
  bytes.resize(2u << 20);
  expect_refused(dir.write("header.gguf", bytes), ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'long'"), HasSubstr("truncated")));
  Bytes weights = small_model().build();
  weights.resize(weights.size() - 1000);
  expect_refused(dir.write("weights.gguf", weights), ErrorCode::kCorrupt,
                 AllOf(HasSubstr("'b'"), HasSubstr("bytes are missing")));
}

TEST(ModelFile, RefusesAHeaderThatNeverEnds) {
  // A sparse file whose string claims most of 8 GiB: found out after the bound, not after 8 GiB.
  const TempDir dir;
  const test::ByteWriter pair =
      test::ByteWriter().string("k").type(MetaType::kString).number(std::uint64_t{7} << 30);
  const std::string path = dir.write("m.gguf", GgufBuilder().raw_pair(pair).build());
  ASSERT_EQ(::truncate(path.c_str(), off_t{8} << 30), 0);
  expect_refused(path, ErrorCode::kUnsupported, HasSubstr("larger than"));
}

}  // namespace
}  // namespace ds4
