#include "agent/ds4d/status_report.h"

#include "agent/ds4d/version.h"
#include "agent/loader/cgroup_memory.h"
#include "agent/log/log.h"
#include "agent/wire/cover_report.h"

namespace ds4::agent {

namespace {

std::uint64_t microseconds(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time / std::chrono::microseconds(1));
}

void put_figures(const Residence& weights, wire::ResidentReport& report) {
  const LoadFigures& figures = weights.figures();
  report.strategy = weights.strategy();
  report.note = weights.note();
  report.load_peak_bytes = figures.peak_rss_bytes;
  report.read_bytes = figures.read_bytes;
  report.kept_bytes = figures.kept_bytes;
  report.adopted_bytes = figures.adopted_bytes;
  report.load_us = microseconds(figures.took);
  report.group_peak_bytes = read_cgroup_memory().peak_bytes.value_or(0);
}

void put_audit(const Residency& audit, wire::ResidentReport& report) {
  report.mapped_bytes = audit.mapped_bytes;
  report.incore_bytes = audit.incore_bytes;
  report.locked_bytes = audit.locked_bytes;
  report.registered_bytes = audit.registered_bytes;
  report.device_bytes = audit.device_bytes;
  report.outside_cover_bytes = audit.outside_cover_bytes;
  for (const IntervalResidency& one : audit.intervals) {
    report.intervals.push_back({one.planned.begin, one.planned.bytes(), one.mapped_bytes,
                                one.incore_bytes, one.locked_bytes, one.registered_bytes,
                                one.device_bytes});
  }
}

}  // namespace

wire::ResidentReport ResidencyReporter::report(const Residence& weights, bool audit) {
  const auto begin = std::chrono::steady_clock::now();
  if (&weights == weights_ && (!audit || begin < next_)) return last_;
  last_ = {};
  put_figures(weights, last_);
  if (const auto found = weights.audit()) {
    put_audit(*found, last_);
  } else {
    log(LogLevel::kWarning, "residency cannot be audited: {}", found.error().message);
  }
  const auto end = std::chrono::steady_clock::now();
  next_ = end + 20 * (end - begin);
  weights_ = &weights;
  return last_;
}

wire::NodeStatus report_status(const StatusInputs& inputs, ResidencyReporter& residency) {
  const RouteMachine& machine = inputs.machine;
  wire::NodeStatus status;
  status.name = inputs.facts.name;
  status.state = machine.state();
  status.detail = machine.detail();
  status.version = kVersion;
  status.model = inputs.facts.model;
  status.fingerprint = inputs.facts.fingerprint;
  status.block_count = inputs.facts.block_count;
  status.highest_epoch = machine.ledger().highest_epoch;
  status.preparation = machine.preparation();
  status.load = inputs.load;
  if (const Assignment* committed = machine.committed()) {
    status.layers = committed->own().layers;
    status.epoch = committed->epoch;
    status.route = committed->route;
  }
  if (inputs.cover != nullptr) status.cover = wire::report_of(*inputs.cover);
  if (inputs.weights != nullptr) {
    status.resident = residency.report(*inputs.weights, inputs.audit);
    if (!inputs.spans) status.resident.intervals.clear();
  }
  status.kv_formula = inputs.kv_formula;
  if (inputs.stage != nullptr) {
    const StageStats stats = inputs.stage->stats();
    status.sessions = stats.sessions;
    status.kv_bytes = stats.kv_bytes;
  }
  return status;
}

}  // namespace ds4::agent
