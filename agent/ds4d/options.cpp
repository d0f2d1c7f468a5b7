#include "agent/ds4d/options.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "agent/ds4d/version.h"

namespace ds4::agent {
namespace {

constexpr const char* kDefaultConfig = "/etc/ds4d/ds4d.toml";
constexpr std::uintmax_t kMaxConfigBytes = 1U << 20;

Result<std::string> read_config_file(const std::string& path) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) {
    return fail(ErrorCode::kNotFound,
                fmt::format("read the configuration {}: {}", path, error.message()));
  }
  if (bytes > kMaxConfigBytes) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{} has {} bytes: that is no configuration", path, bytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.is_open() || file.bad()) {
    return fail(ErrorCode::kIo, fmt::format("read the configuration {}: not readable", path));
  }
  return text;
}

Result<void> read_over(const std::string& path, Config& config) {
  DS4_ASSIGN(const std::string text, read_config_file(path));
  DS4_ASSIGN(config, parse_config(text, path, std::move(config)));
  return {};
}

/// Packages and administrators add settings as files of their own, which upgrades leave alone.
Result<std::vector<std::string>> drop_in_files(const std::string& path) {
  const std::string folder = path + ".d";
  std::vector<std::string> files;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".toml") files.push_back(entry->path().string());
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return fail(ErrorCode::kIo,
                fmt::format("read the configurations in {}: {}", folder, error.message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

std::uint32_t usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
}

void override_with(const std::optional<std::string>& value, std::string& out) {
  if (value) out = *value;
}

}  // namespace

CommandLine parse_command_line(int argc, char** argv) {
  Options options;
  CLI::App app("ds4d: holds this machine's share of a DeepSeek V4 model and serves local programs",
               "ds4d");
  app.set_version_flag("--version", fmt::format("ds4d {}", kVersion));
  app.add_option("--config", options.config_path,
                 fmt::format("configuration file (default: {0}); {0}.d/*.toml are read after it",
                             kDefaultConfig));
  app.add_flag("--check-config", options.check_config,
               "read the configuration, print every setting, say if it is good");
  app.add_option("--name", options.name, "name of this node");
  app.add_option("--model", options.model, "path of the GGUF file");
  app.add_option("--listen", options.listen, "address for ds4ctl and the other agents");
  app.add_option("--socket", options.socket, "path of the socket for local programs");
  app.add_option("--state-dir", options.state_dir, "where the assignment is kept");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {std::nullopt, app.exit(error) == 0 ? 0 : 2};
  }
  return {std::move(options), 0};
}

Result<Config> load_config(const Options& options) {
  Config config;
  std::string path = options.config_path;
  if (path.empty() && ::access(kDefaultConfig, F_OK) == 0) path = kDefaultConfig;
  if (!path.empty()) {
    DS4_ASSIGN(const std::vector<std::string> drop_ins, drop_in_files(path));
    DS4_TRY(read_over(path, config));
    for (const std::string& file : drop_ins) DS4_TRY(read_over(file, config));
  }
  override_with(options.name, config.name);
  override_with(options.model, config.model);
  override_with(options.listen, config.listen.address);
  override_with(options.socket, config.client.socket);
  override_with(options.state_dir, config.state_dir);
  if (config.name.empty()) config.name = host_name();
  if (config.engine.threads == 0) config.engine.threads = usable_cores();
  DS4_TRY(check_config(config));
  return config;
}

}  // namespace ds4::agent
