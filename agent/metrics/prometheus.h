#pragma once
#include <string>

#include "agent/wire/control.h"

namespace ds4::agent {

/// A node's status in Prometheus' text format (version 0.0.4): what ds4d(8) lists. Bytes and
/// seconds, totals where there are totals. Pure.
std::string prometheus_text(const wire::NodeStatus& status);

}  // namespace ds4::agent
