#include "ipc/client/dial.h"

#include <fmt/format.h>
#include <grp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ipc/packet.h"

namespace ds4::ipc {

namespace {

using Clock = std::chrono::steady_clock;

std::string group_of(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) return "that owns it";
  std::vector<char> buffer(16384);
  struct group record = {};
  struct group* found = nullptr;
  if (::getgrgid_r(info.st_gid, &record, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr)
    return std::to_string(info.st_gid);
  return found->gr_name;
}

tl::unexpected<Failure> connect_failure(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ECONNREFUSED:
      return failure(DS4_NO_AGENT, fmt::format("no agent is serving {}; start it (systemctl start "
                                               "ds4d) or set DS4_SOCKET to another agent's socket",
                                               path));
    case EACCES:
      return failure(DS4_REFUSED,
                     fmt::format("this user may not open {}: only members of the group {} may use "
                                 "this agent",
                                 path, group_of(path)));
    case EAGAIN:
      return failure(DS4_BUSY, fmt::format("the agent at {} accepts nobody now", path));
    default:
      return failure(DS4_NO_AGENT, fmt::format("connect to {}: {}", path, strerror(error)));
  }
}

Outcome<UniqueFd> connect_to(const std::string& path, std::chrono::milliseconds timeout) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return failure(DS4_INVALID, fmt::format("the socket path '{}' must have 1 to {} bytes", path,
                                            sizeof(address.sun_path) - 1));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return failure(DS4_INTERNAL, fmt::format("make a socket: {}", strerror(errno)));
  // What connect() waits for when the agent's backlog is full.
  const timeval limit = {static_cast<time_t>(timeout.count() / 1000),
                         static_cast<suseconds_t>(timeout.count() % 1000 * 1000)};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  int rc = 0;
  do rc = ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  while (rc != 0 && errno == EINTR);
  if (rc != 0) return connect_failure(path, errno);
  return fd;
}

/// Whether it arrives shows in the answer: an agent that refused at once has left its reason to be
/// read.
void send_hello(int socket, const DialOptions& options) {
  Hello hello;
  hello.submission_entries = options.submission_entries;
  hello.completion_entries = options.completion_entries;
  hello.arena_tokens = options.arena_tokens;
  put_text(hello.name, options.name);
  (void)send_packet(socket, std::as_bytes(std::span(&hello, 1)));
}

struct Answer {
  std::array<std::byte, sizeof(Welcome) + 1> bytes;
  Packet packet;
};

Outcome<void> await_answer(int socket, Clock::time_point deadline, Answer& answer) {
  for (;;) {
    auto packet = receive_packet(socket, answer.bytes, kMaxPacketFds);
    if (!packet) return failure(DS4_NO_AGENT, packet.error().message);
    if (*packet) {
      answer.packet = std::move(**packet);
      return {};
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0)
      return failure(DS4_NO_AGENT,
                     "the agent accepted the connection but does not answer; its log "
                     "may say why");
    pollfd waiting = {socket, POLLIN, 0};
    ::poll(&waiting, 1, static_cast<int>(left) + 1);
  }
}

Outcome<Mapping> map_metadata(int fd, std::uint64_t bytes) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || static_cast<std::uint64_t>(info.st_size) != bytes)
    return failure(DS4_INTERNAL, "the agent's model tables are not as long as it says");
  auto mapping = Mapping::map(fd, bytes, Mapping::Access::kReadOnly);
  if (!mapping) return failure(DS4_NO_MEMORY, mapping.error().message);
  return std::move(*mapping);
}

}  // namespace

std::string default_socket_path() {
  const char* configured = ::secure_getenv("DS4_SOCKET");
  return configured != nullptr && *configured != '\0' ? configured : kDefaultSocketPath;
}

Outcome<Welcome> judge_welcome(std::span<const std::byte> packet, std::size_t fds) {
  if (packet.empty()) return failure(DS4_NO_AGENT, "the agent hung up without an answer");
  Welcome welcome;
  if (packet.size() < offsetof(Welcome, reserved0))
    return failure(DS4_INTERNAL, "the agent's answer is too short for a welcome");
  std::memcpy(&welcome, packet.data(), std::min(packet.size(), sizeof(welcome)));
  if (welcome.magic != kWelcomeMagic)
    return failure(DS4_INTERNAL, "what answers at the socket is not a ds4d agent");
  if (welcome.major != kMajorVersion)
    return failure(DS4_VERSION,
                   fmt::format("the agent speaks protocol {}.{}, this library {}.{}; install "
                               "matching packages",
                               welcome.major, welcome.minor, kMajorVersion, kMinorVersion));
  if (packet.size() != sizeof(Welcome))
    return failure(DS4_INTERNAL, "the agent's welcome has the wrong length");
  if (welcome.status != 0) {
    const Status status{welcome.status};
    std::string sentence = text_of(welcome.sentence);
    if (sentence.empty()) sentence = describe(status);
    return failure(to_c(status), std::move(sentence));
  }
  if (welcome.minor > kMinorVersion || fds != (welcome.metadata_bytes > 0 ? 4U : 3U))
    return failure(DS4_INTERNAL, "the agent's welcome contradicts itself");
  return welcome;
}

Outcome<Dialed> dial(const DialOptions& options) {
  const Clock::time_point deadline = Clock::now() + options.timeout;
  Dialed dialed;
  auto socket = connect_to(options.socket_path, options.timeout);
  if (!socket) return tl::unexpected(std::move(socket).error());
  dialed.socket = std::move(*socket);
  Answer answer;
  send_hello(dialed.socket.get(), options);
  if (auto got = await_answer(dialed.socket.get(), deadline, answer); !got)
    return tl::unexpected(std::move(got).error());
  auto& fds = answer.packet.fds;
  auto welcome = judge_welcome(std::span(answer.bytes).first(answer.packet.bytes), fds.size());
  if (!welcome) return tl::unexpected(std::move(welcome).error());
  dialed.welcome = *welcome;

  auto region = Region::open(fds[0].get(), welcome->region_bytes);
  if (!region) return failure(DS4_INTERNAL, region.error().message);
  dialed.region = std::move(*region);
  dialed.doorbell = std::move(fds[1]);
  dialed.wake = std::move(fds[2]);
  if (welcome->metadata_bytes > 0) {
    auto metadata = map_metadata(fds[3].get(), welcome->metadata_bytes);
    if (!metadata) return tl::unexpected(std::move(metadata).error());
    dialed.metadata = std::move(*metadata);
  }
  return dialed;
}

}  // namespace ds4::ipc
