#include "tests/agent/metrics/prometheus_reader.h"

#include <regex>
#include <sstream>

namespace ds4::test {

double Metrics::value(const std::string& name) const {
  const auto family = families.find(name.substr(0, name.find('{')));
  if (family == families.end()) return -1;
  const auto sample = family->second.samples.find(name);
  return sample == family->second.samples.end() ? -1 : sample->second;
}

Metrics read_metrics(const std::string& text) {
  static const std::regex kHelp(R"(# HELP ([a-z][a-z0-9_]*) (\S.*))");
  static const std::regex kType(R"(# TYPE ([a-z][a-z0-9_]*) (counter|gauge))");
  static const std::regex kSample(
      R"RE(([a-z][a-z0-9_]*)(\{[a-z_]+="([^"\\\n]|\\["\\n])*"(,[a-z_]+="([^"\\\n]|\\["\\n])*")*\})? ([0-9]+(\.[0-9]+)?))RE");
  Metrics metrics;
  const auto complain = [&](const std::string& why, const std::string& line) {
    metrics.complaints.push_back(why + ": " + line);
  };
  if (text.empty() || text.back() != '\n') complain("the last line has no end", "");
  std::istringstream stream(text);
  std::string current;
  for (std::string line; std::getline(stream, line);) {
    std::smatch match;
    if (std::regex_match(line, match, kHelp)) {
      current = match[1];
      if (!metrics.families[current].help.empty()) complain("a second HELP", line);
      metrics.families[current].help = match[2];
    } else if (std::regex_match(line, match, kType)) {
      if (match[1] != current) complain("a TYPE without its HELP", line);
      metrics.families[current].type = match[2];
      const bool total = current.ends_with("_total");
      if (total != (match[2] == "counter"))
        complain("_total is for counters and all of them", line);
    } else if (std::regex_match(line, match, kSample)) {
      if (match[1] != current) complain("a sample outside its family", line);
      auto& samples = metrics.families[current].samples;
      const std::string name = match[1].str() + match[2].str();
      if (!samples.emplace(name, std::stod(match[6])).second) complain("a sample twice", line);
    } else {
      complain("not understood", line);
    }
  }
  for (const auto& [name, family] : metrics.families) {
    if (family.help.empty() || family.type.empty()) complain("no HELP or TYPE", name);
  }
  return metrics;
}

}  // namespace ds4::test
