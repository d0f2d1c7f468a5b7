#include "engine/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <vector>

namespace ds4::cpu {
namespace {

TEST(ThreadPool, CountsTheCallerAndTakesZeroForOne) {
  EXPECT_EQ(ThreadPool(0).size(), 1u);
  EXPECT_EQ(ThreadPool(1).size(), 1u);
  EXPECT_EQ(ThreadPool(3).size(), 3u);
}

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (const unsigned threads : {1u, 2u, 3u, 5u}) {
    ThreadPool pool(threads);
    for (const std::size_t count : {0u, 1u, 2u, 7u, 64u, 1000u}) {
      for (const std::size_t grain : {0u, 1u, 3u, 64u, 5000u}) {
        std::vector<std::atomic<int>> visits(count);
        pool.parallel_for(count, grain, [&](std::size_t begin, std::size_t end, unsigned) {
          for (std::size_t i = begin; i < end; ++i) visits[i].fetch_add(1);
        });
        for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(visits[i].load(), 1) << i;
      }
    }
  }
}

TEST(ThreadPool, CutsPiecesOfTheGrainExceptTheLast) {
  ThreadPool pool(3);
  std::atomic<int> whole{0}, rest{0}, other{0};
  pool.parallel_for(103, 10, [&](std::size_t begin, std::size_t end, unsigned) {
    const bool is_aligned = begin % 10 == 0;
    if (is_aligned && end - begin == 10) {
      ++whole;
    } else if (is_aligned && begin == 100 && end == 103) {
      ++rest;
    } else {
      ++other;
    }
  });
  EXPECT_EQ(whole.load(), 10);
  EXPECT_EQ(rest.load(), 1);
  EXPECT_EQ(other.load(), 0);
}

TEST(ThreadPool, OfOneThreadIsAPlainCall) {
  ThreadPool pool(1);
  const auto caller = std::this_thread::get_id();
  int calls = 0;
  pool.parallel_for(100, 1, [&](std::size_t begin, std::size_t end, unsigned thread) {
    EXPECT_EQ(begin, 0u);
    EXPECT_EQ(end, 100u);
    EXPECT_EQ(thread, 0u);
    EXPECT_EQ(std::this_thread::get_id(), caller);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPool, RunsASinglePieceOnTheCaller) {
  ThreadPool pool(4);
  const auto caller = std::this_thread::get_id();
  pool.parallel_for(8, 8, [&](std::size_t, std::size_t, unsigned thread) {
    EXPECT_EQ(thread, 0u);
    EXPECT_EQ(std::this_thread::get_id(), caller);
  });
}

TEST(ThreadPool, NeverRunsTwoPiecesUnderOneThreadNumber) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> busy(pool.size());
  std::atomic<int> clashes{0};
  for (int region = 0; region < 50; ++region) {
    pool.parallel_for(64, 1, [&](std::size_t, std::size_t, unsigned thread) {
      ASSERT_LT(thread, pool.size());
      if (busy[thread].fetch_add(1) != 0) ++clashes;
      std::this_thread::yield();
      busy[thread].fetch_sub(1);
    });
  }
  EXPECT_EQ(clashes.load(), 0);
}

TEST(ThreadPool, PublishesWhatPiecesWroteToTheCallerAndTheNextRegion) {
  ThreadPool pool(3);
  // Plain memory: only the pool orders the accesses. Each region reads what others wrote before.
  std::vector<std::size_t> now(512, 0), next(512);
  for (std::size_t round = 1; round <= 2000; ++round) {
    pool.parallel_for(now.size(), 16, [&](std::size_t begin, std::size_t end, unsigned) {
      for (std::size_t i = begin; i < end; ++i) next[i] = now[now.size() - 1 - i] + 1;
    });
    now.swap(next);
    ASSERT_EQ(std::accumulate(now.begin(), now.end(), std::size_t{0}), round * now.size());
  }
}

TEST(ThreadPool, WakesSleepingWorkers) {
  ThreadPool pool(2);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // past the spinning
    std::atomic<int> inside{0};
    std::atomic<bool> met{false};
    // Both pieces wait for each other, so this ends early only if the worker woke up.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    pool.parallel_for(2, 1, [&](std::size_t, std::size_t, unsigned) {
      inside.fetch_add(1);
      while (inside.load() < 2 && std::chrono::steady_clock::now() < deadline)
        std::this_thread::yield();
      if (inside.load() == 2) met = true;
    });
    EXPECT_TRUE(met.load());
  }
}

TEST(ThreadPool, StopsInAnyState) {
  for (int round = 0; round < 20; ++round) {
    ThreadPool never_used(3);
    ThreadPool just_used(3);
    just_used.parallel_for(10, 1, [](std::size_t, std::size_t, unsigned) {});
    ThreadPool asleep(2);
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace
}  // namespace ds4::cpu
