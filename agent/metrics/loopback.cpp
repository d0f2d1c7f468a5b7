#include "agent/metrics/loopback.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <cstring>
#include <optional>

namespace ds4::agent {
namespace {

struct HostAndPort {
  std::string host;
  std::uint16_t port = 0;
};

std::optional<HostAndPort> split(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  HostAndPort parts;
  const char* end = text.data() + text.size();
  const auto read = std::from_chars(text.data() + colon + 1, end, parts.port);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  if (host.starts_with('[')) {
    if (!host.ends_with(']')) return std::nullopt;
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return std::nullopt;
  }
  parts.host = host;
  return parts;
}

template <typename Address>
LoopbackAddress stored(const Address& address) {
  LoopbackAddress out;
  std::memcpy(&out.storage, &address, sizeof(address));
  out.bytes = sizeof(address);
  return out;
}

}  // namespace

Result<LoopbackAddress> parse_loopback(std::string_view text) {
  const auto parts = split(text);
  sockaddr_in four{};
  sockaddr_in6 six{};
  four.sin_family = AF_INET;
  six.sin6_family = AF_INET6;
  if (parts && ::inet_pton(AF_INET, parts->host.c_str(), &four.sin_addr) == 1) {
    four.sin_port = htons(parts->port);
    if ((ntohl(four.sin_addr.s_addr) >> 24) == 127) return stored(four);
  } else if (parts && ::inet_pton(AF_INET6, parts->host.c_str(), &six.sin6_addr) == 1) {
    six.sin6_port = htons(parts->port);
    if (IN6_IS_ADDR_LOOPBACK(&six.sin6_addr)) return stored(six);
  } else {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("\"{}\" is no address and port such as 127.0.0.1:9464", text));
  }
  return fail(
      ErrorCode::kInvalidArgument,
      fmt::format("\"{}\" can be reached from other machines, but nobody who asks there has "
                  "to prove who he is: use 127.0.0.1 or [::1], and let what collects the "
                  "figures run here, or carry them on",
                  text));
}

std::string to_text(const LoopbackAddress& address) {
  char host[INET6_ADDRSTRLEN] = {};
  if (address.storage.ss_family == AF_INET) {
    sockaddr_in four{};
    std::memcpy(&four, &address.storage, sizeof(four));
    ::inet_ntop(AF_INET, &four.sin_addr, host, sizeof(host));
    return fmt::format("{}:{}", host, ntohs(four.sin_port));
  }
  sockaddr_in6 six{};
  std::memcpy(&six, &address.storage, sizeof(six));
  ::inet_ntop(AF_INET6, &six.sin6_addr, host, sizeof(host));
  return fmt::format("[{}]:{}", host, ntohs(six.sin6_port));
}

}  // namespace ds4::agent
