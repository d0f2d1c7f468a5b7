#pragma once
// The pure part of reading a client's entries: is this one entry, already copied into private
// memory, something the agent may act on? No state, no clock, no shared memory: this is what is
// fuzzed.
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "ipc/layout.h"
#include "ipc/limits.h"
#include "ipc/status.h"

namespace ds4::ipc {

/// Why a request ends before it began: its final's status and sentence.
struct Refusal {
  Status status = Status::kInvalid;
  std::string sentence;
};

/// Checks the entry's own fields: known op, known flags, fields its op does not use zero, numbers
/// finite and in range, counts within `limits`. Not: positions in the arena, tokens, sessions.
std::optional<Refusal> check_fields(const SubmissionEntry& entry, const RequestLimits& limits);

/// Checks that every id is inside the vocabulary. `what` begins the sentence ("prompt token").
std::optional<Refusal> check_tokens(std::span<const std::int32_t> tokens, std::uint32_t vocabulary,
                                    const char* what);

}  // namespace ds4::ipc
