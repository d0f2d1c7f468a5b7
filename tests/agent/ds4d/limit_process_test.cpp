// An agent that holds a few layers of a file far larger than its memory limit, by the kernel's own
// account: it must live, answer, and never have needed more than its cover, its caches and 256 MiB.
//
// At a size that any machine carries; at full size with a file of DS4_LIMIT_MODEL and its layers of
// DS4_LIMIT_LAYERS (tests/residency_demo.sh). The test itself is the stage in front: it sends
// streams and gets tokens back, for nobody could hold the layers in between.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <random>

#include "agent/link/links.h"
#include "engine/gguf/model_file.h"
#include "engine/model/hyper_params.h"
#include "engine/model/kv_cache.h"
#include "engine/residency/residency_audit.h"
#include "engine/residency/span_map.h"
#include "tests/agent/agent_process.h"
#include "tests/agent/memory_group.h"
#include "tests/tools/synth/plan.h"
#include "tests/tools/synth/writer.h"

namespace ds4::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSlackBytes = 256u << 20;
constexpr std::uint32_t kContext = 4096;
constexpr std::uint64_t kMiB = 1u << 20;

/// The first stage of a route of two, as far as the second one can tell.
class Front {
 public:
  Front() : links_(agent::Links::bind({.address = "tcp://127.0.0.1:*"}, gate_).value()) {}
  std::string address() const { return links_->address(); }
  void join(const std::vector<wire::StageSpec>& route) {
    ASSERT_TRUE(links_->connect(route, 0));
    route_ = route;
  }
  /// One row of streams after the other; the tokens that came back.
  std::vector<std::int32_t> decode(const HyperParams& params, std::uint32_t tokens) {
    std::vector<std::int32_t> out;
    std::uint64_t hash = 0;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (std::uint32_t position = 0; position < tokens; ++position) {
      wire::WorkFrame work;
      work.epoch = 1;
      wire::WorkItem& item = work.items.emplace_back();
      item.session = 5;
      item.first_position = position;
      item.context = kContext;
      item.prefix_hash = hash;
      item.sample = SamplingParams{};
      item.tokens = {static_cast<std::int32_t>(position)};
      work.streams.resize(std::size_t{params.n_streams} * params.n_embd);
      for (float& value : work.streams) value = normal(random);
      hash = wire::extend_hash(hash, item.tokens);
      out.push_back(answer_to(std::move(work)));
    }
    return out;
  }

 private:
  std::int32_t answer_to(wire::WorkFrame work) {
    bool sent = false;
    const auto deadline = std::chrono::steady_clock::now() + 10 * kPatience;
    while (std::chrono::steady_clock::now() < deadline) {
      if (!sent) sent = links_->send(1, work).has_value();
      links_->ping({.epoch = 1, .stage = 0, .instance = 9, .loaded = true});
      links_->wait({}, 50ms);
      std::optional<wire::Outcome> outcome;
      while (links_->receive([&](const agent::Incoming& message) {
        if (message.kind == wire::MessageKind::kError) {
          ADD_FAILURE() << wire::decode_error(message.parts[0])->message;
        }
        if (message.kind != wire::MessageKind::kToken) return;
        outcome = wire::decode_tokens(message.parts[0])->outcomes.at(0);
      })) {
      }
      if (outcome) return outcome->token;
    }
    ADD_FAILURE() << "no token came back";
    return -1;
  }

  keys::Gate gate_;
  std::unique_ptr<agent::Links> links_;
  std::vector<wire::StageSpec> route_;
};

std::string status_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  return {std::istreambuf_iterator<char>(file), {}};
}

/// What the test's own looks at the file left in the page cache would be charged to the test.
void drop_from_page_cache(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ::fdatasync(fd.get());
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
}

struct Case {
  std::string model;
  std::string layers;
  std::string strategy;
};

