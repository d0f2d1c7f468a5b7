#pragma once
// The ledger on disk: route.json in the state directory, replaced whole or not at all.
#include <memory>
#include <string>
#include <string_view>

#include "agent/route/assignment.h"
#include "engine/base/result.h"
#include "engine/base/unique_fd.h"

namespace ds4::agent {

/// The text of route.json. Decoding is strict: a damaged file is an error, never a forgotten route.
std::string encode_ledger(const Ledger& ledger);
Result<Ledger> decode_ledger(std::string_view text);

class LedgerFile {
 public:
  /// Makes the directory if it is missing and locks it, so that two agents cannot share one.
  /// Errors: kUnavailable if another agent holds it, else what the kernel said, naming the path.
  static Result<LedgerFile> open(const std::string& directory);

  /// An empty ledger if nothing was ever saved. Errors name the file and the way out.
  Result<Ledger> load() const;
  /// On disk when it returns: written beside, synced, renamed over the former one, directory
  /// synced. After an error the former one is still there.
  Result<void> save(const Ledger& ledger) const;

 private:
  std::string directory_;
  UniqueFd directory_fd_;
  UniqueFd lock_fd_;
};

}  // namespace ds4::agent
