#include "agent/ds4d/status_report.h"

#include "agent/ds4d/version.h"
#include "agent/log/log.h"

namespace ds4::agent {

wire::CoverReport describe_cover(const SpanCover& cover) {
  wire::CoverReport report;
  report.file_bytes = cover.file_bytes();
  report.page_bytes = cover.page_bytes();
  report.tensor_bytes = cover.tensor_bytes();
  report.cover_bytes = cover.cover_bytes();
  report.spans = cover.spans();
  for (const Interval& interval : cover.intervals()) {
    report.intervals.push_back({interval.begin, interval.bytes()});
  }
  report.hull = {cover.hull().begin, cover.hull().bytes()};
  return report;
}

wire::ResidentReport ResidencyReporter::report(const ResidentSlice& slice) {
  const auto begin = std::chrono::steady_clock::now();
  if (&slice == slice_ && begin < next_) return last_;
  last_ = {};
  last_.load_peak_bytes = slice.load_peak_bytes();
  if (const auto audit = slice.audit()) {
    last_.mapped_bytes = audit->mapped_bytes;
    last_.incore_bytes = audit->incore_bytes;
    last_.locked_bytes = audit->locked_bytes;
    last_.outside_cover_bytes = audit->outside_cover_bytes;
  } else {
    log(LogLevel::kWarning, "residency cannot be audited: {}", audit.error().message);
  }
  const auto end = std::chrono::steady_clock::now();
  next_ = end + 20 * (end - begin);
  slice_ = &slice;
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
  if (inputs.cover != nullptr) status.cover = describe_cover(*inputs.cover);
  if (inputs.weights != nullptr) status.resident = residency.report(*inputs.weights);
  if (inputs.stage != nullptr) {
    const StageStats stats = inputs.stage->stats();
    status.sessions = stats.sessions;
    status.kv_bytes = stats.kv_bytes;
  }
  return status;
}

}  // namespace ds4::agent
