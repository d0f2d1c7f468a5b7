#pragma once
// Links between the agents of a route, as bytes, with everything that may happen to a frame on its
// way: it vanishes, comes twice, is overtaken, waits, or goes down with all others on its link.
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "agent/stage/stage.h"

namespace ds4::agent::test {

/// Chances in a thousand, for each frame.
struct Faults {
  std::uint32_t drop = 0;
  std::uint32_t repeat = 0;
  std::uint32_t overtake = 0;  // all that wait on its link
  std::uint32_t hold = 0;      // the link, for a while
  std::uint32_t cut = 0;       // all that wait on its link, and itself, vanish
  bool operator==(const Faults&) const = default;
};

class LossyLinks {
 public:
  LossyLinks(const Faults& faults, std::uint32_t seed) : faults_(faults), random_(seed) {}

  void send(std::uint32_t from, Outgoing frame);
  /// One that arrives now, from a link taken at random; nothing if none can.
  std::optional<Outgoing> take();
  /// From now on nothing happens to frames.
  void heal();

  bool empty() const { return waiting_ == 0; }
  std::size_t waiting() const { return waiting_; }
  std::uint64_t faults_so_far() const { return happened_; }

 private:
  using Bytes = std::vector<std::byte>;
  /// Parts as links carry them.
  struct Packet {
    std::size_t kind = 0;  // of Outgoing::frame
    std::string header;
    std::vector<float> streams;
  };
  struct Link {
    std::deque<Packet> packets;
    std::uint32_t held = 0;  // turns
  };

  bool happens(std::uint32_t chance);
  static Packet pack(const Outgoing& frame);
  static Outgoing unpack(const Packet& packet, std::uint32_t to);

  Faults faults_;
  std::mt19937 random_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Link> links_;  // by from and to
  std::size_t waiting_ = 0;
  std::uint64_t happened_ = 0;
};

}  // namespace ds4::agent::test
