#pragma once
// The metadata of a synthetic model: hyper-parameters, and a vocabulary that a byte-level tokenizer
// accepts.
#include <cstdint>

#include "tests/engine/gguf/gguf_builder.h"
#include "tests/tools/synth/dims.h"

namespace ds4::synth {

/// Control tokens and the 256 bytes; and everything that three letters can spell besides.
inline constexpr std::uint32_t kMinVocabulary = 7 + 256;
inline constexpr std::uint32_t kMaxVocabulary = kMinVocabulary + 52 * 52 + 52 * 52 * 52;

void write_metadata(test::GgufBuilder& builder, const Dims& dims);

}  // namespace ds4::synth
