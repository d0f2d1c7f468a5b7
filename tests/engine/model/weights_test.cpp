// Making a slice of files whose tensors are not what the metadata says.
#include "engine/model/weights.h"

#include <gmock/gmock.h>

#include <cstring>

#include "engine/gguf/model_file.h"
#include "engine/model/cpu_slice.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/model/micro_model.h"

namespace ds4::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

using Edit = std::function<bool(MicroTensor&)>;

Result<std::unique_ptr<Slice>> make(const Edit& edit, const char* range = "0:output",
                                    const MicroMetadata& metadata = {}) {
  const TempDir dir;
  DS4_ASSIGN(const auto file,
             ModelFile::open(dir.write("micro.gguf", micro_model(metadata, edit))));
  DS4_ASSIGN(const LayerRange layers, LayerRange::parse(range, 5));
  LoadOptions load;
  load.lock = false;
  DS4_ASSIGN(auto resident, ResidentSlice::load(file, layers, load));
  CpuSliceOptions options;
  options.max_rows = 4;
  return make_cpu_slice(std::move(resident), options);
}

Edit change(std::string name, std::function<void(MicroTensor&)> how) {
  return [=](MicroTensor& tensor) {
    if (tensor.name == name) how(tensor);
    return true;
  };
}

Edit leave_out(std::string name) {
  return [=](MicroTensor& tensor) { return tensor.name != name; };
}

void expect_error(const Result<std::unique_ptr<Slice>>& slice, ErrorCode code,
                  const testing::Matcher<std::string>& message) {
  ASSERT_FALSE(slice);
  EXPECT_EQ(slice.error().code, code) << slice.error().message;
  EXPECT_THAT(slice.error().message, message);
}

TEST(Weights, AWellFormedFileMakesASlice) {
  const auto slice = make({});
  ASSERT_TRUE(slice) << slice.error().message;
  EXPECT_EQ((*slice)->params().n_layer, 5u);
  EXPECT_EQ((*slice)->range().to_string(), "0:output");
}

TEST(Weights, NamesATensorThatIsMissing) {
  for (const char* name : {"token_embd.weight", "output.weight", "output_hc_fn.weight",
                           "blk.0.ffn_gate_tid2eid.weight", "blk.0.indexer.proj.weight",
                           "blk.2.attn_compressor_ape.weight", "blk.4.attn_sinks.weight",
                           "blk.1.ffn_down_exps.weight", "blk.3.hc_ffn_scale.weight"})
    expect_error(make(leave_out(name)), ErrorCode::kNotFound, HasSubstr(name));
}

TEST(Weights, OtherLayersTensorsAreNotMissed) {
  EXPECT_TRUE(make(leave_out("blk.0.attn_kv.weight"), "1:output"));
  EXPECT_TRUE(make(leave_out("output.weight"), "0:3"));
  EXPECT_TRUE(make(leave_out("token_embd.weight"), "1:output"));
}

TEST(Weights, TheExpertBiasMayBeAbsent) {
  EXPECT_TRUE(make(leave_out("blk.3.exp_probs_b.bias")));
}

TEST(Weights, NamesFoundAndWantedShapes) {
  expect_error(make(change("blk.1.attn_q_b.weight",
                           [](MicroTensor& t) { std::swap(t.dims[0], t.dims[1]); })),
               ErrorCode::kCorrupt,
               AllOf(HasSubstr("blk.1.attn_q_b.weight"), HasSubstr("F32 {384,32}"),
                     HasSubstr("{32,384,1}")));
  expect_error(make(change("blk.2.ffn_up_exps.weight",
                           [](MicroTensor& t) {
                             t.dims[2] -= 1;
                             t.data.resize(t.data.size() / 5 * 4);
                           })),
               ErrorCode::kCorrupt, HasSubstr("blk.2.ffn_up_exps.weight"));
  expect_error(make(change("blk.0.attn_norm.weight",
                           [](MicroTensor& t) {
                             t.dims = {8, 8};
                           })),
               ErrorCode::kCorrupt, HasSubstr("F32 {8,8}"));
}

TEST(Weights, MatricesMustHoldWeights) {
  expect_error(
      make(change("blk.1.attn_kv.weight", [](MicroTensor& t) { t.type = TensorType::kI32; })),
      ErrorCode::kCorrupt, AllOf(HasSubstr("blk.1.attn_kv.weight"), HasSubstr("I32")));
  expect_error(make(change("blk.0.ffn_gate_tid2eid.weight",
                           [](MicroTensor& t) { t.type = TensorType::kF32; })),
               ErrorCode::kCorrupt, HasSubstr("I32"));
}

TEST(Weights, ExpertNumbersAreCheckedAtLoad) {
  for (const std::int32_t number : {5, -1}) {
    const auto slice = make(change("blk.0.ffn_gate_tid2eid.weight", [&](MicroTensor& t) {
      std::memcpy(t.data.data() + 4 * (2 * 17 + 1), &number, sizeof number);
    }));
    expect_error(slice, ErrorCode::kCorrupt,
                 HasSubstr("token 17 to expert " + std::to_string(number) + " of 5"));
  }
}

TEST(MakeCpuSlice, RefusesRowLengthsItsVectorsDoNotFit) {
  const auto metadata = MicroMetadata().set("attention.q_lora_rank", 40u);
  expect_error(make({}, "0:output", metadata), ErrorCode::kUnsupported,
               AllOf(HasSubstr("multiples of 16"), HasSubstr("40")));
}

}  // namespace
}  // namespace ds4::test
