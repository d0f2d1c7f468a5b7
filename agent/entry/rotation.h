#pragma once
// Whose work is fed next: users take turns, within a user its clients, and within a client its
// sessions. So somebody with thirty long prompts, or with three hundred programs, delays another's
// single prompt by a chunk at a time.
#include <cstdint>
#include <deque>
#include <unordered_map>

#include "ipc/server/server.h"

namespace ds4::agent {

using UserId = std::uint32_t;  // the kernel's uid

struct Turn {
  UserId user = 0;
  ipc::ClientId client = 0;
  std::uint64_t session = 0;
};

class Rotation {
 public:
  /// At the end of its turns; nothing happens if it is there already.
  void add(const Turn& turn);
  void remove(const Turn& turn);
  bool empty() const { return users_.order.empty(); }
  /// Takes out the session whose turn it is; its user and client go to the end.
  std::uint64_t take();

 private:
  /// Keys in the order of their turns, each with something waiting.
  template <typename Key, typename Waiting>
  struct Turns {
    std::deque<Key> order;  // exactly those in `waiting`
    std::unordered_map<Key, Waiting> waiting;

    Waiting& at_end(Key key);
    void erase(Key key);
  };
  using Sessions = std::deque<std::uint64_t>;
  using Clients = Turns<ipc::ClientId, Sessions>;

  Turns<UserId, Clients> users_;
};

}  // namespace ds4::agent
