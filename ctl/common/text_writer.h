#pragma once
// Writes an answer to stdout piece by piece and ends its last line, however it ended.
#include <string_view>

#include "ctl/common/terminal.h"

namespace ds4::ctl {

class TextWriter {
 public:
  /// After a failed write nothing more is tried; result() keeps the first error.
  void write(std::string_view text) {
    if (text.empty() || !result_) return;
    result_ = write_stdout(text);
    open_line_ = text.back() != '\n';
  }
  void end_line() {
    if (open_line_) write("\n");
  }
  const Result<void>& result() const { return result_; }

 private:
  Result<void> result_;
  bool open_line_ = true;  // an empty answer is an empty line
};

}  // namespace ds4::ctl
