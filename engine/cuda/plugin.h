#pragma once
// The CUDA engine, seen from the rest of the program, which is built without CUDA.
//
// Everything that needs CUDA lives in libds4engine-cuda.so. A machine without a GPU does not have
// that file, and neither its absence nor that of a driver is more than a sentence: open() looks for
// the library, loads it and asks it for the device. Behind this header are only virtual calls into
// the library, which carries its own copy of the engine's code (hidden), so the two halves must
// come from the same build of the same source: the library says which one it is, and another is
// refused. Once loaded it stays until the process ends; objects it made may outlive the engine.
//
// A slice's weights are on the GPU in one of two ways:
//   cuda-device      the cover's bytes in device memory, interval behind interval without gaps.
//                    Exported as POSIX descriptors, the memory outlives this process for as long as
//                    anybody holds them: whoever adopts them has the weights without a copy.
//   cuda-registered  the host's own pages, registered with the driver: for GPUs that share the
//                    host's memory.
//
// Thread rule: every member may be called from any thread; load() blocks the caller until done.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "engine/gguf/model_file.h"
#include "engine/model/slice.h"
#include "engine/residency/resident_slice.h"

namespace ds4 {

struct DeviceFacts {
  std::string name;  // "NVIDIA H200"
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  bool integrated = false;  // shares the host's memory: register rather than copy
  std::uint64_t total_bytes = 0;
  std::uint64_t free_bytes = 0;  // now
};

/// One tensor on the device, in the bytes and with the alignment that it has in the file (a page is
/// a page there too). `data` is a device address: never dereference it on the host.
struct DeviceTensor {
  const TensorInfo* info = nullptr;
  const std::byte* data = nullptr;  // info->bytes bytes
};

/// A descriptor as a store (systemd's, or a test's) keeps it. The name says what it is: see
/// descriptor_name.h.
struct StoredDescriptor {
  std::string name;
  UniqueFd fd;
};

struct CudaLoadOptions {
  /// Called from the thread that called load(), some ten times a second and at the end.
  std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
  /// Looked at between chunks; the load ends with kCancelled and leaves nothing behind.
  const std::atomic<bool>* cancel = nullptr;
  unsigned readers = 0;                     // threads that read the file; 0: chosen
  std::uint64_t ring_bytes = 128ull << 20;  // pinned host memory that the bytes pass through
  std::uint64_t handle_bytes = 4ull << 30;  // device memory behind one descriptor
};

/// How the weights came to be where they are.
struct CudaLoadFigures {
  std::uint64_t bytes = 0;            // copied to the device: 0 if adopted or registered
  double seconds = 0;                 // from the call to resident
  std::uint64_t host_peak_bytes = 0;  // VmHWM meanwhile
  std::uint64_t ring_bytes = 0;       // pinned host memory meanwhile
  unsigned readers = 0;
  bool direct_io = false;  // the file was read around the page cache

  double bytes_per_second() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

/// A slice's weights where a GPU reaches them. Freed (unregistered) with the last reference, but
/// for device memory whose descriptors somebody else holds.
class CudaWeights {
 public:
  virtual ~CudaWeights() = default;

  /// Errors as those of ResidentSlice::tensor: kNotFound if the file has no such tensor,
  /// kOutOfRange (naming tensor and range) if it belongs to other layers.
  virtual Result<DeviceTensor> tensor(std::string_view name) const = 0;
  /// Bytes [offset, offset + out.size()) of a tensor, back on the host: for checks.
  virtual Result<void> read_back(std::string_view name, std::uint64_t offset,
                                 std::span<std::byte> out) const = 0;

  virtual const ModelFile& model() const = 0;
  virtual const LayerRange& range() const = 0;
  virtual const SpanCover& cover() const = 0;
  virtual int device() const = 0;  // ordinal, for cudaSetDevice
  /// Device memory taken: the cover, its completeness mark, and rounding (less than 4 MiB in all);
  /// 0 if registered.
  virtual std::uint64_t device_bytes() const = 0;
  /// Host memory registered with the driver; 0 if in device memory.
  virtual std::uint64_t registered_bytes() const = 0;
  /// The descriptors that keep the device memory alive: give a store duplicates of all of them,
  /// under these names. They stay owned by this object. Empty if registered.
  virtual std::span<const StoredDescriptor> exported() const = 0;
  virtual const CudaLoadFigures& figures() const = 0;
  /// One line for the log: "device memory: span cover 78.21 GiB of 150.00 GiB model (...)".
  virtual std::string describe() const = 0;
};

struct CudaSliceOptions {
  Graph graph = Graph::kOfficial;
  std::uint32_t max_rows = 2048;      // rows that one forward() takes
  std::uint64_t kv_budget_bytes = 0;  // 0: unlimited
};

struct CudaOpenOptions {
  std::string library;  // path of libds4engine-cuda.so; empty: plugin_candidates() are tried
  int device = 0;
};

class CudaEngine {
 public:
  /// Errors: kUnsupported, with a sentence that says what is missing: the library, a driver, a
  /// device (or that it is too old).
  static Result<std::shared_ptr<CudaEngine>> open(const CudaOpenOptions& options = {});
  virtual ~CudaEngine() = default;

  virtual Result<DeviceFacts> facts() const = 0;
  /// Host to device from pinned memory, measured now over about 2 GiB: the bound of every load.
  virtual Result<double> pinned_copy_bytes_per_second() const = 0;

  /// cuda-device. Errors: kResourceExhausted with the figures, before the first byte where the
  /// device says that it cannot hold the cover; kCancelled; kIo. Nothing is left after an error.
  virtual Result<std::shared_ptr<const CudaWeights>> load(std::shared_ptr<const ModelFile> model,
                                                          const LayerRange& range,
                                                          const CudaLoadOptions& options) = 0;
  /// cuda-device, from descriptors that an earlier process exported (others among them are closed).
  /// Errors: kNotFound if the set is not whole, kMismatch or kCorrupt if it is not these weights or
  /// was never completed: then load() is the way on.
  virtual Result<std::shared_ptr<const CudaWeights>> adopt(
      std::shared_ptr<const ModelFile> model, const LayerRange& range,
      std::vector<StoredDescriptor> stored) = 0;
  /// cuda-registered: each interval of the slice's read-only mapping, once.
  virtual Result<std::shared_ptr<const CudaWeights>> register_host(
      std::shared_ptr<const ResidentSlice> slice) = 0;

  virtual Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                                    const CudaSliceOptions& options) = 0;
};

/// Where open() looks, in this order, for an executable at `executable`: beside it and in ../lib as
/// a build tree has them, then where the package puts the library.
std::vector<std::string> plugin_candidates(std::string_view executable);

/// The one symbol that the library exports, `ds4_cuda_plugin`.
struct CudaPluginEntry {
  const char* build;  // kCudaPluginBuild of the library
  void (*open)(int device, Result<std::shared_ptr<CudaEngine>>* engine);
};

/// Source version, compiler and the number of this contract: raise the number with every change of
/// a type that both halves see.
inline constexpr const char* kCudaPluginBuild = "ds4 contract 1, compiler " __VERSION__;

}  // namespace ds4
