// Writes the seed corpus of the GGUF fuzz target: `gguf_corpus tests/fuzz/corpus/gguf`. The files
// are committed; this is how they came to be, and how to add to them.
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include "tests/engine/gguf/gguf_builder.h"

namespace {

using ds4::MetaType;
using ds4::TensorType;
using ds4::test::Bytes;
using ds4::test::ByteWriter;
using ds4::test::GgufBuilder;

class Corpus {
 public:
  explicit Corpus(std::string directory) : directory_(std::move(directory)) {}
  void add(const std::string& name, const Bytes& bytes) const {
    std::ofstream out(directory_ + "/" + name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
    if (!out.flush()) throw std::runtime_error("cannot write " + name);
  }

 private:
  std::string directory_;
};

GgufBuilder every_value() {
  return GgufBuilder()
      .meta("general.architecture", "deepseek4")
      .meta("a", std::uint8_t{1})
      .meta("b", std::int8_t{-1})
      .meta("c", std::uint16_t{2})
      .meta("d", std::int16_t{-2})
      .meta("e", std::uint32_t{3})
      .meta("f", std::int32_t{-3})
      .meta("g", 4.5f)
      .meta("h", true)
      .meta("i", std::uint64_t{5})
      .meta("j", std::int64_t{-5})
      .meta("k", 6.5)
      .meta_array<std::uint32_t>("list", {0, 4, 128})
      .meta_array("texts", {std::string("one"), std::string(), std::string("three")});
}

GgufBuilder every_tensor_type() {
  GgufBuilder builder;
  builder.meta("general.alignment", std::uint32_t{32});
  int layer = 0;
  for (const auto type :
       {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kI32, TensorType::kQ8_0,
        TensorType::kQ4_K, TensorType::kQ2_K, TensorType::kIQ2_XXS, TensorType::kMXFP4}) {
    builder.tensor("blk." + std::to_string(layer++) + ".t.weight", type, {256});
  }
  return builder;
}

void write(const Corpus& corpus) {
  corpus.add("empty_model", GgufBuilder().build());
  corpus.add("version_2", GgufBuilder().version(2).meta("a", 1u).build());
  corpus.add("every_value", every_value().build());
  corpus.add("every_tensor_type", every_tensor_type().build());
  corpus.add("header_only", every_tensor_type().header());
  Bytes cut = every_value().build();
  cut.resize(cut.size() / 2);
  corpus.add("cut_in_metadata", cut);
  cut = every_tensor_type().header();
  cut.resize(cut.size() - 20);
  corpus.add("cut_in_table", cut);
  cut = every_tensor_type().build();
  cut.resize(cut.size() - 1);
  corpus.add("cut_in_data", cut);
  corpus.add("big_endian", GgufBuilder().version(0x03000000).build());
  corpus.add("split", GgufBuilder().meta("split.count", std::uint16_t{3}).build());
  corpus.add("alignment_zero", GgufBuilder().meta("general.alignment", 0u).build());
  corpus.add("alignment_huge", GgufBuilder()
                                   .meta("general.alignment", 1u << 31)
                                   .tensor_at("t", TensorType::kF32, {1}, 1u << 31)
                                   .header());
  corpus.add("huge_counts", GgufBuilder().claim_pairs(UINT64_MAX).claim_tensors(1 << 16).build());
  corpus.add("nested_array", GgufBuilder()
                                 .raw_pair(ByteWriter()
                                               .string("list")
                                               .type(MetaType::kArray)
                                               .type(MetaType::kArray)
                                               .number(std::uint64_t{1}))
                                 .build());
  corpus.add("huge_array", GgufBuilder()
                               .raw_pair(ByteWriter()
                                             .string("list")
                                             .type(MetaType::kArray)
                                             .type(MetaType::kU64)
                                             .number(std::uint64_t{1} << 61))
                               .build());
  corpus.add("offset_near_end",
             GgufBuilder().tensor_at("output.weight", TensorType::kF32, {8}, 0 - 256ull).header());
  corpus.add("dims_overflow",
             GgufBuilder().tensor_at("t", TensorType::kF32, {1ull << 33, 1ull << 33}, 0).header());
  corpus.add("overlap", GgufBuilder()
                            .tensor_at("one", TensorType::kF32, {9}, 0)
                            .tensor_at("two", TensorType::kF32, {8}, 32)
                            .header());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: gguf_corpus DIRECTORY\n");
    return 2;
  }
  try {
    write(Corpus(argv[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gguf_corpus: %s\n", error.what());
    return 1;
  }
  return 0;
}
