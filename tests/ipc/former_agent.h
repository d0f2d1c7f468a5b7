#pragma once
// An agent of protocol 1.0, as far as programs can see: a FakeAgent behind a socket that makes
// every hello one of 1.0, so that what answers answers as it did then, and says so in the region
// too.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "ipc/packet.h"
#include "ipc/region.h"
#include "ipc/server/listener.h"
#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {

inline UniqueFd connect_raw(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    throw std::runtime_error("connect to " + path);
  return fd;
}

class FormerAgent {
 public:
  explicit FormerAgent(const std::string& path, const ModelCard& card = small_card())
      : inner_path_(path + ".inner"), agent_(config_at(inner_path_), card) {
    auto listener = Listener::bind(path, ::getegid());
    if (!listener) throw std::runtime_error(listener.error().message);
    listener_ = std::make_unique<Listener>(std::move(*listener));
    bell_.reset(::eventfd(0, EFD_CLOEXEC));
    thread_ = std::thread([this] { loop(); });
  }
  FormerAgent(const FormerAgent&) = delete;
  FormerAgent& operator=(const FormerAgent&) = delete;
  ~FormerAgent() {
    const std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof(one));
    thread_.join();
  }

  FakeHandler& handler() { return agent_.handler(); }

 private:
  struct Pair {
    UniqueFd program;
    UniqueFd agent;
  };

  void loop() {
    for (;;) {
      std::vector<pollfd> fds = {{bell_.get(), POLLIN, 0}, {listener_->fd(), POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        fds.push_back({pair.program.get(), POLLIN, 0});
        fds.push_back({pair.agent.get(), POLLIN, 0});
      }
      ::poll(fds.data(), fds.size(), -1);
      if (fds[0].revents != 0) return;
      std::erase_if(pairs_, [](const Pair& pair) {
        return !relay(pair.program.get(), pair.agent.get()) ||
               !relay(pair.agent.get(), pair.program.get());
      });
      UniqueFd program(::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC));
      if (program) pairs_.push_back({std::move(program), connect_raw(inner_path_)});
    }
  }

  /// False: one end has hung up.
  static bool relay(int from, int to) {
    std::array<std::byte, 1024> buffer;
    const auto packet = receive_packet(from, buffer, kMaxPacketFds);
    if (!packet) return false;
    if (!*packet) return true;
    if ((*packet)->bytes == 0) return false;
    if ((*packet)->bytes == sizeof(Hello)) age_hello(buffer);
    if ((*packet)->bytes == sizeof(Welcome)) age_region(buffer, (*packet)->fds);
    std::vector<int> fds;
    for (const UniqueFd& fd : (*packet)->fds) fds.push_back(fd.get());
    return send_packet(to, std::span(buffer).first((*packet)->bytes), fds).has_value();
  }

  static void age_hello(std::span<std::byte> packet) {
    Hello hello;
    std::memcpy(&hello, packet.data(), sizeof(hello));
    hello.minor = 0;
    std::memcpy(packet.data(), &hello, sizeof(hello));
  }
  static void age_region(std::span<const std::byte> packet, std::span<const UniqueFd> fds) {
    Welcome welcome;
    std::memcpy(&welcome, packet.data(), sizeof(welcome));
    if (welcome.status != 0) return;
    if (auto region = Region::open(fds[0].get(), welcome.region_bytes)) region->header().minor = 0;
  }

  const std::string inner_path_;
  FakeAgent agent_;
  std::unique_ptr<Listener> listener_;
  UniqueFd bell_;
  std::vector<Pair> pairs_;
  std::thread thread_;
};

}  // namespace ds4::ipc::testing
