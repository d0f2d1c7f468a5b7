#include "agent/entry/rotation.h"

#include <algorithm>

namespace ds4::agent {

template <typename Key, typename Waiting>
Waiting& Rotation::Turns<Key, Waiting>::at_end(Key key) {
  const auto [at, added] = waiting.try_emplace(key);
  if (added) order.push_back(key);
  return at->second;
}

template <typename Key, typename Waiting>
void Rotation::Turns<Key, Waiting>::erase(Key key) {
  waiting.erase(key);
  std::erase(order, key);
}

void Rotation::add(const Turn& turn) {
  Sessions& sessions = users_.at_end(turn.user).at_end(turn.client);
  if (std::find(sessions.begin(), sessions.end(), turn.session) == sessions.end()) {
    sessions.push_back(turn.session);
  }
}

void Rotation::remove(const Turn& turn) {
  const auto user = users_.waiting.find(turn.user);
  if (user == users_.waiting.end()) return;
  Clients& clients = user->second;
  const auto client = clients.waiting.find(turn.client);
  if (client == clients.waiting.end()) return;
  std::erase(client->second, turn.session);
  if (client->second.empty()) clients.erase(turn.client);
  if (clients.order.empty()) users_.erase(turn.user);
}

std::uint64_t Rotation::take() {
  const UserId user = users_.order.front();
  users_.order.pop_front();
  users_.order.push_back(user);
  Clients& clients = users_.waiting.at(user);
  const ipc::ClientId client = clients.order.front();
  clients.order.pop_front();
  clients.order.push_back(client);
  const std::uint64_t session = clients.waiting.at(client).front();
  remove({user, client, session});
  return session;
}

}  // namespace ds4::agent
