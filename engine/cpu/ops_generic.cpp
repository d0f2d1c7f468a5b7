// The vector operations, compiled for one instruction set (see the flags in ops.cmake).
#include "engine/cpu/ops_table.h"

namespace ds4::cpu {

extern const Ops kGenericOps;
constinit const Ops kGenericOps = make_ops();

}  // namespace ds4::cpu
