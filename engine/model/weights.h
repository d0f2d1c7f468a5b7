#pragma once
// A slice's weights by name: matrices as views of the resident file, small vectors as floats.
//
// Every tensor is checked against the hyper-parameters when the slice is made, so that the forward
// pass can rely on shapes, and a wrong file is an error that names the tensor.
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/base/result.h"
#include "engine/cpu/linear.h"
#include "engine/model/hyper_params.h"
#include "engine/residency/resident_slice.h"

namespace ds4 {

/// One hyper-connection: 2 * n + n * n outputs from n streams ({4E,24} before blocks, {4E,4} before
/// the head).
struct HyperConnectionWeights {
  cpu::Matrix fn;
  std::vector<float> base;
  std::vector<float> scale;
};

/// The gated pooling of `ratio` tokens into one row.
struct CompressorWeights {
  cpu::Matrix kv;          // {E, c*D}
  cpu::Matrix gate;        // {E, c*D}
  std::vector<float> ape;  // {c*D, ratio}
  std::vector<float> norm;
};

struct IndexerWeights {
  cpu::Matrix proj;  // {E, heads}
  cpu::Matrix q_b;   // {Q, heads * dim}
  CompressorWeights compressor;
};

/// One expert, or the shared one.
struct ExpertWeights {
  cpu::Matrix gate;  // {E, F}
  cpu::Matrix up;    // {E, F}
  cpu::Matrix down;  // {F, E}
};

struct LayerWeights {
  HyperConnectionWeights hc_attn, hc_ffn;
  std::vector<float> attn_norm, ffn_norm, q_a_norm, kv_a_norm, sinks;
  cpu::Matrix q_a;       // {E, Q}
  cpu::Matrix q_b;       // {Q, H*D}
  cpu::Matrix kv;        // {E, D}
  cpu::Matrix output_a;  // {H*D/G, G*O}
  cpu::Matrix output_b;  // {G*O, E}
  std::optional<CompressorWeights> compressor;
  std::optional<IndexerWeights> indexer;
  cpu::Matrix router;                        // {E, experts}
  std::vector<float> router_bias;            // {experts}, or empty
  const std::byte* token_experts = nullptr;  // {used, V} int32, hash layers only; not aligned
  std::vector<ExpertWeights> experts;
  ExpertWeights shared;
};

struct HeadWeights {
  HyperConnectionWeights hc;
  std::vector<float> norm;
  cpu::Matrix output;  // {E, V}
};

struct Weights {
  std::optional<cpu::Matrix> embedding;  // {E, V}, with layer 0
  std::vector<LayerWeights> layers;      // of the slice's range, first one first
  std::optional<HeadWeights> head;

  /// Errors: kNotFound, or kCorrupt naming the tensor, what was found and what was wanted.
  static Result<Weights> load(const ResidentSlice& slice, const HyperParams& params);
};

}  // namespace ds4
