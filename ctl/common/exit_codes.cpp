#include "ctl/common/exit_codes.h"

#include <fmt/format.h>

#include <cstdio>

namespace ds4::ctl {

int exit_code_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kCancelled:
      return kExitInterrupted;
    default:
      return kExitFailure;
  }
}

int report(std::string_view program, const Error& error) {
  const std::string line = fmt::format("{}: {}\n", program, error.message);
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stderr);
  return exit_code_of(error);
}

}  // namespace ds4::ctl
