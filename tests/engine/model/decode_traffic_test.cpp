#include "engine/model/decode_traffic.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "engine/gguf/model_file.h"

namespace ds4 {
namespace {

struct Model {
  std::shared_ptr<const ModelFile> file;
  HyperParams params;

  const GgufFile& gguf() const { return file->gguf(); }
  std::uint64_t bytes(const std::string& name) const {
    const TensorInfo* tensor = gguf().find(name);
    return tensor == nullptr ? 0 : tensor->bytes;
  }
  DecodeTraffic traffic(const LayerRange& range, std::uint32_t position,
                        Graph graph = Graph::kOfficial) const {
    return decode_traffic(gguf(), params, range, graph, position);
  }
};

/// The embedded model: E = 256, V = 4096, 6 layers of ratios 0, 0, 4, 128, 4, 128 of 16 experts,
/// hash layers 0 to 2.
Model tiny() {
  Model model;
  model.file = ModelFile::open(DS4_SOURCE_DIR "/packaging/models/tiny-v4-q4.gguf").value();
  model.params = HyperParams::read(model.gguf()).value();
  return model;
}

constexpr LayerRange kWhole{0, 5, true};
constexpr std::uint32_t kFar = 10000;  // where the indexer has a choice to make

TEST(DecodeTraffic, IsEveryTensorLessWhatATokenLeavesUnread) {
  const Model model = tiny();
  std::uint64_t expected = 0;
  for (const TensorInfo& tensor : model.gguf().tensors()) expected += tensor.bytes;
  expected -= model.bytes("token_embd.weight") / 4096 * 4095;
  for (int layer = 0; layer < 6; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    for (const char* name : {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}) {
      expected -= model.bytes(prefix + name + ".weight") / 16 * 12;
    }
    expected -= model.bytes(prefix + "ffn_gate_tid2eid.weight") / 4096 * 4095;
  }
  EXPECT_EQ(model.traffic(kWhole, kFar).weight_bytes, expected);
}

TEST(DecodeTraffic, OfALayerIsItsSumByHand) {
  const Model model = tiny();
  // Layer 0 has neither compressor nor indexer. Q8_0: 34 bytes for 32 weights; Q4_K: 144 for 256;
  // the embedding is F16.
  const auto q8 = [](std::uint64_t weights) { return weights / 32 * 34; };
  const auto q4 = [](std::uint64_t weights) { return weights / 256 * 144; };
  std::uint64_t q8_weights = 0;
  std::uint64_t other = 0;
  for (const TensorInfo& tensor : model.gguf().tensors()) {
    if (!tensor.name.starts_with("blk.0.")) continue;
    const bool big = tensor.name.find("_exps.") != tensor.name.npos ||
                     tensor.name.find("tid2eid") != tensor.name.npos;
    if (tensor.type == TensorType::kQ8_0) q8_weights += tensor.dims[0] * tensor.dims[1];
    if (!big && tensor.type != TensorType::kQ8_0) other += tensor.bytes;
  }
  const std::uint64_t embedding = 256 * 2;
  const std::uint64_t experts = 4 * 3 * q4(256 * 256);
  const std::uint64_t token_experts = 4 * sizeof(std::int32_t);
  EXPECT_EQ(model.traffic({0, 0, false}, kFar).weight_bytes,
            q8(q8_weights) + other + embedding + experts + token_experts);
}

TEST(DecodeTraffic, OfSlicesAddsUpToThatOfTheModel) {
  const Model model = tiny();
  const DecodeTraffic whole = model.traffic(kWhole, kFar);
  const DecodeTraffic first = model.traffic({0, 2, false}, kFar);
  const DecodeTraffic second = model.traffic({3, 5, true}, kFar);
  EXPECT_EQ(first.weight_bytes + second.weight_bytes, whole.weight_bytes);
  EXPECT_EQ(first.kv_bytes + second.kv_bytes, whole.kv_bytes);
}

TEST(DecodeTraffic, LeavesTheIndexersQueriesOutWhereAllRowsAreAttendedTo) {
  const Model model = tiny();
  std::uint64_t queries = 0;
  for (const char* layer : {"blk.2.", "blk.4."}) {
    for (const char* name : {"indexer.proj.weight", "indexer.attn_q_b.weight"}) {
      EXPECT_GT(model.bytes(std::string(layer) + name), 0);
      queries += model.bytes(std::string(layer) + name);
    }
  }
  // 4 tokens make a compressed row: the first position with one row too many.
  const std::uint32_t first = 4 * (model.params.index_top_k + 1) - 1;
  EXPECT_EQ(model.traffic(kWhole, first).weight_bytes,
            model.traffic(kWhole, first - 1).weight_bytes + queries);
}

TEST(DecodeTraffic, CountsTheCachedRowsThatAreRead) {
  const Model model = tiny();
  const std::uint32_t row = model.params.head_dim * sizeof(float);
  const std::uint32_t index_row = model.params.index_dim * sizeof(float);
  const auto kv = [&](std::uint32_t layer, std::uint32_t position) {
    return model.traffic({layer, layer, false}, position, Graph::kPlain).kv_bytes;
  };
  EXPECT_EQ(kv(0, 0), row);
  EXPECT_EQ(kv(0, kFar), model.params.window * row);
  EXPECT_EQ(kv(2, 19), (20 + 5) * row);
  EXPECT_EQ(kv(2, 9999), (model.params.window + model.params.index_top_k) * row + 2500 * index_row);
  EXPECT_EQ(kv(3, 12799), (model.params.window + 100) * row);
  EXPECT_LT(model.traffic(kWhole, kFar).kv_bytes,
            model.traffic(kWhole, kFar, Graph::kPlain).kv_bytes);
}

}  // namespace
}  // namespace ds4
