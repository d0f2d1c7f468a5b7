#pragma once
// A span cover as it travels and as programs read it.
#include "agent/wire/control.h"
#include "engine/residency/span_cover.h"

namespace ds4::wire {

CoverReport report_of(const SpanCover& cover);

}  // namespace ds4::wire
