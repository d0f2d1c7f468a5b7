#pragma once
// Reads the text format back, as strictly as `promtool check metrics`: for tests.
#include <map>
#include <string>
#include <vector>

namespace ds4::test {

struct MetricFamily {
  std::string help;
  std::string type;
  std::map<std::string, double> samples;  // by name with labels, as they stand
};

struct Metrics {
  std::map<std::string, MetricFamily> families;
  std::vector<std::string> complaints;

  /// Of `name`, with labels as they stand ("ds4d_rows_total{kind=\"decode\"}"); -1 if there is
  /// none.
  double value(const std::string& name) const;
};

Metrics read_metrics(const std::string& text);

}  // namespace ds4::test
