#pragma once
// Which instruction set the kernels use. Chosen once, at start.
#include <optional>
#include <string_view>

namespace ds4::cpu {

enum class Isa {
  kScalar,  // any machine; the reference that the others must equal
  kAvx2,    // AVX2, FMA, F16C
  kAvx512,  // AVX-512 F, BW, DQ, VL, VNNI and VBMI: Ice Lake, Zen 4 and later
};

std::string_view to_string(Isa isa);
std::optional<Isa> parse_isa(std::string_view text);

/// True when this build holds kernels for `isa` and this machine can run them.
bool is_supported(Isa isa);

/// The fastest supported instruction set, or the one that the environment variable DS4_ISA names
/// (scalar, avx2, avx512) if it is supported.
Isa choose_isa();

}  // namespace ds4::cpu
