#pragma once
// A file of given bytes that lives as long as the test needs it.
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

namespace ds4::test {

/// A directory of its own below the system's temporary directory; removed with all in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ds4-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::span<const std::byte> bytes) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string TempDir::write(const std::string& name, std::span<const std::byte> bytes) const {
  const std::string path = file(name);
  FILE* const out = ::fopen(path.c_str(), "wbe");
  if (out == nullptr) throw std::runtime_error("cannot write " + path);
  const bool ok = bytes.empty() || ::fwrite(bytes.data(), bytes.size(), 1, out) == 1;
  if (::fclose(out) != 0 || !ok) throw std::runtime_error("cannot write " + path);
  return path;
}

}  // namespace ds4::test
