#pragma once
// A plan as a person reads it and as a program does; pure.
#include <string>

#include "ctl/ds4ctl/planner.h"

namespace ds4::ctl {

/// A table with one line a stage, what it comes to, why each boundary is where it is, what was
/// assumed, and the command that applies it.
std::string plan_text(const PlanInput& input, const RoutePlan& plan);

/// One object: "stages", "links" (all that were measured), "slowest_ms", "token_ms", "reasons",
/// "notes". Times that are not known are null.
std::string plan_json(const PlanInput& input, const RoutePlan& plan, int indent);

}  // namespace ds4::ctl
