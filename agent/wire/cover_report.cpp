#include "agent/wire/cover_report.h"

namespace ds4::wire {

CoverReport report_of(const SpanCover& cover) {
  CoverReport report;
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

}  // namespace ds4::wire
