#include "tests/agent/entry/lossy_links.h"

#include <gtest/gtest.h>

namespace ds4::agent::test {
namespace {

constexpr std::uint64_t kFloatsPerRow = 4;  // of a FakeSlice

template <typename Frame>
Outgoing arrived(std::uint32_t to, Result<Frame> frame) {
  if (frame) return {to, *std::move(frame)};
  ADD_FAILURE() << "a frame that was sent does not decode: " << frame.error().message;
  return {to, Unsent{}};
}

}  // namespace

bool LossyLinks::happens(std::uint32_t chance) {
  const bool yes = random_() % 1000 < chance;
  happened_ += yes;
  return yes;
}

LossyLinks::Packet LossyLinks::pack(const Outgoing& frame) {
  Packet packet;
  packet.kind = frame.frame.index();
  std::visit(
      [&](const auto& body) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(body)>, Unsent>) {
          packet.header = wire::encode(body);
        }
      },
      frame.frame);
  if (const auto* work = std::get_if<wire::WorkFrame>(&frame.frame)) packet.streams = work->streams;
  return packet;
}

Outgoing LossyLinks::unpack(const Packet& packet, std::uint32_t to) {
  const auto header = std::as_bytes(std::span(packet.header));
  switch (packet.kind) {
    case 0:
      return arrived(
          to, wire::decode_work(header, std::as_bytes(std::span(packet.streams)), kFloatsPerRow));
    case 1:
      return arrived(to, wire::decode_tokens(header));
    case 2:
      return arrived(to, wire::decode_close(header));
    case 3:
      return arrived(to, wire::decode_fork(header));
    default:
      return arrived(to, wire::decode_error(header));
  }
}

void LossyLinks::send(std::uint32_t from, Outgoing frame) {
  Link& link = links_[{from, frame.to}];
  if (happens(faults_.drop)) return;
  if (happens(faults_.cut)) {
    waiting_ -= link.packets.size();
    link.packets.clear();
    return;
  }
  if (happens(faults_.hold)) link.held = 1 + random_() % 200;
  Packet packet = pack(frame);
  if (happens(faults_.repeat)) {
    // Somewhere among those that wait, so that it may come late as well.
    const auto place = static_cast<std::ptrdiff_t>(random_() % (link.packets.size() + 1));
    link.packets.insert(link.packets.begin() + place, packet);
    ++waiting_;
  }
  if (happens(faults_.overtake)) {
    link.packets.push_front(std::move(packet));
  } else {
    link.packets.push_back(std::move(packet));
  }
  ++waiting_;
}

std::optional<Outgoing> LossyLinks::take() {
  std::vector<std::pair<const std::pair<std::uint32_t, std::uint32_t>, Link>*> able;
  for (auto& one : links_) {
    if (one.second.held > 0) {
      --one.second.held;
    } else if (!one.second.packets.empty()) {
      able.push_back(&one);
    }
  }
  if (able.empty()) return std::nullopt;
  auto& [ends, link] = *able[random_() % able.size()];
  Outgoing frame = unpack(link.packets.front(), ends.second);
  link.packets.pop_front();
  --waiting_;
  return frame;
}

void LossyLinks::heal() {
  faults_ = {};
  for (auto& [ends, link] : links_) link.held = 0;
}

}  // namespace ds4::agent::test
