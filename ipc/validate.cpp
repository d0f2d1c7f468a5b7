#include "ipc/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ds4::ipc {

namespace {

Refusal invalid(std::string sentence) {
  return {Status::kInvalid, std::move(sentence)};
}

/// An entry in which everything is zero except what every op uses.
SubmissionEntry bare(const SubmissionEntry& entry) {
  SubmissionEntry out;
  out.top_p = 0;
  out.request_id = entry.request_id;
  out.op = entry.op;
  return out;
}

bool same_bytes(const SubmissionEntry& a, const SubmissionEntry& b) {
  return std::memcmp(&a, &b, sizeof(a)) == 0;
}

bool in_range(float value, float least, float most) {
  return std::isfinite(value) && value >= least && value <= most;
}

std::optional<Refusal> check_sampling(const SubmissionEntry& entry) {
  if (!in_range(entry.temperature, 0, kMaxTemperature))
    return invalid(
        fmt::format("temperature {} is not within 0 and {}", entry.temperature, kMaxTemperature));
  if (!in_range(entry.top_p, 0, 1) || entry.top_p == 0)
    return invalid(
        fmt::format("top_p {} is not above 0 and at most 1 (1 turns it off)", entry.top_p));
  if (!in_range(entry.min_p, 0, 1) || entry.min_p == 1)
    return invalid(
        fmt::format("min_p {} is not at least 0 and below 1 (0 turns it off)", entry.min_p));
  return std::nullopt;
}

std::optional<Refusal> check_generate(const SubmissionEntry& entry, const RequestLimits& limits) {
  if ((entry.flags & ~kKnownFlags) != 0)
    return invalid(fmt::format("flags {:#x} are unknown to this agent: it speaks protocol {}.{}",
                               entry.flags & ~kKnownFlags, kMajorVersion, kMinorVersion));
  if (const auto refusal = check_sampling(entry)) return refusal;
  if (entry.stop_tokens > limits.max_stop_tokens)
    return invalid(fmt::format("{} stop tokens are more than the {} that one request may have",
                               entry.stop_tokens, limits.max_stop_tokens));
  return std::nullopt;
}

/// For ops that use a few fields only: any other one set means a newer or a broken client.
std::optional<Refusal> check_rest_zero(const SubmissionEntry& entry,
                                       const SubmissionEntry& expected, const char* op) {
  if (same_bytes(entry, expected)) return std::nullopt;
  return invalid(fmt::format("{} sets fields that it does not use", op));
}

}  // namespace

std::optional<Refusal> check_fields(const SubmissionEntry& entry, const RequestLimits& limits) {
  SubmissionEntry expected = bare(entry);
  switch (static_cast<Op>(entry.op)) {
    case Op::kGenerate:
      if (std::any_of(entry.reserved.begin(), entry.reserved.end(), [](auto b) { return b != 0; }))
        return invalid("reserved bytes are set: the request needs a newer agent");
      return check_generate(entry, limits);
    case Op::kPromptPart:
      expected.arena_begin = entry.arena_begin;
      expected.prompt_tokens = entry.prompt_tokens;
      return check_rest_zero(entry, expected, "prompt_part");
    case Op::kCancel:
      return check_rest_zero(entry, expected, "cancel");
    case Op::kCloseSession:
      expected.session_id = entry.session_id;
      if (entry.session_id == 0) return invalid("close_session names no session");
      return check_rest_zero(entry, expected, "close_session");
    case Op::kForkSession:
      expected.session_id = entry.session_id;
      if (entry.session_id == 0) return invalid("fork_session names no session");
      return check_rest_zero(entry, expected, "fork_session");
  }
  return invalid(fmt::format("operation {} is unknown to this agent: it speaks protocol {}.{}",
                             entry.op, kMajorVersion, kMinorVersion));
}

std::optional<Refusal> check_tokens(std::span<const std::int32_t> tokens, std::uint32_t vocabulary,
                                    const char* what) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && static_cast<std::uint32_t>(tokens[i]) < vocabulary) continue;
    return Refusal{Status::kOutOfRange,
                   fmt::format("{} {} is {}, but the vocabulary has {} tokens, counted from 0",
                               what, i, tokens[i], vocabulary)};
  }
  return std::nullopt;
}

}  // namespace ds4::ipc
