#include "agent/wire/message_kind.h"

#include <fmt/format.h>

namespace ds4::wire {

std::string encode_kind(MessageKind kind) {
  return {static_cast<char>(kind), static_cast<char>(kProtocolVersion)};
}

Result<MessageKind> decode_kind(std::span<const std::byte> part) {
  if (part.size() != 2) {
    return fail(
        ErrorCode::kCorrupt,
        fmt::format("a message begins with {} bytes where kind and version (2 bytes) belong",
                    part.size()));
  }
  const auto version = std::to_integer<std::uint8_t>(part[1]);
  if (version != kProtocolVersion) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the peer speaks protocol version {}, this program version {}: install "
                            "the same release of ds4d on both sides",
                            version, kProtocolVersion));
  }
  const auto kind = static_cast<MessageKind>(std::to_integer<std::uint8_t>(part[0]));
  switch (kind) {
    case MessageKind::kControl:
    case MessageKind::kWork:
    case MessageKind::kToken:
    case MessageKind::kClose:
    case MessageKind::kFork:
    case MessageKind::kError:
    case MessageKind::kPing:
    case MessageKind::kProbe:
      return kind;
  }
  return fail(ErrorCode::kCorrupt,
              fmt::format("message kind {} is unknown", std::to_integer<unsigned>(part[0])));
}

}  // namespace ds4::wire
