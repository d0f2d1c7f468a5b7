#pragma once
// The model once more, as plainly as its description can be put into code: whole sequences, double
// precision, no cache, no batches, no vectors. Slow, and shares nothing with the engine but the
// GGUF parser.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/gguf/gguf.h"
#include "engine/model/hyper_params.h"

namespace ds4::test {

class NaiveModel {
 public:
  /// `file` must hold F32 (and I32) tensors only and stay alive.
  explicit NaiveModel(std::span<const std::byte> file);

  /// {positions, n_vocab}.
  std::vector<float> logits(std::span<const std::int32_t> tokens, Graph graph) const;

 private:
  using Row = std::vector<double>;
  using Matrix = std::vector<Row>;  // rows of outputs

  Matrix matrix(const std::string& name, std::size_t slab = 0) const;
  Row vector(const std::string& name) const;
  std::vector<std::int32_t> numbers(const std::string& name) const;

  struct Mix;
  Mix mix(const std::string& name, const Matrix& streams) const;
  Matrix attention(std::uint32_t layer, const Matrix& x, Graph graph) const;
  Matrix compress(const std::string& name, const Matrix& x, std::uint32_t dim,
                  std::uint32_t ratio) const;
  std::vector<std::uint32_t> visible(std::uint32_t layer, const Row& x, const Row& qr,
                                     std::uint32_t position, const Matrix& keys, Graph graph) const;
  Row experts(std::uint32_t layer, const Row& x, std::int32_t token) const;
  void rope(Row& row, std::uint32_t position, std::uint32_t layer, bool back = false) const;

  std::span<const std::byte> bytes_;
  GgufFile file_;
  HyperParams hp_;
};

}  // namespace ds4::test
