#pragma once
// Whose prefill is fed next: clients take turns, and within a client its sessions do, so a client
// with thirty long prompts delays another's single one by a chunk at a time.
#include <cstdint>
#include <deque>
#include <unordered_map>

#include "ipc/server/server.h"

namespace ds4::agent {

class Rotation {
 public:
  /// At the end of the client's turn; nothing happens if it is there already.
  void add(ipc::ClientId client, std::uint64_t session);
  void remove(ipc::ClientId client, std::uint64_t session);
  bool empty() const { return clients_.empty(); }
  /// Takes out the session whose turn it is; its client goes to the end.
  std::uint64_t take();
  void clear();

 private:
  std::deque<ipc::ClientId> clients_;  // exactly those in waiting_
  std::unordered_map<ipc::ClientId, std::deque<std::uint64_t>> waiting_;  // none is empty
};

}  // namespace ds4::agent
