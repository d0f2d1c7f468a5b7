#include "agent/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  const auto config = parse_config(text, "ds4d.toml");
  return config ? "" : config.error().message;
}

TEST(Config, KeysLeftOutKeepTheirDefaults) {
  const auto config = parse_config("", "ds4d.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->listen.address, "tcp://127.0.0.1:7341");
  EXPECT_EQ(config->state_dir, "/var/lib/ds4d");
  EXPECT_EQ(config->engine.graph, Graph::kOfficial);
  EXPECT_TRUE(config->memory.lock);
}

TEST(Config, EveryKeyIsRead) {
  const auto config = parse_config(R"(
name = "a"
model = "/m.gguf"
state_dir = "/s"
standalone = true
[listen]
address = "tcp://10.0.0.1:1"
[client]
socket = "/c.sock"
group = "ds4"
[engine]
threads = 3
context = 1234
graph = "plain"
precision = "exact"
max_rows = 64
prefill_chunk = 32
stuck_ms = 5000
[residency]
strategy = "memfd"
huge_pages = true
[memory]
budget = "96GiB"
must_lock = true
lock = false
kv_mib = 77
[kv]
directory = "/k"
disk_mib = 99
disk_after_s = 7
[link]
timeout_ms = 900
ping_ms = 50
activations = "bf16"
[metrics]
listen = "127.0.0.1:9464"
[log]
level = "debug"
)",
                                   "ds4d.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->name, "a");
  EXPECT_EQ(config->model, "/m.gguf");
  EXPECT_EQ(config->state_dir, "/s");
  EXPECT_TRUE(config->standalone);
  EXPECT_EQ(config->listen.address, "tcp://10.0.0.1:1");
  EXPECT_EQ(config->client.socket, "/c.sock");
  EXPECT_EQ(config->client.group, "ds4");
  EXPECT_EQ(config->engine.threads, 3U);
  EXPECT_EQ(config->engine.context, 1234U);
  EXPECT_EQ(config->engine.graph, Graph::kPlain);
  EXPECT_EQ(config->engine.precision, cpu::Precision::kExact);
  EXPECT_EQ(config->engine.max_rows, 64U);
  EXPECT_EQ(config->engine.prefill_chunk, 32U);
  EXPECT_EQ(config->engine.stuck_ms, 5000U);
  EXPECT_FALSE(config->memory.lock);
  EXPECT_EQ(config->memory.kv_mib, 77U);
  EXPECT_EQ(config->memory.budget_bytes, 96ULL << 30);
  EXPECT_TRUE(config->memory.must_lock);
  EXPECT_EQ(config->residency.strategy, Config::Strategy::kMemfd);
  EXPECT_TRUE(config->residency.huge_pages);
  EXPECT_EQ(config->metrics.listen, "127.0.0.1:9464");
  EXPECT_EQ(config->link.timeout_ms, 900U);
  EXPECT_EQ(config->link.ping_ms, 50U);
  EXPECT_EQ(config->link.activations, wire::Activations::kBf16);
  EXPECT_EQ(config->kv.directory, "/k");
  EXPECT_EQ(config->kv.disk_mib, 99U);
  EXPECT_EQ(config->kv.disk_after_s, 7U);
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
}

TEST(Config, UnknownKeysAreRefusedByNameAndLine) {
  EXPECT_THAT(error_of("name = \"a\"\nmodle = \"x\"\n"),
              StartsWith("ds4d.toml:2: modle is not a key that ds4d knows"));
  EXPECT_THAT(error_of("\n\n[link]\ntimeout = 5\n"),
              StartsWith("ds4d.toml:4: link.timeout is not"));
  EXPECT_THAT(error_of("[linkk]\n"), StartsWith("ds4d.toml:1: linkk is not"));
}

TEST(Config, UnknownKeysNameWhatIsKnownThere) {
  EXPECT_THAT(error_of("[link]\ntimeout = 5\n"), HasSubstr("ping_ms, timeout_ms"));
}

TEST(Config, IllTypedValuesAreRefusedByNameAndLine) {
  EXPECT_EQ(error_of("[link]\n\ntimeout_ms = \"2s\"\n"),
            "ds4d.toml:3: link.timeout_ms must be a whole number from 50 to 3600000");
  EXPECT_EQ(error_of("[link]\ntimeout_ms = 2000.0\n"),
            "ds4d.toml:2: link.timeout_ms must be a whole number from 50 to 3600000");
  for (const char* size : {"96", "-1GiB", "0GiB", "GiB", "99999999999TiB", "1.5GiB", "1GB", ""}) {
    EXPECT_EQ(error_of("[memory]\nbudget = \"" + std::string(size) + "\"\n"),
              "ds4d.toml:2: memory.budget must be \"auto\" or a size such as \"96GiB\" or "
              "\"512MiB\"");
  }
  EXPECT_EQ(error_of("[memory]\nbudget = \"auto\"\n"), "");
  EXPECT_EQ(error_of("[residency]\nstrategy = \"disk\"\n"),
            "ds4d.toml:2: residency.strategy must be one of \"auto\", \"file\", \"memfd\", "
            "\"cuda-registered\", \"cuda-device\"");
  EXPECT_EQ(error_of("[memory]\nlock = 1\n"), "ds4d.toml:2: memory.lock must be true or false");
  EXPECT_EQ(error_of("model = 3\n"), "ds4d.toml:1: model must be a text of 1 to 4000 bytes");
  EXPECT_EQ(error_of("link = 3\n"), "ds4d.toml:1: link must be a table: write [link]");
}

TEST(Config, ValuesOutOfBoundsAreRefused) {
  EXPECT_THAT(error_of("[link]\nping_ms = 9\n"), HasSubstr("link.ping_ms must be"));
  EXPECT_THAT(error_of("[engine]\nthreads = -1\n"), HasSubstr("engine.threads must be"));
  EXPECT_THAT(error_of("[engine]\nthreads = 9223372036854775807\n"), HasSubstr("engine.threads"));
  EXPECT_THAT(error_of("[engine]\ngraph = \"fancy\"\n"),
              HasSubstr("engine.graph must be one of \"official\", \"plain\""));
  EXPECT_THAT(error_of("name = \"\"\n"), HasSubstr("name must be a text of 1 to 128 bytes"));
  EXPECT_THAT(error_of("name = \"a\\nb\"\n"), HasSubstr("name must not hold control characters"));
  EXPECT_THAT(error_of("[client]\nsocket = \"/" + std::string(107, 'x') + "\"\n"),
              HasSubstr("client.socket must be a text of 1 to 107 bytes"));
}

TEST(Config, ASecondFileChangesOnlyWhatItNames) {
  const auto first = parse_config("name = \"a\"\n[link]\ntimeout_ms = 900\nping_ms = 50\n", "1");
  ASSERT_TRUE(first);
  const auto both = parse_config("link.ping_ms = 60\n", "2", *first);
  ASSERT_TRUE(both);
  EXPECT_EQ(both->name, "a");
  EXPECT_EQ(both->link.timeout_ms, 900U);
  EXPECT_EQ(both->link.ping_ms, 60U);
  const auto bad = parse_config("\nlink.ping_ms = 6\n", "2.toml", *first);
  ASSERT_FALSE(bad);
  EXPECT_THAT(bad.error().message, StartsWith("2.toml:2: link.ping_ms must be"));
}

TEST(Config, ItsLinesAreTheConfiguration) {
  Config config;
  config.name = R"(a "quoted\ name)";
  config.model = "/m.gguf";
  config.client.group = "ds4";
  config.kv.directory = "/k";
  config.engine.precision = cpu::Precision::kExact;
  config.memory.lock = false;
  std::string text;
  for (const std::string& line : config_lines(config)) text += line + "\n";
  const auto again = parse_config(text, "ds4d.toml");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->name, config.name);
  EXPECT_EQ(config_lines(*again), config_lines(config));
  EXPECT_NE(config_lines(*again), config_lines(Config{}));
}

