#pragma once
// Internal to agent/wire: NodeStatus and its parts as JSON, both ways.
#include "agent/wire/control.h"
#include "agent/wire/json_fields.h"

namespace ds4::wire {

Json to_json(const NodeStatus& status);
Json to_json(const CoverReport& cover);
Json to_json(const std::vector<StageSpec>& route);
void read(Fields& fields, NodeStatus& status);
void read_route(Fields& fields, std::vector<StageSpec>& route);

}  // namespace ds4::wire
