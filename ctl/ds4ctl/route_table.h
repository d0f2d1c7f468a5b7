#pragma once
// `ds4ctl status --route` as text and as JSON; pure.
#include <string>

#include "ctl/common/text_table.h"
#include "ctl/ds4ctl/route_figures.h"

namespace ds4::ctl {

/// One row for each hop; ds4ctl(1) explains the columns.
TextTable hop_table(const RouteFigures& figures);

/// The state of the route in a line, then the table.
std::string route_text(const RouteFigures& figures);

/// {"epoch":N,"tokens_s":X,"prefill_tokens_s":X,"hops":[...]}: each hop with its rates and with the
/// totals they are made of; null where something is not known.
std::string route_json(const RouteFigures& figures, int indent);

/// True if every node of the route has answered; false if there is no route.
bool all_hops_answer(const RouteFigures& figures);

// How figures are written in both views.
std::string share_text(double share);           // "53 %"
std::string milliseconds_text(double time_ms);  // "0.12 ms"
std::string rate_text(double per_second);       // "153.2"

}  // namespace ds4::ctl
