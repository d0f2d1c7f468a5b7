#pragma once
// Runs a program of this build and keeps what it says.
#include <sys/types.h>

#include <string>
#include <vector>

#include "engine/base/unique_fd.h"

namespace ds4::ctl {

struct Finished {
  int exit_code = -1;  // -signal if a signal ended it
  std::string out;
  std::string err;
};

class Subprocess {
 public:
  /// `program` is a file name in the build's bin folder. stdin is empty.
  Subprocess(const std::string& program, const std::vector<std::string>& arguments);
  ~Subprocess();  // kills what still runs

  void signal(int number) const;
  /// Reads until `text` has appeared on stdout or stderr; false if the program ends before.
  bool wait_for(const std::string& text);
  /// As a reader that has seen enough.
  void close_stdout() { out_.reset(); }
  Finished finish();

 private:
  /// False when both streams have ended.
  bool read_some();

  pid_t pid_ = -1;
  UniqueFd out_;
  UniqueFd err_;
  Finished result_;
};

/// Start to end.
Finished run_program(const std::string& program, const std::vector<std::string>& arguments);

/// A file in the test's temporary folder, with this content; returns its path.
std::string temp_file(const std::string& name, const std::string& content);

/// A path inside the source tree.
std::string source_path(const std::string& path);

}  // namespace ds4::ctl
