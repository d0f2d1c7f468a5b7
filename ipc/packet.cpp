#include "ipc/packet.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ds4::ipc {

Result<void> send_packet(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  if (fds.size() > kMaxPacketFds) return fail(ErrorCode::kInvalidArgument, "too many descriptors");
  iovec part = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPacketFds * sizeof(int))] = {};
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t n = 0;
  do n = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  while (n < 0 && errno == EINTR);
  if (n < 0) return fail_errno("send on the client socket");
  return {};
}

namespace {

void take_fds(msghdr& message, std::size_t max_fds, std::vector<UniqueFd>& out) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      UniqueFd owned(fd);
      if (out.size() < max_fds) out.push_back(std::move(owned));
    }
  }
}

}  // namespace

Result<std::optional<Packet>> receive_packet(int socket, std::span<std::byte> buffer,
                                             std::size_t max_fds) {
  iovec part = {buffer.data(), buffer.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPacketFds * sizeof(int))] = {};
  if (max_fds > 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  ssize_t n = 0;
  // A hang-up that left something of ours unread is reported once as ECONNRESET, ahead of packets
  // that are still queued here (a farewell, say); the second look finds those.
  int resets = 0;
  do n = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return std::nullopt;
  if (n < 0 && errno == ECONNRESET) return Packet{};
  if (n < 0) return fail_errno("receive from the client socket");
  Packet packet;
  packet.bytes = static_cast<std::size_t>(n);
  packet.truncated = (message.msg_flags & MSG_TRUNC) != 0;
  if (max_fds > 0) take_fds(message, max_fds, packet.fds);
  return packet;
}

std::string text_of(std::span<const char> field) {
  const auto end = std::find(field.begin(), field.end(), '\0');
  std::string text(field.begin(), end);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

void put_text(std::span<char> field, std::string_view text) {
  const std::string_view fitting = cut_utf8(text, field.size() - 1);
  std::fill(field.begin(), field.end(), '\0');
  std::copy(fitting.begin(), fitting.end(), field.begin());
}

std::string_view cut_utf8(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
  return text.substr(0, bytes);
}

}  // namespace ds4::ipc
