// Any text is a configuration or an error, never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "agent/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto config = ds4::agent::parse_config(text, "fuzz.toml")) {
    (void)ds4::agent::check_config(*config);
  }
  return 0;
}
