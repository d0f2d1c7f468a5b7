#pragma once
// A descriptor store without systemd: what was kept is found by the next "process" of the test.
#include <fcntl.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/residency/memfd_store.h"

namespace ds4::test {

class FakeKeeper final : public DescriptorKeeper {
 public:
  void keep(const std::string& name, int fd) override {
    kept[name] = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
  void forget(const std::string& name) override {
    kept.erase(name);
    forgotten.push_back(name);
  }
  UniqueFd take(const std::string& name) override {
    const auto found = kept.find(name);
    if (!taking || found == kept.end()) return {};
    return UniqueFd(::fcntl(found->second.get(), F_DUPFD_CLOEXEC, 0));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, fd] : kept) out.push_back(name.substr(name.rfind('.') + 1));
    return out;
  }

  std::map<std::string, UniqueFd> kept;
  std::vector<std::string> forgotten;
  bool taking = true;
};

/// Reads the file, or fails at the nth byte.
class FaultySource final : public ByteSource {
 public:
  explicit FaultySource(const ModelFile& model) : source_(make_file_source(model).value()) {}
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) override {
    ++reads;
    if (bytes_until_error < out.size()) {
      return fail(ErrorCode::kIo,
                  "read at offset " + std::to_string(offset) + ": Input/output error");
    }
    bytes_until_error -= out.size();
    return source_->read(offset, out);
  }
  std::uint64_t bytes_until_error = UINT64_MAX;
  std::uint64_t reads = 0;

 private:
  std::unique_ptr<ByteSource> source_;
};

}  // namespace ds4::test
