#include <gtest/gtest.h>

#include "engine/cuda/plugin.h"
#include "tests/engine/gguf/temp_file.h"

namespace ds4 {
namespace {

Error open_error(const std::string& library) {
  const auto engine = CudaEngine::open({.plugin_path = library});
  EXPECT_FALSE(engine);
  return engine ? Error{} : engine.error();
}

TEST(CudaPlugin, IsLookedForNearTheProgramAndWhereThePackagePutsIt) {
  EXPECT_EQ(plugin_candidates("/opt/x/bin/ds4d"),
            (std::vector<std::string>{
                "/opt/x/bin/libds4engine-cuda.so", "/opt/x/lib/libds4engine-cuda.so",
                "/opt/x/lib/ds4d/libds4engine-cuda.so", "/usr/lib/ds4d/libds4engine-cuda.so"}));
  EXPECT_EQ(plugin_candidates("/usr/bin/ds4d").back(), "/usr/lib/ds4d/libds4engine-cuda.so");
  EXPECT_EQ(plugin_candidates(""),
            (std::vector<std::string>{"/usr/lib/ds4d/libds4engine-cuda.so"}));
}

TEST(CudaPlugin, SaysThatThereIsNoLibrary) {
  const Error error = open_error("/nonexistent/libds4engine-cuda.so");
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_NE(error.message.find("/nonexistent/libds4engine-cuda.so"), std::string::npos)
      << error.message;
}

TEST(CudaPlugin, RefusesAFileThatIsNoLibrary) {
  const test::TempDir dir;
  const std::string path = dir.write("libds4engine-cuda.so", std::as_bytes(std::span("not ELF")));
  EXPECT_EQ(open_error(path).code, ErrorCode::kUnsupported);
}

TEST(CudaPlugin, RefusesALibraryThatIsNoCudaEngine) {
  // Any library will do that does not have our symbol; the C library is always there.
  const Error error = open_error("libc.so.6");
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_NE(error.message.find("not a CUDA engine"), std::string::npos) << error.message;
}

#ifdef DS4_CUDA_LIBRARY
TEST(CudaPlugin, LoadsAndEitherFindsADeviceOrSaysWhatIsMissing) {
  const auto engine = CudaEngine::open({.plugin_path = DS4_CUDA_LIBRARY});
  if (engine) {
    EXPECT_TRUE((*engine)->facts());
    return;
  }
  EXPECT_EQ(engine.error().code, ErrorCode::kUnsupported);
  EXPECT_TRUE(engine.error().message.find("driver") != std::string::npos ||
              engine.error().message.find("GPU") != std::string::npos)
      << engine.error().message;
}
#endif

}  // namespace
}  // namespace ds4
