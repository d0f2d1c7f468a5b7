#pragma once
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::agent {

struct LoopbackAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// "127.0.0.1:9464" or "[::1]:9464"; port 0 takes a free one. Pure. Errors: kInvalidArgument for
/// another form, and for an address that other machines could reach.
Result<LoopbackAddress> parse_loopback(std::string_view text);

/// In the form above.
std::string to_text(const LoopbackAddress& address);

}  // namespace ds4::agent
