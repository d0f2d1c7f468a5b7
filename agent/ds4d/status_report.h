#pragma once
// What `ds4ctl status` shows of this node. Residency is the kernel's account, asked for when the
// report is made.
#include <chrono>
#include <cstdint>
#include <string>

#include "agent/route/route_machine.h"
#include "agent/stage/stage.h"
#include "agent/wire/control.h"
#include "engine/residency/residence.h"
#include "engine/residency/span_cover.h"

namespace ds4::agent {

/// Asks the kernel about the same slice only as often as keeps the asking below a twentieth of the
/// time: mincore(2) over 100 GiB takes a good part of a second, and somebody may be watching.
class ResidencyReporter {
 public:
  /// `audit` false: only if these weights were never looked at.
  wire::ResidentReport report(const Residence& weights, bool audit);

 private:
  const Residence* weights_ = nullptr;  // compared, not used
  wire::ResidentReport last_;
  std::chrono::steady_clock::time_point next_{};
};

struct StatusInputs {
  const NodeFacts& facts;
  const RouteMachine& machine;
  const Residence* weights = nullptr;  // that serve, else that are prepared
  const SpanCover* cover = nullptr;    // of these, or of those being loaded
  const Stage* stage = nullptr;
  bool spans = false;  // each interval of the residence as well
  bool audit = true;   // as of StatusRequest
  std::string kv_formula = {};
  wire::LoadProgress load = {};
};

wire::NodeStatus report_status(const StatusInputs& inputs, ResidencyReporter& residency);

}  // namespace ds4::agent
