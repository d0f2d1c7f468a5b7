#pragma once
// What the nodes hold, told to a person: the state of things in one sentence, and the proof of it
// interval by interval. Pure.
#include <span>
#include <string>

#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {

/// One line: what works, or the first thing that does not. "ready: 2 nodes hold layers 0:2 and
/// 3:output, 5.00 MiB in memory, all of it locked, nothing outside their layers".
std::string status_sentence(std::span<const NodeView> views);

/// For each node how its weights came and what they take, and a line for every interval of its
/// cover: planned, mapped, in core, locked, registered, on the device.
std::string spans_text(std::span<const NodeView> views);

}  // namespace ds4::ctl
