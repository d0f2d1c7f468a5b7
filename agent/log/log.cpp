#include "agent/log/log.h"

#define SD_JOURNAL_SUPPRESS_LOCATION
#include <sys/stat.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace ds4::agent {
namespace {

std::atomic<int> g_level{static_cast<int>(LogLevel::kInfo)};

/// JOURNAL_STREAM holds "device:inode" of the stream that systemd connected to the journal; a
/// program that inherited the variable but not the stream must not believe it (systemd.exec(5)).
bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat info {};
  if (stream == nullptr || ::fstat(STDERR_FILENO, &info) != 0) return false;
  return fmt::format("{}:{}", info.st_dev, info.st_ino) == stream;
}

std::string_view word_for(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "error";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kNotice:
      return "notice";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kDebug:
      return "debug";
  }
  return "info";
}

std::string printable(std::string_view line) {
  std::string text(line);
  for (char& c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = ' ';
  }
  return text;
}

}  // namespace

void set_log_level(LogLevel level) {
  g_level.store(static_cast<int>(level), std::memory_order_relaxed);
}

bool log_enabled(LogLevel level) {
  return static_cast<int>(level) <= g_level.load(std::memory_order_relaxed);
}

void log_line(LogLevel level, std::string_view line) {
  if (!log_enabled(level)) return;
  static const bool to_journal = stderr_is_journal();
  const std::string text = printable(line);
  if (to_journal && sd_journal_send("MESSAGE=%s", text.c_str(), "PRIORITY=%d",
                                    static_cast<int>(level), nullptr) == 0) {
    return;
  }
  const std::string out = fmt::format("ds4d {}: {}\n", word_for(level), text);
  // Nothing can be done about a closed stderr.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, out.data(), out.size());
}

}  // namespace ds4::agent
