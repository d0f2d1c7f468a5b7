#pragma once
// How ds4ctl and ds4-eval end. The same numbers are in both programs' --help.
#include <string_view>

#include "engine/base/result.h"

namespace ds4::ctl {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;        // tried and failed: a node down, a file missing
inline constexpr int kExitUsage = 2;          // the command line asks for something malformed
inline constexpr int kExitInterrupted = 130;  // Ctrl-C, as shells report it

/// The paragraph of --help that explains the numbers.
inline constexpr std::string_view kExitCodesHelp =
    "Exit status: 0 done, 1 failed, 2 malformed command line, 130 interrupted (Ctrl-C).";

/// kInvalidArgument is what the user typed, kCancelled is Ctrl-C, all else is a failure.
int exit_code_of(const Error& error);

/// `program: message` on stderr, in one write; the exit code to return.
int report(std::string_view program, const Error& error);

}  // namespace ds4::ctl
