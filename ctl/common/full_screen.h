#pragma once
// A terminal taken over for a live view, and given back as it was.
//
// The view is on the alternate screen, so what stood on the terminal stands there again afterwards.
// Keys come without Enter and without being shown; Ctrl-C stays a signal (InterruptGuard), the two
// keys that would leave the terminal like this (Ctrl-Z, Ctrl-\) do nothing.
#include <termios.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "ctl/common/terminal.h"
#include "engine/base/result.h"

namespace ds4::ctl {

/// On stdin and stdout, which must be terminals. At most one at a time.
class FullScreen {
 public:
  FullScreen();
  ~FullScreen();
  FullScreen(const FullScreen&) = delete;
  FullScreen& operator=(const FullScreen&) = delete;

  ScreenSize size() const;
  /// In place of what is shown; lines end with '\n'. Errors: kIo, when the terminal is gone.
  Result<void> show(std::string_view lines);
  /// The next key pressed within `patience`; none also when the terminal's size has changed, or a
  /// signal came. Errors: kIo, when the terminal is gone.
  Result<std::optional<char>> key(std::chrono::milliseconds patience);

 private:
  termios before_{};
  bool raw_ = false;
};

}  // namespace ds4::ctl
