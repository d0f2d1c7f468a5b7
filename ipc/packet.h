#pragma once
// Packets with descriptors over a SOCK_SEQPACKET Unix socket: all that the handshake needs of it.
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::ipc {

inline constexpr std::size_t kMaxPacketFds = 4;

/// Sends one packet with up to kMaxPacketFds descriptors. Never blocks, never raises SIGPIPE.
Result<void> send_packet(int socket, std::span<const std::byte> bytes,
                         std::span<const int> fds = {});

struct Packet {
  std::size_t bytes = 0;   // 0: the other end has hung up
  bool truncated = false;  // it was longer than the buffer
  std::vector<UniqueFd> fds;
};

/// Receives one packet into `buffer`; nullopt when there is none now. Descriptors beyond `max_fds`
/// are closed (with 0 none ever reaches this process).
Result<std::optional<Packet>> receive_packet(int socket, std::span<std::byte> buffer,
                                             std::size_t max_fds);

/// Text out of a fixed, NUL-terminated field that someone else wrote: stops at the first NUL or the
/// end, control characters become '?'.
std::string text_of(std::span<const char> field);
/// The reverse; cuts at the last whole UTF-8 character that fits with its NUL.
void put_text(std::span<char> field, std::string_view text);
/// The longest prefix of at most `bytes` bytes that ends between UTF-8 characters.
std::string_view cut_utf8(std::string_view text, std::size_t bytes);

}  // namespace ds4::ipc
