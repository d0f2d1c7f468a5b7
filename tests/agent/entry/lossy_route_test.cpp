// The same world over links on which frames are lost, repeated, overtaken, held back and cut off:
// no token is wrong, missing or repeated, whoever waits for one gets it or a typed end, and nothing
// piles up.
#include "tests/agent/entry/random_world.h"

namespace ds4::agent::test {
namespace {

constexpr std::uint32_t kSeeds = 200;  // of each kind of trouble
// In a world of twelve sessions of 60 tokens, some of them fed four times over.
constexpr std::uint64_t kMostWaitingFrames = 1000;
constexpr std::uint64_t kMostWaitingWork = 3000;

struct Totals {
  std::map<ipc::Status, int> statuses;
  std::size_t tokens = 0;
  std::uint64_t faults = 0;
};

/// Whatever was lost before, everybody is answered now. If nothing was, no cache is left behind.
void expect_whole_again(World& world, bool was_lossless) {
  world.route.links->heal();
  world.come_to_rest();
  for (const ipc::ClientId client : {1, 2, 3, 4}) world.leave(client);
  world.come_to_rest();
  ASSERT_EQ(world.entry.sessions(), 0U);
  ASSERT_TRUE(world.route.links->empty() && world.route.all_idle());
  if (was_lossless) {
    ASSERT_EQ(world.route.sessions(), 0U);
  }
  // Closings were lost too: such caches go where their memory is needed.
  world.route.pass(std::chrono::seconds(120));
  world.statuses.clear();
  for (int i = 0; i < 12 && !::testing::Test::HasFailure(); ++i) {
    world.ask();
    world.come_to_rest();
    ASSERT_TRUE(world.open.empty());
  }
  for (const auto& [status, count] : world.statuses) {
    EXPECT_TRUE(status == ipc::Status::kOkLength || status == ipc::Status::kOkStop ||
                status == ipc::Status::kOutOfRange)
        << static_cast<int>(status);
  }
}

void run(std::uint32_t seed, const Faults& faults, bool route_stays, Totals& totals) {
  World world(seed, seed % kStages, faults);
  world.route_stays = route_stays;
  for (int i = 0; i < 200 && !::testing::Test::HasFailure(); ++i) {
    world.act();
    ASSERT_LT(world.route.links->waiting(), kMostWaitingFrames);
    ASSERT_LT(world.route.waiting_rows(), kMostWaitingWork);
  }
  world.come_to_rest();
  ASSERT_FALSE(::testing::Test::HasFailure());
  ASSERT_TRUE(world.open.empty()) << "a request hangs";
  ASSERT_EQ(world.route.control->misplaced_rows, 0);
  ASSERT_EQ(world.entry.sessions(), world.kept.size());
  totals.tokens += world.tokens;
  totals.faults += world.route.links->faults_so_far();
  for (const auto& [status, count] : world.statuses) totals.statuses[status] += count;
  const Faults only_late{.hold = faults.hold};
  expect_whole_again(world, route_stays && faults == only_late);
}

struct Trouble {
  const char* name;
  Faults faults;
};

class LossyLinksBelow : public ::testing::TestWithParam<Trouble> {
 protected:
  /// The seeds from `first` on.
  Totals run_all(std::uint32_t first, bool route_stays) {
    Totals totals;
    for (std::uint32_t seed = first; seed < first + kSeeds; ++seed) {
      run(seed, GetParam().faults, route_stays, totals);
      if (HasFailure()) {
        ADD_FAILURE() << GetParam().name << ", seed " << seed;
        break;
      }
    }
    // The test would prove nothing if hardly anything came through, or nothing went wrong.
    EXPECT_GT(totals.tokens, 5000U);
    EXPECT_GT(totals.faults, kSeeds);
    EXPECT_GT(totals.statuses[ipc::Status::kOkLength], 1000);
    EXPECT_EQ(totals.statuses[ipc::Status::kInternal], 0);
    return totals;
  }
};

TEST_P(LossyLinksBelow, ARouteThatStaysAnswersEverybodyAllTheSame) {
  Totals totals = run_all(0, true);
  // Who had bad luck four times in a row is told so; nobody else has an error of the route's.
  EXPECT_LE(totals.statuses[ipc::Status::kPeerLost], totals.statuses[ipc::Status::kOkLength] / 100);
}

TEST_P(LossyLinksBelow, SoDoesOneThatChangesAndWhoseStagesRestart) {
  run_all(100'000, false);
}

INSTANTIATE_TEST_SUITE_P(
    Entry, LossyLinksBelow,
    ::testing::Values(Trouble{"frames vanish", {.drop = 8}},
                      Trouble{"frames come twice", {.repeat = 10}},
                      Trouble{"frames overtake", {.overtake = 40}},
                      Trouble{"links wait", {.hold = 50}}, Trouble{"links are cut", {.cut = 6}},
                      Trouble{"all of it",
                              {.drop = 3, .repeat = 10, .overtake = 10, .hold = 10, .cut = 2}}),
    [](const auto& trouble) {
      std::string name = trouble.param.name;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

}  // namespace
}  // namespace ds4::agent::test
