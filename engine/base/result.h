#pragma once
// The vocabulary every folder shares: one Result<T>, one Error. An Error is born where something
// fails, with a sentence that names the thing and the way out; each caller on the way up adds what it
// was doing ("load blk.3.attn_kv.weight: beyond end of file"). Exceptions of libraries stop at the
// wrapper that called them. Broken invariants of our own assert.
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace ds4 {

enum class ErrorCode {
  kInvalidArgument,    // the caller asked for something malformed
  kOutOfRange,         // well-formed, but beyond a limit (context, vocabulary, layers)
  kNotFound,           // no such file, tensor, node, session
  kCorrupt,            // bytes from outside that break their format
  kUnsupported,        // valid, but not by us
  kMismatch,           // two parties disagree (fingerprint, epoch, prefix)
  kResourceExhausted,  // memory, descriptors, queue space
  kPermission,
  kUnavailable,  // a peer or device is not there now; retrying may help
  kTimeout,
  kCancelled,
  kIo,
  kInternal,
};

/// Stable lower-case name of a code, as used on the wire and in JSON ("out_of_range").
std::string_view to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;

  /// The same error as seen by a caller who was doing `doing`: "doing: message".
  Error in(std::string_view doing) && {
    message = std::string(doing) + ": " + message;
    return std::move(*this);
  }
};

template <typename T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

/// Passes an error on, with context.
inline tl::unexpected<Error> fail(Error error, std::string_view doing) {
  return tl::unexpected<Error>(std::move(error).in(doing));
}

/// `what: <strerror(errno)>` with a code chosen from errno. `what` names the call and its object.
tl::unexpected<Error> fail_errno(std::string_view what);

#define DS4_CONCAT_IMPL(a, b) a##b
#define DS4_CONCAT(a, b) DS4_CONCAT_IMPL(a, b)

/// DS4_TRY(expr): returns the error of a Result<void> expression from the enclosing function.
#define DS4_TRY(expr)                                                              \
  do {                                                                             \
    if (auto ds4_try = (expr); !ds4_try)                                           \
      return tl::unexpected<::ds4::Error>(std::move(ds4_try).error());             \
  } while (false)

/// DS4_ASSIGN(auto x, expr): x becomes the value of a Result<T>, or its error is returned.
#define DS4_ASSIGN(declaration, expr) \
  DS4_ASSIGN_IMPL(declaration, (expr), DS4_CONCAT(ds4_assign_, __LINE__))
#define DS4_ASSIGN_IMPL(declaration, expr, temporary)                              \
  auto temporary = expr;                                                           \
  if (!temporary) return tl::unexpected<::ds4::Error>(std::move(temporary).error()); \
  declaration = std::move(temporary).value()

}  // namespace ds4
