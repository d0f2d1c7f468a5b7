#pragma once
// Internal to agent/wire: NodeStatus, NodeOffer and their parts as JSON, both ways.
#include "agent/wire/control.h"
#include "agent/wire/json_fields.h"

namespace ds4::wire {

Json to_json(const NodeStatus& status);
Json to_json(const CoverReport& cover);
Json to_json(const std::vector<StageSpec>& route);
Json to_json(const StageFigures& stage);
Json to_json(const LinkFigures& link);
Json to_json(const ClientFigures& clients);
Json to_json(const NodeOffer& offer);
Json to_json(const ProbeFigures& probe);
void read(Fields& fields, NodeStatus& status);
void read(Fields& fields, StageFigures& stage);
void read(Fields& fields, LinkFigures& link);
void read(Fields& fields, ClientFigures& clients);
void read(Fields& fields, NodeOffer& offer);
void read(Fields& fields, ProbeFigures& probe);
void read_route(Fields& fields, std::vector<StageSpec>& route);

}  // namespace ds4::wire
