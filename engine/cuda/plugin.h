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
//   cuda-device      the cover's bytes in device memory, one allocation for each layer and one for
//                    the output head, without gaps. Their descriptors go to a DescriptorKeeper, and
//                    as long as anybody holds those the memory outlives this process: the next one
//                    maps it without a copy. Weights that are alive together share their layers.
//   cuda-registered  the host's own pages, registered with the driver: for GPUs that share the
//                    host's memory.
//
// Thread rule: every member may be called from any thread; load() blocks the caller until done.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/cuda/kernel_times.h"
#include "engine/gguf/model_file.h"
#include "engine/model/slice.h"
#include "engine/residency/memfd_store.h"
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

/// A slice's weights where a GPU reaches them. What nothing else holds is freed (unregistered) with
/// the last reference.
class CudaWeights : public Residence {
 public:
  /// Errors as those of ResidentSlice::tensor: kNotFound if the file has no such tensor,
  /// kOutOfRange (naming tensor and range) if it belongs to other layers.
  virtual Result<DeviceTensor> tensor(std::string_view name) const = 0;
  /// Bytes [offset, offset + out.size()) of a tensor, back on the host: for checks.
  virtual Result<void> read_back(std::string_view name, std::uint64_t offset,
                                 std::span<std::byte> out) const = 0;

  virtual const ModelFile& model() const = 0;
  virtual int device() const = 0;  // ordinal, for cudaSetDevice
  /// Device memory taken: the cover, a completeness mark for each part, and its rounding to 2 MiB;
  /// 0 if registered.
  virtual std::uint64_t device_bytes() const = 0;
  /// Host memory registered with the driver; 0 if in device memory.
  virtual std::uint64_t registered_bytes() const = 0;
};

struct CudaSliceOptions {
  Graph graph = Graph::kOfficial;
  std::uint32_t max_rows = 2048;      // rows that one forward() takes
  std::uint64_t kv_budget_bytes = 0;  // 0: unlimited
  /// Told after each forward() how long its kernels ran. Such calls are slower: kernels do not
  /// overlap and are launched one by one.
  std::function<void(std::span<const KernelTime>)> profile = {};
};

struct CudaOpenOptions {
  std::string plugin_path;  // libds4engine-cuda.so; empty: plugin_candidates() are tried
  int device = 0;
  DescriptorKeeper* keeper = nullptr;  // outlives the engine; null: nothing outlives the process
  unsigned readers = 0;                // threads that read the file while loading; 0: chosen
  std::uint64_t ring_bytes = 128ull << 20;  // pinned host memory that a load takes
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
  /// The device's own memory, measured now by copies of 1 GiB within it: bytes read and written.
  virtual Result<double> memory_bytes_per_second() const = 0;

  /// cuda-device: layers that other weights of this engine hold are shared, those that a former
  /// process left with the keeper are taken over, the rest is copied; then the keeper has all of
  /// them. Errors: kResourceExhausted with the figures, before the first byte where the device
  /// says that it cannot hold the layers; kOutOfRange if the file has none of them; kMismatch if it
  /// changed; kCancelled; kIo. Nothing is left after an error. Of the options, those of locking and
  /// chunks mean nothing here; progress is reported some ten times a second.
  virtual Result<std::shared_ptr<const CudaWeights>> load(std::shared_ptr<const ModelFile> model,
                                                          const LayerRange& range,
                                                          const LoadOptions& options = {}) = 0;
  /// cuda-registered: the pages of the slice's read-only mapping; each once, however many slices
  /// share it.
  virtual Result<std::shared_ptr<const CudaWeights>> register_host(
      std::shared_ptr<const ResidentSlice> slice) = 0;
  /// The process ends in order: weights that go from now on stay with the keeper.
  virtual void leave() = 0;

  virtual Result<std::unique_ptr<Slice>> make_slice(std::shared_ptr<const CudaWeights> weights,
                                                    const CudaSliceOptions& options) = 0;
};

/// Where open() looks, in this order, for an executable at `executable`: beside it and in ../lib as
/// a build tree has them, then where the package puts the library.
std::vector<std::string> plugin_candidates(std::string_view executable);

/// The one symbol that the library exports, `ds4_cuda_plugin`.
struct CudaPluginEntry {
  const char* build;  // kCudaPluginBuild of the library
  void (*open)(const CudaOpenOptions& options, Result<std::shared_ptr<CudaEngine>>* engine);
};

/// Source version, compiler and the number of this contract: raise the number with every change of
/// a type that both halves see.
inline constexpr const char* kCudaPluginBuild = "ds4 contract 6, compiler " __VERSION__;

}  // namespace ds4
