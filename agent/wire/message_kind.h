#pragma once
// The first part of every ZeroMQ message between agents, and between ds4ctl and an agent: two
// bytes, the kind and the protocol version. One port carries everything, so a receiver decides by
// these two bytes alone which decoder may look at the rest.
#include <cstdint>
#include <span>
#include <string>

#include "engine/base/result.h"

namespace ds4::wire {

inline constexpr std::uint8_t kProtocolVersion = 1;

enum class MessageKind : std::uint8_t {
  kControl = 'C',  // one part of JSON: control.h
  kWork = 'W',     // the frames between stages: frame.h
  kToken = 'T',
  kClose = 'X',
  kFork = 'F',
  kError = 'E',
  kPing = 'P',
  kProbe = 'R',  // measures a link: agent/link/link_probe.h
};

/// The two bytes to send as first part.
std::string encode_kind(MessageKind kind);
/// Errors: kCorrupt for anything that is not two bytes with a known kind, kUnsupported (naming both
/// versions) for another protocol version.
Result<MessageKind> decode_kind(std::span<const std::byte> part);

}  // namespace ds4::wire
