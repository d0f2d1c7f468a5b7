#pragma once
// A control group with a memory limit, for tests that want the kernel's own account. Version 2 or
// 1, whichever this machine lets us make.
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace ds4::test {

class MemoryGroup {
 public:
  /// Null, with `why` set, where none can be made (not root, no memory controller, read-only).
  static std::unique_ptr<MemoryGroup> make(std::uint64_t limit_bytes, std::string& why);
  ~MemoryGroup();

  /// Children that this process makes until leave() belong to the group.
  void enter() const;
  void leave() const;
  std::uint64_t peak_bytes() const;
  std::uint64_t use_bytes() const;

 private:
  struct Names {
    const char* limit;
    const char* use;
    const char* peak;
  };
  MemoryGroup(std::filesystem::path parent, const Names& names);
  bool write(const std::filesystem::path& file, const std::string& text) const;
  std::uint64_t number(const char* name) const;

  std::filesystem::path parent_;
  std::filesystem::path group_;
  Names names_;
};

}  // namespace ds4::test
