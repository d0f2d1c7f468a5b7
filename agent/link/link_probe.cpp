#include "agent/link/link_probe.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <zmq.hpp>

#include "agent/wire/message_kind.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRoundTrips = 5;
constexpr std::size_t kFirstBytes = 64 << 10;
constexpr std::chrono::milliseconds kLook{100};
constexpr int kClearly = 4;

class ProbeConnection {
 public:
  ProbeConnection(const ProbeTarget& target, const std::optional<keys::KeyPair>& own,
                  const std::atomic<bool>* cancel)
      : cancel_(cancel) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::ipv6, target.address.find('[') == std::string::npos ? 0 : 1);
    socket_.set(zmq::sockopt::reconnect_ivl, 50);
    socket_.set(zmq::sockopt::maxmsgsize, std::int64_t{4096});
    if (target.key && own) {
      const auto buffer = [](const keys::KeyBytes& key) {
        return zmq::buffer(key.data(), key.size());
      };
      socket_.set(zmq::sockopt::curve_serverkey, buffer(target.key->bytes));
      socket_.set(zmq::sockopt::curve_publickey, buffer(own->public_key.bytes));
      socket_.set(zmq::sockopt::curve_secretkey, buffer(own->secret));
    }
    socket_.connect(target.address);
  }

  /// How long until the answer to a message with `payload` was here; none if it did not come.
  std::optional<Clock::duration> time(std::string_view payload,
                                      std::chrono::milliseconds patience) {
    const std::uint64_t number = ++last_;
    const auto start = Clock::now();
    socket_.send(zmq::buffer(wire::encode_kind(wire::MessageKind::kProbe)),
                 zmq::send_flags::sndmore);
    socket_.send(zmq::buffer(&number, sizeof(number)), zmq::send_flags::sndmore);
    socket_.send(zmq::buffer(payload), zmq::send_flags::none);
    while (true) {
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(patience - (Clock::now() - start));
      if (left.count() <= 0 || cancelled()) return std::nullopt;
      socket_.set(zmq::sockopt::rcvtimeo, static_cast<int>(std::min(left, kLook).count()));
      if (answered(number)) return Clock::now() - start;
    }
  }
  bool cancelled() const { return cancel_ != nullptr && cancel_->load(std::memory_order_relaxed); }

 private:
  /// Whether the message that came is the answer to this one. False too if none came.
  bool answered(std::uint64_t number) {
    zmq::message_t part;
    std::uint64_t got = 0;
    bool more = socket_.recv(part).has_value() && part.more();
    for (int index = 1; more; ++index) {
      if (!socket_.recv(part)) return false;
      more = part.more();
      if (index == 1 && part.size() == sizeof(got)) std::memcpy(&got, part.data(), sizeof(got));
    }
    return got == number;
  }

  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
  const std::atomic<bool>* cancel_;
  std::uint64_t last_ = 0;
};

Error silence(const ProbeTarget& target, std::string_view when) {
  return {ErrorCode::kTimeout,
          fmt::format("no answer from the agent at {} {}: is that address reachable from here, and "
                      "does its agent have the key of the cluster file?",
                      target.address, when)};
}

Result<wire::ProbeFigures> measure(ProbeConnection& connection, const ProbeTarget& target,
                                   const ProbeLimits& limits) {
  if (!connection.time("", limits.connect)) return tl::unexpected<Error>(silence(target, "at all"));
  auto round_trip = Clock::duration::max();
  for (int i = 0; i < kRoundTrips; ++i) {
    const auto took = connection.time("", limits.answer);
    if (!took) return tl::unexpected<Error>(silence(target, "to a second message"));
    round_trip = std::min(round_trip, *took);
  }
  wire::ProbeFigures figures;
  figures.round_trip_us = static_cast<std::uint64_t>(round_trip / std::chrono::microseconds(1));
  for (std::size_t bytes = std::min(kFirstBytes, limits.max_bytes);; bytes *= 2) {
    const auto took = connection.time(std::string(bytes, 'p'), limits.answer);
    if (!took) break;  // so slow that a smaller one has to tell
    const bool last = *took >= limits.enough || bytes * 2 > limits.max_bytes;
    if (last || *took >= kClearly * round_trip) {  // else it is the round trip that was timed
      const std::chrono::duration<double> on_the_way =
          std::max<Clock::duration>(*took - round_trip, std::chrono::microseconds(1));
      const auto rate = static_cast<std::uint64_t>(static_cast<double>(bytes) / on_the_way.count());
      if (rate > figures.bytes_per_s) {
        figures.bytes_per_s = rate;
        figures.probe_bytes = bytes;
      }
    }
    if (last) break;
  }
  if (figures.bytes_per_s == 0) {
    return tl::unexpected<Error>(silence(target, "to a message of 64 KiB"));
  }
  return figures;
}

}  // namespace

Result<wire::ProbeFigures> measure_link(const ProbeTarget& target,
                                        const std::optional<keys::KeyPair>& own,
                                        const ProbeLimits& limits) {
  try {
    ProbeConnection connection(target, own, limits.cancel);
    auto figures = measure(connection, target, limits);
    if (connection.cancelled()) return fail(ErrorCode::kCancelled, "the probe was cancelled");
    return figures;
  } catch (const zmq::error_t& error) {
    return fail(ErrorCode::kIo, fmt::format("probe {}: {}", target.address, error.what()));
  }
}

struct LinkProber::Impl {
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::thread thread;
  Result<wire::ProbeFigures> outcome;  // the thread's until `done`
  std::atomic<bool> done{false};       // set (release) by the thread, read (acquire) by the loop
  std::atomic<bool> cancel{false};     // set by the loop, read by the thread
};

LinkProber::LinkProber() : impl_(std::make_unique<Impl>()) {}

LinkProber::~LinkProber() {
  impl_->cancel = true;
  if (impl_->thread.joinable()) impl_->thread.join();
}

bool LinkProber::busy() const {
  return impl_->thread.joinable();
}

int LinkProber::event_fd() const {
  return impl_->event.get();
}

Result<void> LinkProber::start(ProbeTarget target, std::optional<keys::KeyPair> own) {
  try {
    impl_->done = false;
    impl_->thread = std::thread([impl = impl_.get(), target = std::move(target), own] {
      ProbeLimits limits;
      limits.cancel = &impl->cancel;
      impl->outcome = measure_link(target, own, limits);
      impl->done.store(true, std::memory_order_release);
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto written = ::write(impl->event.get(), &one, sizeof(one));
    });
    return {};
  } catch (const std::system_error& error) {
    return fail(ErrorCode::kResourceExhausted, fmt::format("start a probe: {}", error.what()));
  }
}

std::optional<Result<wire::ProbeFigures>> LinkProber::take() {
  if (!busy() || !impl_->done.load(std::memory_order_acquire)) return std::nullopt;
  impl_->thread.join();
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(impl_->event.get(), &count, sizeof(count));
  return std::move(impl_->outcome);
}

}  // namespace ds4::agent
