#pragma once
// Host pages that the driver knows: pinned where they are, not copied.
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "engine/base/result.h"

namespace ds4::cuda {

/// Owner of one registration of pages of a read-only shared mapping. (Other mappings are refused,
/// copied page by page, or hang the driver.)
class Registration {
 public:
  static Result<std::unique_ptr<Registration>> make(int device, const std::byte* host,
                                                    std::uint64_t bytes);
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  /// What to add to a host address to have the device's; 0 on every GPU met.
  std::ptrdiff_t device_distance() const { return device_distance_; }

 private:
  Registration(int device, void* host) : device_(device), host_(host) {}
  const int device_;
  void* const host_;
  std::ptrdiff_t device_distance_ = 0;
};

/// The pieces that some weights of this process hold, each registered once, until its last holder
/// is gone. Thread rule: any thread.
class RegistrationSet : public std::enable_shared_from_this<RegistrationSet> {
 public:
  explicit RegistrationSet(int device) : device_(device) {}
  /// Of the same address always the same `bytes`.
  Result<std::shared_ptr<const Registration>> hold(const std::byte* host, std::uint64_t bytes);

 private:
  struct Held {
    std::unique_ptr<Registration> registration;
    std::uint64_t holders = 0;
  };
  void let_go(const std::byte* host);

  const int device_;
  std::mutex mutex_;  // of held_, and of registering: a piece cannot come while it goes
  std::map<const std::byte*, Held> held_;
};

}  // namespace ds4::cuda
