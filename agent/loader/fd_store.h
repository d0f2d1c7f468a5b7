#pragma once
// systemd's descriptor store: memory that a descriptor names outlives the agent there, over an
// upgrade as over a kill -9 (sd_notify(3), FDSTORE=1; FileDescriptorStoreMax= in the unit).
//
// Thread rule: as DescriptorKeeper.
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engine/base/unique_fd.h"
#include "engine/residency/memfd_store.h"

namespace ds4::agent {

class FdStore final : public DescriptorKeeper {
 public:
  /// Takes over what the service manager passed to this process under names that begin with "ds4.";
  /// other descriptors (sockets) are left alone. Once a process.
  FdStore();

  /// True if there is somebody to give descriptors to.
  bool available() const { return available_; }
  void keep(const std::string& name, int fd) override;
  void forget(const std::string& name) override;
  UniqueFd take(const std::string& name) override;
  /// All names that are waiting to be taken.
  std::vector<std::string> waiting() const;
  /// Bytes of memory behind what is waiting: in use, but not by anybody yet.
  std::uint64_t waiting_bytes() const;
  /// Nobody took these, so nobody needs them.
  void forget_waiting();
  /// The process ends in order: what is stored stays.
  void leave();

 private:
  const bool available_;
  mutable std::mutex mutex_;  // of what follows
  std::map<std::string, UniqueFd> waiting_;
  std::set<std::string> stored_;  // the manager has these
  bool leaving_ = false;
};

}  // namespace ds4::agent