void expect_within_limit(const Case& that) {
  const auto model = ModelFile::open(that.model).value();
  const HyperParams params = HyperParams::read(model->gguf()).value();
  const LayerRange range = LayerRange::parse(that.layers, params.n_layer).value();
  const SpanCover cover = SpanCover::of(model->gguf(), range, system_page_bytes()).value();
  const std::uint64_t kv = KvPlan::make(params, range, Graph::kOfficial, kContext).bytes;
  const std::uint64_t limit = cover.cover_bytes() + kv + kSlackBytes;
  ASSERT_GT(model->file_bytes(), limit) << "the file would fit in: this proves nothing";
  std::string why;
  const auto group = MemoryGroup::make(limit, why);
  if (group == nullptr) GTEST_SKIP() << why;
  drop_from_page_cache(that.model);

  group->enter();
  AgentProcess agent({.name = "back",
                      .model = that.model,
                      .toml = fmt::format("[engine]\nthreads = 2\nmax_rows = 16\ncontext = {}\n"
                                          "[residency]\nstrategy = \"{}\"\n",
                                          kContext, that.strategy),
                      .insecure = true});
  group->leave();
  Front front;
  const std::string before = fmt::format("0:{}", range.first - 1);
  const std::vector<wire::StageSpec> route = {{"front", front.address(), before},
                                              {"back", agent.address(), that.layers}};
  front.join(route);
  const auto prepared = agent.ask({.body = wire::PrepareRequest{1, "", route, "back"}});
  ASSERT_TRUE(prepared && !prepared->error) << (prepared ? prepared->error->message : "silence");
  std::optional<wire::Preparation> preparation;
  while (preparation = agent.status().preparation,
         preparation && preparation->phase == wire::PreparePhase::kLoading) {
    ::usleep(100'000);
  }
  ASSERT_TRUE(preparation && preparation->phase == wire::PreparePhase::kPrepared) << agent.log();
  ASSERT_FALSE(agent.ask({.body = wire::CommitRequest{1}})->error);
  const auto tokens = front.decode(params, 8);
  const auto status = agent.status();
  for (const std::int32_t token : tokens) {
    EXPECT_GE(token, 0);
    EXPECT_LT(token, static_cast<std::int32_t>(params.n_vocab));
  }
  EXPECT_EQ(status.resident.mapped_bytes, cover.cover_bytes());
  EXPECT_EQ(status.resident.incore_bytes, cover.cover_bytes()) << status.resident.note;
  EXPECT_EQ(status.resident.locked_bytes, cover.cover_bytes()) << status.resident.note;
  EXPECT_EQ(status.resident.outside_cover_bytes, 0U);
  EXPECT_LT(group->peak_bytes(), limit);
  fmt::print(
      "{} {} ({}): file {} MiB, {} intervals over {} MiB, cover {} MiB, KV {:.1f} MiB\n"
      "  limit {} MiB, the kernel's peak {} MiB, VmHWM {} MiB, resident after {:.2f} s "
      "({:.2f} GB/s), {} tokens\n",
      that.model, that.layers, that.strategy, model->file_bytes() / kMiB, cover.intervals().size(),
      cover.hull().bytes() / kMiB, cover.cover_bytes() / kMiB,
      static_cast<double>(kv) / static_cast<double>(kMiB), limit / kMiB, group->peak_bytes() / kMiB,
      parse_status_bytes(status_of(agent.pid()), "VmHWM").value_or(0) / kMiB,
      static_cast<double>(status.resident.load_us) / 1e6,
      static_cast<double>(status.resident.read_bytes) / 1e3 /
          static_cast<double>(status.resident.load_us),
      tokens.size());
}

class MemoryLimit : public ::testing::TestWithParam<std::pair<synth::Order, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Orders, MemoryLimit,
                         ::testing::Values(std::pair(synth::Order::kLayer, "file"),
                                           std::pair(synth::Order::kShuffled, "file"),
                                           std::pair(synth::Order::kShuffled, "memfd")));

TEST_P(MemoryLimit, AFewLayersOfALargeFileFit) {
  const TempDir directory;
  const std::string path = (directory.path() / "large.gguf").string();
  synth::Dims dims;
  dims.n_vocab = 2048;
  dims.n_embd = 1024;
  dims.n_head = 16;
  dims.head_dim = 128;
  dims.q_rank = 256;
  dims.o_rank = 256;
  dims.index_heads = 8;
  dims.n_expert = 32;
  dims.expert_ffn = 512;
  dims.context_length = 65536;
  const auto plan = synth::make_plan(dims, synth::Recipe::kQ4, GetParam().first, 1).value();
  const LayerRange range{40, 42, true};
  ASSERT_TRUE(synth::write_file(plan, path, range, 2));
  expect_within_limit({path, "40:output", GetParam().second});
}

TEST(MemoryLimitFull, TheGivenModelFits) {
  const char* const model = std::getenv("DS4_LIMIT_MODEL");
  if (model == nullptr) {
    GTEST_SKIP() << "set DS4_LIMIT_MODEL, DS4_LIMIT_LAYERS and DS4_LIMIT_STRATEGY, as "
                    "tests/residency_demo.sh does";
  }
  const char* const layers = std::getenv("DS4_LIMIT_LAYERS");
  const char* const strategy = std::getenv("DS4_LIMIT_STRATEGY");
  expect_within_limit(
      {model, layers != nullptr ? layers : "40:output", strategy != nullptr ? strategy : "file"});
}

}  // namespace
}  // namespace ds4::test
