#pragma once
#include <functional>

#include "ctl/ds4ctl/assign_machine.h"
#include "ctl/ds4ctl/control_client.h"

namespace ds4::ctl {

/// Runs the machine to its end over `transport`: sends, receives, ticks, and passes on Ctrl-C.
/// `on_progress` sees every change. Returns the machine's outcome.
Result<void> drive_assignment(
    AssignMachine& machine, ControlTransport& transport,
    const std::function<void(const std::vector<NodeProgress>&)>& on_progress);

}  // namespace ds4::ctl
