#pragma once
// An open model file: descriptor, parsed header, fingerprint. Reads the header only; tensor data is
// residency's business.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "engine/gguf/gguf.h"

namespace ds4 {

/// Which file this is, and which state of its bytes: differs when it was replaced or written to.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;  // since the epoch

  static Result<FileIdentity> of(int fd);
  static Result<FileIdentity> of(const std::string& path);
  bool operator==(const FileIdentity&) const = default;
};

class ModelFile {
 public:
  /// Opens read-only, reads just enough of the file to parse its header (growing as needed, bounded),
  /// and computes the fingerprint. Every error begins with the path.
  static Result<std::shared_ptr<const ModelFile>> open(const std::string& path);

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  const GgufFile& gguf() const { return gguf_; }
  std::uint64_t file_bytes() const { return gguf_.file_bytes(); }
  /// As of before the first byte was read.
  const FileIdentity& identity() const { return identity_; }
  /// 32 hex digits: xxh3-128 over the file's size, its header, and a few KiB at the start of each
  /// tensor (sampled at tensors spread over the file, so that opening 150 GiB reads a few MiB).
  const std::string& fingerprint() const { return fingerprint_; }
  /// A complete GGUF file of the metadata alone, with no tensors: what clients receive.
  std::vector<std::byte> metadata_image() const;

 private:
  ModelFile() = default;
  std::string path_;
  UniqueFd fd_;
  FileIdentity identity_;
  std::vector<std::byte> header_;
  GgufFile gguf_;
  std::string fingerprint_;
};

}  // namespace ds4
