#include "agent/entry/rotation.h"

#include <algorithm>

namespace ds4::agent {

void Rotation::add(ipc::ClientId client, std::uint64_t session) {
  auto& sessions = waiting_[client];
  if (sessions.empty()) clients_.push_back(client);
  if (std::find(sessions.begin(), sessions.end(), session) == sessions.end()) {
    sessions.push_back(session);
  }
}

void Rotation::remove(ipc::ClientId client, std::uint64_t session) {
  const auto found = waiting_.find(client);
  if (found == waiting_.end()) return;
  std::erase(found->second, session);
  if (!found->second.empty()) return;
  waiting_.erase(found);
  std::erase(clients_, client);
}

std::uint64_t Rotation::take() {
  const ipc::ClientId client = clients_.front();
  clients_.pop_front();
  const auto found = waiting_.find(client);
  const std::uint64_t session = found->second.front();
  found->second.pop_front();
  if (found->second.empty()) {
    waiting_.erase(found);
  } else {
    clients_.push_back(client);
  }
  return session;
}

void Rotation::clear() {
  clients_.clear();
  waiting_.clear();
}

}  // namespace ds4::agent
