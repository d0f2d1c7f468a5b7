#pragma once
// Log lines: to the journal with their priority when systemd started us, else to stderr.
//
// Thread rule: any thread. One line is one write, so lines of several threads never mix.
#include <fmt/format.h>

#include <string_view>

namespace ds4::agent {

enum class LogLevel : int { kError = 3, kWarning = 4, kNotice = 5, kInfo = 6, kDebug = 7 };

/// Lines less important than `level` are dropped from now on.
void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
/// Control characters become spaces: a peer's sentence can neither forge a line nor drive a
/// terminal.
void log_line(LogLevel level, std::string_view line);

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) log_line(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace ds4::agent
