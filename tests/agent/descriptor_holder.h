#pragma once
// Stands in for systemd: listens where NOTIFY_SOCKET says, keeps the descriptors that an agent
// stores (FDSTORE=1, FDNAME=), lets go of those it names (FDSTOREREMOVE=1), and has them ready for
// the agent's next start.
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/unique_fd.h"

namespace ds4::test {

class DescriptorHolder {
 public:
  /// Listens at `path`, on a thread of its own: an agent that tells something waits for whoever
  /// does not listen.
  explicit DescriptorHolder(const std::string& path);
  ~DescriptorHolder();

  /// Names and descriptors kept now, in the order of the names.
  std::vector<std::pair<std::string, int>> kept() const;
  /// The last parts of the names: "L0".
  std::vector<std::string> names() const;
  void drop_all();

 private:
  void listen();
  void obey(const std::string& text, std::vector<UniqueFd> descriptors);

  UniqueFd socket_;
  mutable std::mutex mutex_;
  std::multimap<std::string, UniqueFd> kept_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace ds4::test
