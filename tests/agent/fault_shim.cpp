// Loaded into ds4d by LD_PRELOAD: a disk that cannot be read and a system that locks no memory, for
// as long as a file in the directory of DS4_FAULTS says so.
//
//   read_error   reads of many bytes fail as those of a broken disk do; those of a model's header
//                and of its fingerprint's samples get through
//   lock_error   mlock(2) fails as it does at a limit; without it, it succeeds and locks nothing,
//                so that tests need no privilege
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#define DS4_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr std::size_t kManyBytes = 64 * 1024;

bool wanted(const char* fault) {
  const char* const directory = std::getenv("DS4_FAULTS");
  if (directory == nullptr) return false;
  char path[4096];
  std::snprintf(path, sizeof(path), "%s/%s", directory, fault);
  return ::access(path, F_OK) == 0;
}

ssize_t read_or_fail(int fd, void* out, std::size_t bytes, off_t offset) {
  if (offset > 0 && bytes >= kManyBytes && wanted("read_error")) {
    errno = EIO;
    return -1;
  }
  using Read = ssize_t (*)(int, void*, std::size_t, off_t);
  static const auto next = reinterpret_cast<Read>(::dlsym(RTLD_NEXT, "pread"));
  return next(fd, out, bytes, offset);
}

}  // namespace

DS4_EXPORT ssize_t pread(int fd, void* out, std::size_t bytes, off_t offset) {
  return read_or_fail(fd, out, bytes, offset);
}

DS4_EXPORT ssize_t pread64(int fd, void* out, std::size_t bytes, off64_t offset) {
  return read_or_fail(fd, out, bytes, offset);
}

DS4_EXPORT int mlock(const void*, std::size_t) noexcept {
  if (!wanted("lock_error")) return 0;
  errno = ENOMEM;
  return -1;
}
