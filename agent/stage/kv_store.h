#pragma once
// Caches of idle sessions on disk, so that a session that goes on is read back instead of computed
// again.
//
// The hard idea: nobody waits for the disk. A cache is taken out of its slice as it lies (nothing
// is copied) and handed to a thread that writes it and then frees it. Wanted back before that, it
// is copied from memory and never was on disk. Only reading back happens on the caller's thread, at
// the disk's speed, which is far above that of computing.
//
// Files live no longer than the store: names and sessions are of this process alone, so nothing is
// synced, and what an earlier process left is removed at the start. They hold what users said, so
// they are 0600 and go when their session is closed. A disk that is full or fails costs a session
// its cache, which its entry notices and replays, and nothing else.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "agent/stage/kv_file.h"
#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "engine/model/slice.h"

namespace ds4::agent {

/// The directory, for as long as the agent runs. Stores of one route after another write into it.
/// Thread rule: any thread.
class KvDirectory {
 public:
  /// Makes it if it is missing, locks it against other agents, removes what an earlier one left
  /// there, and nothing that does not bear such a name. Errors: kUnavailable if another agent uses
  /// it, else what the kernel said.
  static Result<std::shared_ptr<const KvDirectory>> open(const std::string& path);

  /// A name that no file had before.
  std::string new_name() const;
  Result<UniqueFd> create(const std::string& name) const;
  Result<void> rename(const std::string& from, const std::string& to) const;
  Result<UniqueFd> read(const std::string& name) const;
  void remove(const std::string& name) const;
  std::string path_of(const std::string& name) const { return path_ + "/" + name; }

 private:
  KvDirectory() = default;
  void remove_leftovers() const;

  std::string path_;
  UniqueFd fd_;  // holds the lock
};

struct KvStoreStats {
  std::uint64_t sessions = 0;  // on disk or on their way there
  std::uint64_t bytes = 0;     // theirs
  std::uint64_t saved = 0;     // files written
  std::uint64_t restored = 0;  // sessions that went on from here
  std::uint64_t lost = 0;      // to a full disk, the bound, or damage
};

/// Thread rule: one thread (the engine's) calls; stats() any.
class KvStore {
 public:
  /// At most `most_bytes` on disk. `maker`: kv_maker() of what the caches belong to.
  KvStore(std::shared_ptr<const KvDirectory> directory, std::uint64_t most_bytes,
          std::uint64_t maker);
  /// Waits for a step of the write in progress; removes its files.
  ~KvStore();

  /// Whether put() would take so many bytes now. Not while much is waiting to be written, nor for a
  /// minute after a write that failed.
  bool has_room(std::uint64_t bytes) const;
  /// Those that have been here the longest make room.
  void put(const KvPlace& place, std::unique_ptr<DetachedSession> cache);
  std::optional<KvPlace> find(std::uint64_t session) const;
  /// Puts the session back into `slice`. Whatever comes of it, it is gone from here, but after
  /// kResourceExhausted, which means that the slice has no room yet. kNotFound: it is not here (any
  /// more). kCorrupt: the file is not what was written; one line is logged.
  Result<void> restore(std::uint64_t session, Slice& slice);
  void remove(std::uint64_t session);

  KvStoreStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
