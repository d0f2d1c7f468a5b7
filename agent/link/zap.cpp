#include "agent/link/zap.h"

#include <cstring>
#include <vector>

namespace ds4::agent {
namespace {

constexpr std::size_t kRequestParts = 7;  // version, id, domain, address, identity, mechanism, key
constexpr const char* kUserId = "User-Id";

struct Verdict {
  bool admitted = false;
  std::string user_id;
};

std::optional<keys::KeyBytes> key_of(const std::vector<zmq::message_t>& request) {
  keys::KeyBytes key{};
  if (request.size() != kRequestParts || request[0].to_string_view() != "1.0" ||
      request[5].to_string_view() != "CURVE" || request[6].size() != key.size()) {
    return std::nullopt;
  }
  std::memcpy(key.data(), request[6].data(), key.size());
  return key;
}

void reply(zmq::socket_t& socket, std::string_view request_id, const Verdict& verdict) {
  // A refusal is told as a temporary one (3xx), after which the library ends the connection when
  // its handshake has taken too long. After any other, the peer's library would never try again;
  // but the administrator may change his mind, or the assignment that names the peer be on its way.
  const std::string_view parts[] = {"1.0",
                                    request_id,
                                    verdict.admitted ? "200" : "300",
                                    verdict.admitted ? "OK" : "key not trusted",
                                    verdict.user_id,
                                    ""};
  constexpr std::size_t kLast = std::size(parts) - 1;
  for (std::size_t i = 0; i <= kLast; ++i) {
    socket.send(zmq::buffer(parts[i]),
                i < kLast ? zmq::send_flags::sndmore : zmq::send_flags::none);
  }
}

}  // namespace

ZapHandler::ZapHandler(zmq::context_t& context) : socket_(context, zmq::socket_type::rep) {
  socket_.set(zmq::sockopt::linger, 0);
  socket_.bind("inproc://zeromq.zap.01");
}

void ZapHandler::answer(const std::function<bool(const keys::KeyBytes&)>& admits,
                        const std::function<void(const keys::KeyBytes&)>& refused) {
  try {
    while (true) {
      std::vector<zmq::message_t> request(1);
      if (!socket_.recv(request.back(), zmq::recv_flags::dontwait)) return;
      while (request.back().more()) {
        zmq::message_t part;
        if (!socket_.recv(part)) break;
        request.push_back(std::move(part));
      }
      Verdict verdict;
      if (const auto key = key_of(request)) {
        verdict.admitted = admits(*key);
        verdict.user_id =
            keys::to_text({keys::KeyRole::kNode, *key});  // the role means nothing here
        if (!verdict.admitted) refused(*key);
      }
      reply(socket_, request.size() > 1 ? request[1].to_string_view() : "", verdict);
    }
  } catch (const zmq::error_t&) {
    // Interrupted, or the context is ending: whoever asked will ask again.
  }
}

std::optional<keys::KeyBytes> proven_key(const zmq::message_t& message) {
  const char* text = zmq_msg_gets(message.handle(), kUserId);
  if (text == nullptr) return std::nullopt;
  const auto key = keys::parse_public_key(text);
  if (!key) return std::nullopt;
  return key->bytes;
}

}  // namespace ds4::agent
