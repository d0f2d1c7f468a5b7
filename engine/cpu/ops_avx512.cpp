// The vector operations, compiled for one instruction set (see the flags in ops.cmake).
#include "engine/cpu/ops_table.h"

namespace ds4::cpu {

extern const Ops kAvx512Ops;
constinit const Ops kAvx512Ops = make_ops();

}  // namespace ds4::cpu
