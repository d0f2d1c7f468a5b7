#pragma once
// Internal to agent/wire: a peer's sentence made harmless, so that it can neither break a log line
// nor drive a terminal.
#include <cstddef>
#include <string>
#include <string_view>

namespace ds4::wire {

bool has_control_characters(std::string_view s);

/// At most `max` bytes of `s`, never ending inside a UTF-8 character; control characters become
/// spaces.
std::string cleaned_text(std::string_view s, std::size_t max);

}  // namespace ds4::wire
