// Any head of a request is answered with one whole HTTP response, any text is a loopback address or
// an error, and an address reads back from what it is written as.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "agent/metrics/loopback.h"
#include "agent/metrics/metrics_port.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ds4::agent;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string answer = answer_metrics(text, [] { return std::string("ds4d_ready 1\n"); });
  require(answer.starts_with("HTTP/1.1 "), "a status line");
  require(answer.find("\r\n\r\n") != std::string::npos, "a whole head");
  if (const auto address = parse_loopback(text)) {
    const auto again = parse_loopback(to_text(*address));
    require(again.has_value() && to_text(*again) == to_text(*address), "an address reads back");
  }
  return 0;
}
