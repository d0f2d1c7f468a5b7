// With a real model: a conversation that went to disk between its turns goes on with the same bits.
#include <gtest/gtest.h>

#include <thread>

#include "agent/stage/kv_store.h"
#include "tests/engine/gguf/temp_file.h"
#include "tests/engine/model/model_fixture.h"

namespace ds4::agent {
namespace {

class PutAwayModel : public testing::TestWithParam<Graph> {};

TEST_P(PutAwayModel, ASessionThatWasOnDiskGoesOnBitForBit) {
  const auto slice = test::make_slice("q4", "0:output", test::fast(GetParam()));
  ASSERT_TRUE(slice);
  const auto tokens = test::read_case("q4.plain", "window130").tokens;
  const std::uint32_t vocabulary = slice->params().n_vocab;
  const auto run = [&](SessionId session, std::uint32_t first, std::uint32_t count) {
    std::vector<float> logits(std::size_t{count} * vocabulary);
    const Segment segment{session, first, std::span(tokens).subspan(first, count),
                          LogitsWanted::kAll};
    const auto done = slice->forward({{&segment, 1}, {}}, {{}, logits});
    EXPECT_TRUE(done) << done.error().message;
    return logits;
  };
  const test::TempDir dir;
  KvStore store(*KvDirectory::open(dir.path()), 1U << 30, 3);
  ASSERT_TRUE(slice->open_session(1, 4096));
  ASSERT_TRUE(slice->open_session(2, 4096));
  for (std::uint32_t first = 0; first < 130; first += 26) {
    if (first > 0) {
      store.put({1, 0, 4096, first}, *slice->detach_session(1));
      while (store.stats().saved * 26 < first) std::this_thread::yield();
      EXPECT_LE(store.stats().bytes, slice->kv_bytes_for(first));
      const auto restored = store.restore(1, *slice);
      ASSERT_TRUE(restored) << restored.error().message;
    }
    EXPECT_TRUE(test::same_bits(run(1, first, 26), run(2, first, 26))) << first;
  }
}

INSTANTIATE_TEST_SUITE_P(Graphs, PutAwayModel, testing::Values(Graph::kOfficial, Graph::kPlain));

}  // namespace
}  // namespace ds4::agent
