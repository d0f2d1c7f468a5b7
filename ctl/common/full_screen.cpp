#include "ctl/common/full_screen.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace ds4::ctl {
namespace {

constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l\x1b[2J";  // alternate screen, no cursor
constexpr std::string_view kLeave = "\x1b[?25h\x1b[?1049l";

struct sigaction g_previous_winch;  // NOLINT: a plain C struct, restored by the destructor

void on_resize(int) {}  // it is enough that poll() returns

}  // namespace

FullScreen::FullScreen() {
  if (::tcgetattr(STDIN_FILENO, &before_) == 0) {
    termios mode = before_;
    mode.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    mode.c_cc[VMIN] = 1;
    mode.c_cc[VTIME] = 0;
    mode.c_cc[VSUSP] = _POSIX_VDISABLE;
    mode.c_cc[VQUIT] = _POSIX_VDISABLE;
    raw_ = ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &mode) == 0;
  }
  struct sigaction action {};
  action.sa_handler = on_resize;
  action.sa_flags = SA_RESTART;  // a frame on a slow line is not lost; poll() returns all the same
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGWINCH, &action, &g_previous_winch);
  (void)write_stdout(kEnter);
}

FullScreen::~FullScreen() {
  (void)write_stdout(kLeave);
  ::sigaction(SIGWINCH, &g_previous_winch, nullptr);
  if (raw_) ::tcsetattr(STDIN_FILENO, TCSAFLUSH, &before_);
}

ScreenSize FullScreen::size() const {
  return screen_size(STDOUT_FILENO);
}

Result<void> FullScreen::show(std::string_view lines) {
  std::string text = "\x1b[H";
  while (!lines.empty()) {
    const std::size_t end = lines.find('\n');
    text += lines.substr(0, end);
    text += "\x1b[K";  // what a longer line left behind
    if (end == std::string_view::npos) break;
    lines.remove_prefix(end + 1);
    if (!lines.empty()) text += "\r\n";
  }
  text += "\x1b[J";
  return write_stdout(text);
}

Result<std::optional<char>> FullScreen::key(std::chrono::milliseconds patience) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  const int ready = ::poll(&input, 1, static_cast<int>(patience.count()));
  if (ready <= 0) return std::optional<char>();
  char pressed = 0;
  const ssize_t got = ::read(STDIN_FILENO, &pressed, 1);
  if (got == 1) return std::optional<char>(pressed);
  if (got < 0 && (errno == EINTR || errno == EAGAIN)) return std::optional<char>();
  return fail(ErrorCode::kIo, "the terminal is gone");
}

}  // namespace ds4::ctl
