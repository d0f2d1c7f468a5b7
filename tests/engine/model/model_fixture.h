#pragma once
// Slices of the embedded models, the reference vectors, and the figures by which they are compared.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/gguf/model_file.h"
#include "engine/model/cpu_slice.h"

namespace ds4::test {

inline constexpr std::uint32_t kLayers = 6;  // of every embedded model

/// With a check per access (and kernels that keep their loops, see blocks_x86.h) a token takes 30
/// times as long. Such builds look for bad accesses, which shorter inputs find as well: they leave
/// out repetitions that run no other code.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsChecked = true;
#else
inline constexpr bool kIsChecked = false;
#endif

/// The resident slice of one of the embedded models ("q4", "q2", "mxfp4"). `range` as in
/// `0:output`. Loaded once per (model, range) and shared by the tests of a binary.
std::shared_ptr<const ResidentSlice> resident(const std::string& model, const std::string& range);

/// A slice over resident(); fails the test on an error.
std::unique_ptr<Slice> make_slice(const std::string& model, const std::string& range,
                                  const CpuSliceOptions& options);

inline CpuSliceOptions exact(Graph graph = Graph::kPlain) {
  CpuSliceOptions options;
  options.graph = graph;
  options.precision = cpu::Precision::kExact;
  options.threads = 2;
  return options;
}

inline CpuSliceOptions fast(Graph graph = Graph::kPlain) {
  CpuSliceOptions options = exact(graph);
  options.precision = cpu::Precision::kFast;
  return options;
}

/// One case of a vectors file. `top_ids` is {positions, 4}.
struct Case {
  std::string name;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> greedy;
  std::vector<float> last_logits;
  std::vector<std::int32_t> top_ids;
  std::vector<std::vector<float>> streams_before_layer;  // at the last position
};

/// `name` as in "q4.plain".
std::vector<Case> read_vectors(const std::string& name);
Case read_case(const std::string& vectors, const std::string& name);

/// Runs `tokens` as one session through stages that hold the whole model between them, `chunk`
/// tokens a call; returns the logits of all positions, {positions, n_vocab}.
std::vector<float> run_tokens(std::span<const std::unique_ptr<Slice>> stages,
                              std::span<const std::int32_t> tokens, std::uint32_t chunk,
                              SessionId session = 1);
std::vector<float> run_tokens(const std::unique_ptr<Slice>& whole,
                              std::span<const std::int32_t> tokens, std::uint32_t chunk,
                              SessionId session = 1);

/// |a - b| / |b|.
double relative_l2(std::span<const float> a, std::span<const float> b);

/// True when the two hold the same bits.
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace ds4::test
