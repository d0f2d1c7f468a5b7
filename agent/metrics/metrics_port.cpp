#include "agent/metrics/metrics_port.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <unordered_map>

#include "agent/metrics/loopback.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

/// The main loop looks at the time in every turn: an earlier second try would make it spin.
constexpr std::chrono::seconds kPauseWithoutDescriptors{1};

std::string response(std::string_view status, std::string_view type, std::string_view body,
                     bool with_body) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
      status, type, body.size(), with_body ? body : std::string_view());
}

std::string refusal(std::string_view status, std::string_view sentence) {
  return response(status, "text/plain; charset=utf-8", fmt::format("{}\n", sentence), true);
}

struct Reader {
  UniqueFd fd;
  Clock::time_point deadline;
  std::string head;
  std::string answer;  // empty: the head is not whole yet
  std::size_t written = 0;
};

}  // namespace

std::string answer_metrics(std::string_view head, const std::function<std::string()>& text) {
  const std::string_view line = head.substr(0, head.find('\r'));
  const std::size_t first = line.find(' ');
  const std::size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos || !line.substr(second + 1).starts_with("HTTP/1.")) {
    return refusal("400 Bad Request", "This is no HTTP request.");
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, second - first - 1);
  if (method != "GET" && method != "HEAD") {
    return refusal("405 Method Not Allowed\r\nAllow: GET, HEAD", "Only GET is answered here.");
  }
  if (target.substr(0, target.find('?')) != "/metrics") {
    return refusal("404 Not Found", "Ask for /metrics.");
  }
  return response("200 OK", "text/plain; version=0.0.4; charset=utf-8", text(), method == "GET");
}

struct MetricsPort::Impl {
  std::function<std::string()> text;
  std::string address;
  UniqueFd listener;
  UniqueFd epoll;
  std::unordered_map<int, Reader> readers;
  bool out_of_descriptors = false;  // or of memory: until `accepts_again`
  Clock::time_point accepts_again{};

  void watch(int operation, int fd, std::uint32_t events) const {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    (void)::epoll_ctl(epoll.get(), operation, fd, &event);
  }

  /// While nobody can be accepted the listener is not looked at, or the main loop would spin.
  void watch_listener() const {
    const bool room = readers.size() < kMaxReaders && !out_of_descriptors;
    watch(EPOLL_CTL_MOD, listener.get(), room ? std::uint32_t{EPOLLIN} : 0);
  }

  void accept_readers() {
    while (readers.size() < kMaxReaders) {
      UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (fd.get() < 0) {
        out_of_descriptors = errno != EAGAIN && errno != EINTR && errno != ECONNABORTED;
        accepts_again = Clock::now() + kPauseWithoutDescriptors;
        break;
      }
      const int number = fd.get();
      readers[number] = Reader{std::move(fd), Clock::now() + kReaderPatience, {}, {}};
      watch(EPOLL_CTL_ADD, number, EPOLLIN);
    }
    watch_listener();
  }

  /// False: it is done, or gone.
  bool serve(Reader& reader) {
    if (reader.answer.empty() && !read_head(reader)) return false;
    return reader.answer.empty() || write_answer(reader);
  }

  bool read_head(Reader& reader) {
    std::array<char, 2048> bytes;
    while (true) {
      const ssize_t got = ::recv(reader.fd.get(), bytes.data(), bytes.size(), 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      reader.head.append(bytes.data(), static_cast<std::size_t>(got));
      if (const auto end = reader.head.find("\r\n\r\n"); end != std::string::npos) {
        reader.answer = answer_metrics(std::string_view(reader.head).substr(0, end + 4), text);
        return true;
      }
      if (reader.head.size() > kMaxHeadBytes) {
        reader.answer = refusal("431 Request Header Fields Too Large", "This request is too long.");
        return true;
      }
    }
  }

  bool write_answer(Reader& reader) {
    while (reader.written < reader.answer.size()) {
      const ssize_t sent = ::send(reader.fd.get(), reader.answer.data() + reader.written,
                                  reader.answer.size() - reader.written, MSG_NOSIGNAL);
      if (sent < 0 && errno == EAGAIN) {
        watch(EPOLL_CTL_MOD, reader.fd.get(), EPOLLOUT);
        return true;
      }
      if (sent < 0 && errno != EINTR) return false;
      if (sent > 0) reader.written += static_cast<std::size_t>(sent);
    }
    return false;
  }
};

MetricsPort::MetricsPort() : impl_(std::make_unique<Impl>()) {}
MetricsPort::~MetricsPort() = default;

Result<std::unique_ptr<MetricsPort>> MetricsPort::listen(std::string_view address,
                                                         std::function<std::string()> text) {
  DS4_ASSIGN(LoopbackAddress where, parse_loopback(address));
  std::unique_ptr<MetricsPort> self(new MetricsPort());
  Impl& impl = *self->impl_;
  impl.text = std::move(text);
  impl.listener =
      UniqueFd(::socket(where.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  impl.epoll = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (impl.listener.get() < 0 || impl.epoll.get() < 0) return fail_errno("metrics.listen");
  const int on = 1;  // a restart need not wait for the former one's connections to be forgotten
  (void)::setsockopt(impl.listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(impl.listener.get(), where.get(), where.bytes) != 0 ||
      ::listen(impl.listener.get(), static_cast<int>(kMaxReaders)) != 0) {
    if (errno != EADDRINUSE) return fail_errno(fmt::format("listen on {}", address));
    return fail(ErrorCode::kUnavailable,
                fmt::format("listen on {}: another program has that port: stop it, or set "
                            "metrics.listen",
                            address));
  }
  where.bytes = sizeof(where.storage);
  (void)::getsockname(impl.listener.get(), reinterpret_cast<sockaddr*>(&where.storage),
                      &where.bytes);
  impl.address = to_text(where);
  impl.watch(EPOLL_CTL_ADD, impl.listener.get(), EPOLLIN);
  return self;
}

const std::string& MetricsPort::address() const {
  return impl_->address;
}

int MetricsPort::poll_fd() const {
  return impl_->epoll.get();
}

void MetricsPort::on_ready() {
  std::array<epoll_event, kMaxReaders + 1> events;
  const int count =
      ::epoll_wait(impl_->epoll.get(), events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    if (fd == impl_->listener.get()) continue;
    const auto reader = impl_->readers.find(fd);
    if (reader != impl_->readers.end() && !impl_->serve(reader->second)) {
      impl_->readers.erase(reader);
    }
  }
  impl_->accept_readers();
}

void MetricsPort::on_time(Clock::time_point now) {
  const auto ended = std::erase_if(
      impl_->readers, [now](const auto& entry) { return entry.second.deadline <= now; });
  const bool again = impl_->out_of_descriptors && now >= impl_->accepts_again;
  if (ended == 0 && !again) return;
  if (again) impl_->out_of_descriptors = false;
  impl_->watch_listener();
}

}  // namespace ds4::agent
