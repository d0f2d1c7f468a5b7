// Finds, loads and checks libds4engine-cuda.so.
#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <system_error>

#include "engine/cuda/plugin.h"

namespace ds4 {
namespace {

constexpr std::string_view kLibrary = "libds4engine-cuda.so";

/// dlerror() may be null after a success in between; never here, but a null must not reach fmt.
std::string loader_error() {
  const char* const text = ::dlerror();
  return text != nullptr ? text : "unknown loader error";
}

/// The entry of the library at `path`, once its build is known to be ours.
Result<const CudaPluginEntry*> load_entry(const std::string& path) {
  // Its objects may outlive everything here, so it is never unloaded.
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("the CUDA engine cannot be loaded: {}", loader_error()));
  }
  const auto* const entry =
      static_cast<const CudaPluginEntry*>(::dlsym(library, "ds4_cuda_plugin"));
  if (entry == nullptr) {
    return fail(ErrorCode::kUnsupported, path + " is not a CUDA engine of ds4d");
  }
  if (std::strcmp(entry->build, kCudaPluginBuild) != 0) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} is of another build ({}; this program wants {}); install both from "
                            "the same version",
                            path, entry->build, kCudaPluginBuild));
  }
  return entry;
}

std::string this_executable() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).string();
}

Result<std::string> find_library() {
  std::string tried;
  for (const std::string& path : plugin_candidates(this_executable())) {
    if (::access(path.c_str(), R_OK) == 0) return path;
    tried += (tried.empty() ? "" : ", ") + path;
  }
  return fail(ErrorCode::kUnsupported,
              fmt::format("there is no CUDA engine here (looked for {}); install the package "
                          "ds4d-cuda, or build the preset cuda",
                          tried));
}

}  // namespace

std::vector<std::string> plugin_candidates(std::string_view executable) {
  const std::filesystem::path folder = std::filesystem::path(executable).parent_path();
  std::vector<std::string> paths;
  if (!folder.empty()) {
    for (const std::string_view near : {"", "../lib", "../lib/ds4d"}) {
      paths.push_back((folder / near / kLibrary).lexically_normal().string());
    }
  }
  const std::string packaged = fmt::format("/usr/lib/ds4d/{}", kLibrary);
  if (paths.empty() || paths.back() != packaged) paths.push_back(packaged);
  return paths;
}

Result<std::shared_ptr<CudaEngine>> CudaEngine::open(const CudaOpenOptions& options) {
  std::string path = options.plugin_path;
  if (path.empty()) {
    DS4_ASSIGN(path, find_library());
  }
  DS4_ASSIGN(const CudaPluginEntry* const entry, load_entry(path));
  Result<std::shared_ptr<CudaEngine>> engine;
  entry->open(options, &engine);
  return engine;
}

}  // namespace ds4
