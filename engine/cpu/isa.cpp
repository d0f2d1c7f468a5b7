#include "engine/cpu/isa.h"

#include <cstdlib>

namespace ds4::cpu {
namespace {

bool machine_has(Isa isa) {
#if defined(DS4_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx512:
      return avx2 && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
             __builtin_cpu_supports("avx512vbmi");
  }
  return false;
#else
  return isa == Isa::kScalar;
#endif
}

}  // namespace

std::string_view to_string(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::optional<Isa> parse_isa(std::string_view text) {
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (text == to_string(isa)) return isa;
  }
  return std::nullopt;
}

bool is_supported(Isa isa) {
  return machine_has(isa);
}

Isa choose_isa() {
  if (const char* wish = std::getenv("DS4_ISA")) {
    if (const auto isa = parse_isa(wish); isa && is_supported(*isa)) return *isa;
  }
  for (const Isa isa : {Isa::kAvx512, Isa::kAvx2}) {
    if (is_supported(isa)) return isa;
  }
  return Isa::kScalar;
}

}  // namespace ds4::cpu
