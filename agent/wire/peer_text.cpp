#include "agent/wire/peer_text.h"

namespace ds4::wire {
namespace {

/// Bytes of the control character at s[i] (C0, DEL, or C1 in UTF-8); 0 if it is none.
std::size_t control_at(std::string_view s, std::size_t i) {
  const auto c = static_cast<unsigned char>(s[i]);
  if (c < 0x20 || c == 0x7f) return 1;
  if (c != 0xc2 || i + 1 == s.size()) return 0;
  const auto next = static_cast<unsigned char>(s[i + 1]);
  return next >= 0x80 && next <= 0x9f ? 2 : 0;
}

/// Bytes of the UTF-8 character that `lead` begins, by its own account.
std::size_t character_bytes(unsigned char lead) {
  if (lead >= 0xf0) return 4;
  if (lead >= 0xe0) return 3;
  return lead >= 0xc0 ? 2 : 1;
}

/// Where to cut `s`, which has been cut at its end already, so that no character is left
/// unfinished.
std::size_t end_of_last_character(std::string_view s) {
  std::size_t lead = s.size();
  while (lead > 0 && (static_cast<unsigned char>(s[lead - 1]) & 0xc0) == 0x80) --lead;
  if (lead == 0) return s.size();  // not UTF-8 at all
  --lead;
  const bool whole = lead + character_bytes(static_cast<unsigned char>(s[lead])) <= s.size();
  return whole ? s.size() : lead;
}

}  // namespace

bool has_control_characters(std::string_view s) {
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (control_at(s, i) != 0) return true;
  }
  return false;
}

std::string cleaned_text(std::string_view s, std::size_t max) {
  std::string out;
  std::size_t i = 0;
  while (i < s.size() && out.size() < max) {
    const std::size_t control = control_at(s, i);
    out += control != 0 ? ' ' : s[i];
    i += control != 0 ? control : 1;
  }
  if (i < s.size()) out.resize(end_of_last_character(out));
  return out;
}

}  // namespace ds4::wire
