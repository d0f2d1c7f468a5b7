#include "engine/cpu/ops.h"

namespace ds4::cpu {

extern const Ops kGenericOps;
#if defined(DS4_X86_KERNELS)
extern const Ops kAvx2Ops;
extern const Ops kAvx512Ops;
#endif

const Ops& ops_for([[maybe_unused]] Isa isa) {
#if defined(DS4_X86_KERNELS)
  if (isa == Isa::kAvx512) return kAvx512Ops;
  if (isa == Isa::kAvx2) return kAvx2Ops;
#endif
  return kGenericOps;
}

}  // namespace ds4::cpu
