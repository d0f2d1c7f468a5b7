#pragma once
// ds4d.toml: everything an administrator may set, with its default and its bounds.
//
// Reading is strict, because a misspelt key that is silently ignored is a setting that silently
// does not hold: every unknown key, wrong type and value out of bounds is refused by file, line and
// name. Parsing is pure (text to Config) and fuzzed; the file, the command line and the machine's
// facts are options.h's business.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "agent/log/log.h"
#include "agent/wire/frame.h"
#include "engine/base/result.h"
#include "engine/cpu/linear.h"
#include "engine/model/hyper_params.h"

namespace ds4::agent {

struct Config {
  std::string name;   // of this node; default: the host's name
  std::string model;  // path of the GGUF file; must be set here or by --model
  std::string state_dir = "/var/lib/ds4d";
  /// While nobody ever assigned layers to this node, it serves the whole model by itself.
  bool standalone = false;
  /// Links without encryption and without keys: whoever reaches listen.address can command this
  /// agent and read what passes. Every node of a route must have the same setting.
  bool insecure = false;

  struct Listen {
    /// Where ds4ctl and the other agents connect; only those whose keys are known here get in. The
    /// default serves this machine alone.
    std::string address = "tcp://127.0.0.1:7341";
  } listen;

  struct Client {
    std::string socket = "/run/ds4d/client.sock";
    std::string group;  // whose members may connect; empty: the agent's own group
  } client;

  enum class Device : std::uint8_t { kCpu, kCuda, kAuto };
  struct Engine {
    Device device = Device::kCpu;  // auto: the GPU, if there is one that can
    std::uint32_t threads = 0;     // 0: one for each core that the agent may use
    std::uint32_t context = 8192;  // positions a session may hold; never above the model's own
    Graph graph = Graph::kOfficial;
    cpu::Precision precision = cpu::Precision::kFast;
    std::uint32_t max_rows = 512;       // rows of one pass through the layers
    std::uint32_t prefill_chunk = 512;  // tokens of a prompt in one work item
    std::uint32_t stuck_ms = 120'000;   // a pass that takes longer: the watchdog is no longer fed
  } engine;

  /// How weights are held; see loader/strategy.h.
  enum class Strategy : std::uint8_t { kAuto, kFile, kMemfd, kCudaRegistered, kCudaDevice };
  struct Residency {
    Strategy strategy = Strategy::kAuto;  // file, or what suits the GPU
    bool huge_pages = false;              // memfd: 2 MiB pages, where the kernel has them
  } residency;

  struct Memory {
    std::uint64_t budget_bytes = 0;  // memory.budget: weights, KV and scratch; 0: auto
    bool lock = true;                // mlock the weights where the limit allows
    bool must_lock = false;          // what cannot be locked is not served
    std::uint32_t kv_mib =
        0;  // KV cache of all sessions; 0: a quarter of what is available after loading
  } memory;

  /// Caches of idle sessions on disk; see stage/kv_store.h.
  struct Kv {
    std::string directory;             // default: kv in the state directory
    std::uint32_t disk_mib = 4096;     // at most; 0: none are put there
    std::uint32_t disk_after_s = 600;  // idle for so long; 0: only when memory is used up
  } kv;

  struct Link {
    std::uint32_t timeout_ms = 1500;  // a stage silent for longer does not answer
    std::uint32_t ping_ms = 100;
    /// Work that the route has not answered for so long is sent again: a frame of it was lost.
    std::uint32_t lost_ms = 30'000;
    /// The sessions of an agent that is away for so long are closed on the other stages.
    std::uint32_t forget_ms = 60'000;
    /// In which numbers this node hands activations on.
    wire::Activations activations = wire::Activations::kFloat32;
  } link;

  struct Metrics {
    /// Where GET /metrics is answered, for Prometheus: a loopback address and port, or "off". Off
    /// by default: every user of the machine could read it, and a second agent could not have it.
    std::string listen = "off";
  } metrics;

  struct Pipeline {
    /// How much later a token may come because of others' prompts; see stage/batch_planner.h.
    std::uint32_t decode_wait_ms = 100;
  } pipeline;

  LogLevel log_level = LogLevel::kInfo;  // [log] level
};

/// Reads `text` over `base`: keys that it leaves out keep what they have there. `file_name` is for
/// the messages. Errors: kInvalidArgument, "ds4d.toml:12: link.timeout_ms must be ...".
Result<Config> parse_config(std::string_view text, std::string_view file_name, Config base = {});

/// Every key with its value, one line each in a fixed order: `link.timeout_ms = 2000`. It is TOML.
std::vector<std::string> config_lines(Config config);

/// Checks what several files and the command line have come to together. Errors: kInvalidArgument.
Result<void> check_config(const Config& config);

}  // namespace ds4::agent
