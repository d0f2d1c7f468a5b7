#include "agent/config/config.h"

#include <fmt/format.h>

#include "agent/config/table_reader.h"
#include "agent/config/table_writer.h"
#include "agent/metrics/loopback.h"
#include "agent/wire/control.h"

namespace ds4::agent {
namespace {

constexpr std::size_t kMaxPathBytes = 4000;
constexpr std::size_t kMaxSocketBytes = 107;  // sun_path without its NUL

// The keys, described once: to a TableReader, which reads them, or to a TableWriter.

template <typename Table>
void describe_engine(Table table, Config::Engine& engine) {
  table.choice("device", engine.device,
               {{"cpu", Config::Device::kCpu},
                {"cuda", Config::Device::kCuda},
                {"auto", Config::Device::kAuto}});
  table.number("threads", engine.threads, 0, 1024);
  table.number("context", engine.context, 1, 1U << 24);
  table.choice("graph", engine.graph, {{"official", Graph::kOfficial}, {"plain", Graph::kPlain}});
  table.choice("precision", engine.precision,
               {{"fast", cpu::Precision::kFast}, {"exact", cpu::Precision::kExact}});
  table.number("max_rows", engine.max_rows, 1, 4096);
  table.number("prefill_chunk", engine.prefill_chunk, 1, 4096);
  table.number("stuck_ms", engine.stuck_ms, 1000, 3'600'000);
  table.finish();
}

template <typename Table>
void describe_memory(Table table, Config::Memory& memory) {
  table.size("budget", memory.budget_bytes);
  table.boolean("lock", memory.lock);
  table.boolean("must_lock", memory.must_lock);
  table.number("kv_mib", memory.kv_mib, 0, 1U << 24);
  table.finish();
}

template <typename Table>
void describe_residency(Table table, Config::Residency& residency) {
  table.choice("strategy", residency.strategy,
               {{"auto", Config::Strategy::kAuto},
                {"file", Config::Strategy::kFile},
                {"memfd", Config::Strategy::kMemfd},
                {"cuda-registered", Config::Strategy::kCudaRegistered},
                {"cuda-device", Config::Strategy::kCudaDevice}});
  table.boolean("huge_pages", residency.huge_pages);
  table.finish();
}

template <typename Table>
void describe(Table& root, Config& config) {
  root.text("name", config.name, wire::kMaxNameBytes);
  root.text("model", config.model, kMaxPathBytes);
  root.text("state_dir", config.state_dir, kMaxPathBytes);
  root.boolean("standalone", config.standalone);
  root.boolean("insecure", config.insecure);
  Table listen = root.table("listen");
  listen.text("address", config.listen.address, wire::kMaxNameBytes);
  listen.finish();
  Table client = root.table("client");
  client.text("socket", config.client.socket, kMaxSocketBytes);
  client.text("group", config.client.group, wire::kMaxNameBytes);
  client.finish();
  describe_engine(root.table("engine"), config.engine);
  describe_residency(root.table("residency"), config.residency);
  describe_memory(root.table("memory"), config.memory);
  Table kv = root.table("kv");
  kv.text("directory", config.kv.directory, kMaxPathBytes);
  kv.number("disk_mib", config.kv.disk_mib, 0, 1U << 24);
  kv.number("disk_after_s", config.kv.disk_after_s, 0, 31'536'000);
  kv.finish();
  Table link = root.table("link");
  link.number("timeout_ms", config.link.timeout_ms, 50, 3'600'000);
  link.number("ping_ms", config.link.ping_ms, 10, 60'000);
  link.number("lost_ms", config.link.lost_ms, 100, 3'600'000);
  link.number("forget_ms", config.link.forget_ms, 1000, 86'400'000);
  link.choice("activations", config.link.activations,
              {{"float32", wire::Activations::kFloat32}, {"bf16", wire::Activations::kBf16}});
  link.finish();
  Table metrics = root.table("metrics");
  metrics.text("listen", config.metrics.listen, wire::kMaxNameBytes);
  metrics.finish();
  Table pipeline = root.table("pipeline");
  pipeline.number("decode_wait_ms", config.pipeline.decode_wait_ms, 0, 60'000);
  pipeline.finish();
  Table logging = root.table("log");
  logging.choice("level", config.log_level,
                 {{"error", LogLevel::kError},
                  {"warning", LogLevel::kWarning},
                  {"notice", LogLevel::kNotice},
                  {"info", LogLevel::kInfo},
                  {"debug", LogLevel::kDebug}});
  logging.finish();
  root.finish();
}

Result<toml::table> parse_toml(std::string_view text, std::string_view file_name) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    return fail(
        ErrorCode::kInvalidArgument,
        fmt::format("{}:{}: {}", file_name, error.source().begin.line, error.description()));
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("{}: {}", file_name, error.what()));
  }
}

}  // namespace

Result<Config> parse_config(std::string_view text, std::string_view file_name, Config config) {
  DS4_ASSIGN(const toml::table table, parse_toml(text, file_name));
  std::optional<Error> error;
  TableReader root(&table, "", file_name, error);
  describe(root, config);
  if (error) return tl::unexpected<Error>(std::move(*error));
  return config;
}

std::vector<std::string> config_lines(Config config) {
  std::vector<std::string> lines;
  TableWriter root(lines);
  describe(root, config);
  return lines;
}

Result<void> check_config(const Config& config) {
  const auto require = [](bool ok, std::string_view what) -> Result<void> {
    if (ok) return {};
    return fail(ErrorCode::kInvalidArgument, std::string(what));
  };
  DS4_TRY(require(
      !config.model.empty(),
      "no model is set: write model = \"/path/to/model.gguf\" in ds4d.toml, or give --model"));
  DS4_TRY(require(!config.name.empty() && config.name.size() <= wire::kMaxNameBytes,
                  "a node's name has 1 to 128 bytes: set name in ds4d.toml, or give --name"));
  DS4_TRY(require(config.listen.address.starts_with("tcp://"),
                  "listen.address must be of the form tcp://host:port"));
  DS4_TRY(require(!config.client.socket.empty() && config.client.socket.size() <= kMaxSocketBytes,
                  "client.socket must be a path of 1 to 107 bytes"));
  DS4_TRY(require(!config.state_dir.empty(), "state_dir must not be empty"));
  DS4_TRY(
      require(config.link.timeout_ms >= 3 * config.link.ping_ms,
              fmt::format("link.timeout_ms ({}) must be at least three times link.ping_ms ({}), "
                          "or one late ping would take the route down",
                          config.link.timeout_ms, config.link.ping_ms)));
  if (config.metrics.listen != "off") {
    if (auto address = parse_loopback(config.metrics.listen); !address) {
      return fail(std::move(address).error(), "metrics.listen");
    }
  }
  return {};
}

}  // namespace ds4::agent
