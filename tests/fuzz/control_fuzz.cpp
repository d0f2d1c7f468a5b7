// Any text decodes or is refused, and what decodes means the same after another encoding. The first
// byte chooses request or reply.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "agent/wire/control.h"

namespace {

using namespace ds4::wire;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

void request(std::string_view text) {
  const auto decoded = decode_request(text);
  if (!decoded) return;
  const auto again = decode_request(encode(*decoded));
  require(again.has_value() && *again == *decoded, "a request survives another encoding");
}

void reply(std::string_view text) {
  const auto decoded = decode_reply(text);
  if (!decoded) return;
  const auto again = decode_reply(encode(*decoded));
  require(again.has_value(), "a reply can be read again");
  require(again->id == decoded->id && again->status == decoded->status, "a status survives");
  require(again->offer == decoded->offer && again->probe == decoded->probe, "an offer survives");
  require(again->error.has_value() == decoded->error.has_value(), "a refusal survives");
  if (!decoded->error) return;
  require(again->error->code == decoded->error->code, "a code survives");
  require(again->error->message == decoded->error->message, "a sentence survives");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    request(text);
  } else {
    reply(text);
  }
  return 0;
}
