#pragma once
// A slice's weights as the kernels take them: matrices where they lie on the device, small vectors
// as floats of their own. Everything is checked against the hyper-parameters once, here.
#include <memory>
#include <optional>
#include <vector>

#include "engine/cuda/device_buffer.h"
#include "engine/cuda/kernels/launch.h"
#include "engine/cuda/plugin.h"

namespace ds4::cuda {

/// Where tensors come from. CudaWeights is one such place; tests and benchmarks have others.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const ModelFile& model() const = 0;
  virtual const LayerRange& range() const = 0;
  virtual int device() const = 0;
  /// Else they lie in the host's, registered with the driver.
  virtual bool in_device_memory() const = 0;
  virtual Result<DeviceTensor> tensor(std::string_view name) const = 0;
  virtual Result<void> read_back(std::string_view name, std::uint64_t offset,
                                 std::span<std::byte> out) const = 0;
};

struct CompressorWeightsOnDevice {
  DeviceMatrix kv, gate;
  const float* ape = nullptr;
  const float* norm = nullptr;
};

struct LayerWeightsOnDevice {
  std::uint32_t ratio = 0;
  float swiglu_limit = 0;
  HyperConnection hc_attn, hc_ffn;
  const float *attn_norm = nullptr, *ffn_norm = nullptr, *q_a_norm = nullptr, *kv_a_norm = nullptr,
              *sinks = nullptr;
  DeviceMatrix q_a, q_b, kv, output_a, output_b;
  CompressorWeightsOnDevice compressor;        // ratio != 0
  DeviceMatrix index_proj, index_q_b;          // ratio 4
  CompressorWeightsOnDevice index_compressor;  // ratio 4
  DeviceMatrix router;
  const float* router_bias = nullptr;           // null: none
  const std::int32_t* token_experts = nullptr;  // hash layers
  ExpertStack gate, up, down;
  DeviceMatrix shared_gate, shared_up, shared_down;

  bool has_index() const { return ratio == 4; }
};

class SliceWeights {
 public:
  /// Errors: kNotFound, kCorrupt (naming the tensor, what was found and what was wanted),
  /// kUnsupported, kResourceExhausted.
  static Result<SliceWeights> load(const TensorSource& source, const HyperParams& params);

  std::optional<DeviceMatrix> embedding;
  std::vector<LayerWeightsOnDevice> layers;
  struct Head {
    HyperConnection hc;
    const float* norm = nullptr;
    DeviceMatrix output;
  };
  std::optional<Head> head;
  std::uint64_t own_bytes() const;  // of device memory, beside the tensors

 private:
  friend class WeightsLoader;
  std::vector<DeviceBuffer<float>> floats_;
};

}  // namespace ds4::cuda
