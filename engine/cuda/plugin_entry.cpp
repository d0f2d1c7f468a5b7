// The one symbol of libds4engine-cuda.so.
#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/plugin.h"

extern "C" __attribute__((visibility("default"))) const ds4::CudaPluginEntry ds4_cuda_plugin;

const ds4::CudaPluginEntry ds4_cuda_plugin = {
    ds4::kCudaPluginBuild,
    [](const ds4::CudaOpenOptions& options, ds4::Result<std::shared_ptr<ds4::CudaEngine>>* engine) {
      *engine = ds4::cuda::open_engine(options);
    },
};
