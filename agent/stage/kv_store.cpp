#include "agent/stage/kv_store.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "agent/log/log.h"

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

/// Memory that the slice counts as free already; one cache may be larger.
constexpr std::uint64_t kMostWaitingBytes = 256U << 20;
constexpr std::chrono::minutes kPauseAfterFailure{1};

/// Copies out of pieces, one behind the other.
SessionSource source_of(KvPieces pieces) {
  return [pieces = std::move(pieces), piece = std::size_t{0},
          at = std::size_t{0}](std::span<std::byte> to) mutable -> Result<void> {
    while (!to.empty()) {
      if (piece == pieces.size()) return fail(ErrorCode::kInternal, "a cache of another size");
      const auto rest = pieces[piece].subspan(at);
      const std::size_t n = std::min(rest.size(), to.size());
      std::copy_n(rest.begin(), n, to.begin());
      to = to.subspan(n);
      at += n;
      if (n == rest.size()) ++piece, at = 0;
    }
    return {};
  };
}

}  // namespace

struct KvStore::Impl {
  struct Entry {
    KvPlace place;
    std::string name;
    std::uint64_t bytes = 0;
    /// Until it is written. The writer keeps it alive while it writes.
    std::shared_ptr<const DetachedSession> cache;
    std::atomic<bool> unwanted{false};
  };
  using EntryPtr = std::shared_ptr<Entry>;

  Impl(std::shared_ptr<const KvDirectory> where, std::uint64_t most, std::uint64_t made_by)
      : directory(std::move(where)), most_bytes(most), maker(made_by), thread([this] { work(); }) {}

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      while (!entries.empty()) erase(entries.begin()->first);
    }
    wake.notify_one();
    thread.join();
  }

  // The writer's thread.
  void work() {
    sigset_t all;  // a file beyond RLIMIT_FSIZE is an error here, not the end of the process
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [this] { return stopping || !doomed.empty() || !waiting.empty(); });
      if (!doomed.empty()) {
        const auto names = std::exchange(doomed, {});
        lock.unlock();
        for (const std::string& name : names) directory->remove(name);
        lock.lock();
      } else if (!waiting.empty()) {
        const EntryPtr entry = waiting.front();
        waiting.pop_front();
        write(lock, *entry);
      } else {
        return;  // stopping, and everything is removed
      }
    }
  }

  void write(std::unique_lock<std::mutex>& lock, Entry& entry) {
    auto cache = entry.cache;
    lock.unlock();
    const auto written = entry.unwanted ? cancelled() : write_file(entry, *cache);
    cache.reset();
    lock.lock();
    writing_bytes -= entry.bytes;
    auto freed = std::exchange(entry.cache, nullptr);
    if (entry.unwanted) {
      doomed.push_back(entry.name);
    } else if (written) {
      ++stats.saved;
    } else {
      no_writes_before = Clock::now() + kPauseAfterFailure;
      ++stats.lost;
      stats.bytes -= entry.bytes;
      entries.erase(entry.place.session);
    }
    lock.unlock();
    freed.reset();
    if (!written && written.error().code != ErrorCode::kCancelled) {
      log(LogLevel::kWarning,
          "an idle session's cache could not be saved and will be computed again; none is saved "
          "for a minute: {}",
          written.error().message);
    }
    lock.lock();
  }

  static Result<void> cancelled() { return fail(ErrorCode::kCancelled, "not wanted any more"); }

  /// Under a name of its own until it is whole.
  Result<void> write_file(const Entry& entry, const DetachedSession& cache) const {
    const std::string unfinished = entry.name + ".new";
    DS4_ASSIGN(const UniqueFd file, directory->create(unfinished));
    auto written = write_kv_file(file.get(), entry.place, maker, cache.pieces(),
                                 [&] { return !entry.unwanted; });
    if (written) written = directory->rename(unfinished, entry.name);
    if (!written) {
      directory->remove(unfinished);
      return fail(std::move(written).error(), directory->path_of(entry.name));
    }
    return {};
  }

  // The engine's thread, with the lock held.
  void erase(std::uint64_t session) {
    const auto found = entries.find(session);
    if (found == entries.end()) return;
    Entry& entry = *found->second;
    stats.bytes -= entry.bytes;
    entry.unwanted = true;
    if (entry.cache == nullptr) doomed.push_back(entry.name);  // else the writer sees to it
    entries.erase(found);
  }

  void make_room(std::uint64_t bytes) {
    while (!entries.empty() && stats.bytes + bytes > most_bytes) {
      const auto oldest = std::min_element(
          entries.begin(), entries.end(),
          [](const auto& a, const auto& b) { return a.second->name < b.second->name; });
      ++stats.lost;
      erase(oldest->first);
    }
  }

  Result<void> restore_file(const Entry& entry, Slice& slice) const {
    DS4_ASSIGN(UniqueFd file, directory->read(entry.name));
    DS4_ASSIGN(KvFileReader reader,
               KvFileReader::open(std::move(file), directory->path_of(entry.name)));
    const KvFileHeader& header = reader.header();
    if (header.place != entry.place || header.maker != maker ||
        header.payload_bytes != entry.bytes) {
      return fail(ErrorCode::kCorrupt, directory->path_of(entry.name) + " is of another session");
    }
    const KvPlace& place = entry.place;
    DS4_TRY(slice.restore_session(place.session, place.context, place.position,
                                  [&](std::span<std::byte> to) { return reader.read(to); }));
    auto whole = reader.finish();
    if (!whole) slice.close_session(place.session);
    return whole;
  }

  const std::shared_ptr<const KvDirectory> directory;
  const std::uint64_t most_bytes;
  const std::uint64_t maker;

  std::mutex mutex;  // guards everything below
  std::condition_variable wake;
  std::map<std::uint64_t, EntryPtr> entries;  // by session
  std::deque<EntryPtr> waiting;
  std::vector<std::string> doomed;  // names of files to be removed
  std::uint64_t writing_bytes = 0;  // of caches that are still in memory
  Clock::time_point no_writes_before{};
  KvStoreStats stats;
  bool stopping = false;

  std::thread thread;  // last: it uses all of the above
};

