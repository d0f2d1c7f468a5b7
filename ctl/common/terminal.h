#pragma once
// What the tools know of the terminal and of Ctrl-C. Nothing here draws: decisions about text are
// in the files that make the text.
#include <cstddef>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::ctl {

/// True when `fd` is a terminal that understands cursor movement (TERM is set and not "dumb").
bool is_terminal(int fd);
/// Colour on a terminal unless NO_COLOR is set to anything (no-color.org).
bool wants_colour(int fd);

struct ScreenSize {
  std::size_t columns = 80;
  std::size_t lines = 24;
};
/// Of the terminal at `fd`; 80 x 24 when there is none.
ScreenSize screen_size(int fd);

/// A reader that goes away (`| head`) shall be an error of write(2), not the end of the process.
void ignore_sigpipe();

/// Writes all of `text` to stdout and flushes. Errors: kIo; a broken pipe says so.
Result<void> write_stdout(std::string_view text);

/// While one lives, SIGINT and SIGTERM set a flag instead of killing the process; a system call
/// that waits returns with EINTR. A second signal kills as usual. At most one at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  static bool interrupted();
};

}  // namespace ds4::ctl
