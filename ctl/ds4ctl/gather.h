#pragma once
#include <vector>

#include "ctl/common/terminal.h"
#include "engine/base/result.h"

namespace ds4::ctl {

/// Everybody's answer, or one error with a sentence for each that gave none. kCancelled after
/// Ctrl-C.
template <typename T>
Result<std::vector<T>> all_or_error(std::vector<Result<T>> answers) {
  std::vector<T> all;
  Error error;
  for (Result<T>& answer : answers) {
    if (answer) {
      all.push_back(std::move(*answer));
      continue;
    }
    error.code = answer.error().code;
    if (!error.message.empty()) error.message += '\n';
    error.message += answer.error().message;
  }
  if (InterruptGuard::interrupted()) return fail(ErrorCode::kCancelled, "interrupted");
  if (!error.message.empty()) return tl::unexpected<Error>(std::move(error));
  return all;
}

}  // namespace ds4::ctl