KvStore::KvStore(std::shared_ptr<const KvDirectory> directory, std::uint64_t most_bytes,
                 std::uint64_t maker)
    : impl_(std::make_unique<Impl>(std::move(directory), most_bytes, maker)) {}

KvStore::~KvStore() = default;

bool KvStore::has_room(std::uint64_t bytes) const {
  const std::lock_guard lock(impl_->mutex);
  if (bytes > impl_->most_bytes || Clock::now() < impl_->no_writes_before) return false;
  return impl_->writing_bytes == 0 || impl_->writing_bytes + bytes <= kMostWaitingBytes;
}

void KvStore::put(const KvPlace& place, std::unique_ptr<DetachedSession> cache) {
  auto entry = std::make_shared<Impl::Entry>();
  entry->place = place;
  entry->name = impl_->directory->new_name();
  entry->bytes = bytes_of(cache->pieces());
  entry->cache = std::move(cache);
  const std::lock_guard lock(impl_->mutex);
  impl_->erase(place.session);
  if (entry->bytes > impl_->most_bytes) {
    ++impl_->stats.lost;
    return;
  }
  impl_->make_room(entry->bytes);
  impl_->stats.bytes += entry->bytes;
  impl_->writing_bytes += entry->bytes;
  impl_->entries[place.session] = entry;
  impl_->waiting.push_back(entry);
  impl_->wake.notify_one();
}

std::optional<KvPlace> KvStore::find(std::uint64_t session) const {
  const std::lock_guard lock(impl_->mutex);
  const auto found = impl_->entries.find(session);
  if (found == impl_->entries.end()) return std::nullopt;
  return found->second->place;
}

Result<void> KvStore::restore(std::uint64_t session, Slice& slice) {
  Impl::EntryPtr entry;
  std::shared_ptr<const DetachedSession> cache;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto found = impl_->entries.find(session);
    if (found == impl_->entries.end()) return fail(ErrorCode::kNotFound, "no such saved session");
    entry = found->second;
    cache = entry->cache;
  }
  const KvPlace& place = entry->place;
  auto restored = cache != nullptr ? slice.restore_session(session, place.context, place.position,
                                                           source_of(cache->pieces()))
                                   : impl_->restore_file(*entry, slice);
  if (!restored && restored.error().code == ErrorCode::kResourceExhausted) return restored;
  const std::lock_guard lock(impl_->mutex);
  ++(restored ? impl_->stats.restored : impl_->stats.lost);
  impl_->erase(session);
  impl_->wake.notify_one();
  if (!restored) {
    log(LogLevel::kWarning, "a session's saved cache is of no use and will be computed again: {}",
        restored.error().message);
  }
  return restored;
}

void KvStore::remove(std::uint64_t session) {
  const std::lock_guard lock(impl_->mutex);
  impl_->erase(session);
  impl_->wake.notify_one();
}

KvStoreStats KvStore::stats() const {
  const std::lock_guard lock(impl_->mutex);
  KvStoreStats stats = impl_->stats;
  stats.sessions = impl_->entries.size();
  return stats;
}

}  // namespace ds4::agent