TEST(Config, BrokenTomlIsRefusedWithItsLine) {
  EXPECT_THAT(error_of("name = \"a\"\nmodel = \n"), StartsWith("ds4d.toml:2:"));
  EXPECT_THAT(error_of("name = \"a\"\nname = \"b\"\n"), StartsWith("ds4d.toml:2:"));
}

TEST(CheckConfig, SaysHowToSetTheModel) {
  Config config;
  config.name = "a";
  const auto checked = check_config(config);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().message, HasSubstr("--model"));
  config.model = "/m.gguf";
  EXPECT_TRUE(check_config(config));
}

TEST(Config, ByDefaultAStageThatIsKilledIsMissedWithinTwoSeconds) {
  const Config::Link link;
  // Silent for so long, looked for at every ping; the last one came up to a ping before the end.
  EXPECT_LE(link.timeout_ms + 2 * link.ping_ms, 2000U);
}

TEST(CheckConfig, MetricsAreForThisMachineAlone) {
  Config config;
  config.name = "a";
  config.model = "/m.gguf";
  EXPECT_TRUE(check_config(config));  // off
  config.metrics.listen = "[::1]:9464";
  EXPECT_TRUE(check_config(config));
  config.metrics.listen = "0.0.0.0:9464";
  EXPECT_THAT(check_config(config).error().message,
              StartsWith("metrics.listen: \"0.0.0.0:9464\" can be reached from other machines"));
}

TEST(CheckConfig, ATimeoutShorterThanThreePingsIsRefused) {
  Config config;
  config.name = "a";
  config.model = "/m.gguf";
  config.link.ping_ms = 100;
  config.link.timeout_ms = 299;
  const auto checked = check_config(config);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().message, HasSubstr("at least three times link.ping_ms"));
  config.link.timeout_ms = 300;
  EXPECT_TRUE(check_config(config));
}

TEST(CheckConfig, RefusesWhatTheCommandLineMayBreak) {
  Config good;
  good.name = "a";
  good.model = "/m.gguf";
  Config bad = good;
  bad.listen.address = "ipc:///tmp/x";
  EXPECT_FALSE(check_config(bad));
  bad = good;
  bad.client.socket = std::string(108, 'x');
  EXPECT_FALSE(check_config(bad));
  bad = good;
  bad.name.clear();
  EXPECT_FALSE(check_config(bad));
}

}  // namespace
}  // namespace ds4::agent
