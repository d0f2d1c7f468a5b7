#pragma once
// How the library's own functions fail: a status of ds4.h and a sentence for ds4_last_error().
#include <string>
#include <tl/expected.hpp>
#include <utility>

#include "ipc/client/ds4.h"
#include "ipc/status.h"

namespace ds4::ipc {

struct Failure {
  ds4_status status = DS4_INTERNAL;
  std::string sentence;
};

template <typename T>
using Outcome = tl::expected<T, Failure>;

inline tl::unexpected<Failure> failure(ds4_status status, std::string sentence) {
  return tl::unexpected<Failure>(Failure{status, std::move(sentence)});
}

/// Numbers from 256 on are the library's own: an agent that sends one is broken.
inline ds4_status to_c(Status status) {
  const auto number = static_cast<ds4_status>(status);
  return number < DS4_TIMEOUT ? number : DS4_INTERNAL;
}

}  // namespace ds4::ipc
