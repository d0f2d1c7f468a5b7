#include "ipc/ring.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "ipc/waker.h"

namespace ds4::ipc {
namespace {

struct Item {
  std::uint64_t value = 0;
  std::uint64_t check = 0;
};

constexpr std::uint32_t kEntries = 8;

/// The memory of a ring with both ends, in one process.
struct Ring {
  alignas(128) std::uint64_t tail = 0;
  alignas(128) std::uint64_t head = 0;
  alignas(128) std::array<std::uint64_t, kEntries * sizeof(Item) / 8> slots = {};
  RingMemory memory() { return {&tail, &head, slots.data(), kEntries}; }
};

TEST(SpscRing, PopFailsWhenEmpty) {
  Ring ring;
  RingConsumer<Item> consumer(ring.memory());
  Item item;
  EXPECT_TRUE(consumer.empty());
  EXPECT_FALSE(consumer.pop(item));
  EXPECT_FALSE(consumer.broken());
}

TEST(SpscRing, PushFailsWhenFull) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  for (std::uint64_t i = 0; i < kEntries; ++i) EXPECT_TRUE(producer.push({i, 0}));
  EXPECT_FALSE(producer.push({99, 0}));
  EXPECT_EQ(producer.space(), 0U);
  EXPECT_FALSE(producer.broken());
}

TEST(SpscRing, NothingShowsBeforeItIsPublished) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  RingConsumer<Item> consumer(ring.memory());
  Item item;
  producer.push({1, 2});
  EXPECT_FALSE(consumer.pop(item));
  producer.publish();
  ASSERT_TRUE(consumer.pop(item));
  EXPECT_EQ(item.value, 1U);
  EXPECT_EQ(item.check, 2U);
}

TEST(SpscRing, SlotsComeBackOnlyWhenReleased) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  RingConsumer<Item> consumer(ring.memory());
  for (std::uint64_t i = 0; i < kEntries; ++i) producer.push({i, 0});
  producer.publish();
  Item item;
  ASSERT_TRUE(consumer.pop(item));
  EXPECT_FALSE(producer.push({100, 0}));
  consumer.release();
  EXPECT_TRUE(producer.push({100, 0}));
}

TEST(SpscRing, KeepsOrderAcrossManyWraps) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  RingConsumer<Item> consumer(ring.memory());
  std::uint64_t expected = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    for (std::uint64_t k = 0; k < 1 + i % kEntries; ++k)
      ASSERT_TRUE(producer.push({i * 100 + k, i}));
    producer.publish();
    Item item;
    for (std::uint64_t k = 0; k < 1 + i % kEntries; ++k, ++expected) {
      ASSERT_TRUE(consumer.pop(item));
      EXPECT_EQ(item.value, i * 100 + k);
    }
    EXPECT_FALSE(consumer.pop(item));
    consumer.release();
  }
  EXPECT_EQ(consumer.head(), expected);
  EXPECT_EQ(producer.tail(), expected);
}

TEST(SpscRing, ConsumerBreaksWhenTheTailRunsAhead) {
  Ring ring;
  RingConsumer<Item> consumer(ring.memory());
  ring.tail = kEntries + 1;
  Item item;
  EXPECT_FALSE(consumer.pop(item));
  EXPECT_TRUE(consumer.broken());
  ring.tail = 1;  // and stays broken
  EXPECT_FALSE(consumer.pop(item));
  EXPECT_TRUE(consumer.empty());
  EXPECT_TRUE(consumer.empty_ordered());
}

TEST(SpscRing, ConsumerBreaksWhenTheTailGoesBack) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  RingConsumer<Item> consumer(ring.memory());
  for (std::uint64_t i = 0; i < 3; ++i) producer.push({i, 0});
  producer.publish();
  Item item;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(consumer.pop(item));
  ring.tail = 2;
  EXPECT_FALSE(consumer.pop(item));
  EXPECT_TRUE(consumer.broken());
}

TEST(SpscRing, ConsumerBreaksWhenTheTailTakesBackWhatItShowed) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  RingConsumer<Item> consumer(ring.memory());
  for (std::uint64_t i = 0; i < 3; ++i) producer.push({i, 0});
  producer.publish();
  Item item;
  ASSERT_TRUE(consumer.pop(item));
  ring.tail = 2;
  EXPECT_TRUE(consumer.empty_ordered());
  EXPECT_TRUE(consumer.broken());
}

TEST(SpscRing, ProducerBreaksWhenTheHeadRunsAhead) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  for (std::uint64_t i = 0; i < kEntries; ++i) producer.push({i, 0});
  ring.head = kEntries + 1;
  EXPECT_FALSE(producer.push({0, 0}));
  EXPECT_TRUE(producer.broken());
}

TEST(SpscRing, ProducerBreaksWhenTheHeadGoesBack) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  for (std::uint64_t i = 0; i < kEntries; ++i) producer.push({i, 0});
  ring.head = 4;
  producer.refresh_ordered();
  ASSERT_FALSE(producer.broken());
  ring.head = 3;
  producer.refresh_ordered();
  EXPECT_TRUE(producer.broken());
  EXPECT_EQ(producer.space(), 0U);
}

TEST(SpscRing, NobodyElseCanMoveMyOwnPosition) {
  Ring ring;
  RingProducer<Item> producer(ring.memory());
  producer.push({1, 0});
  producer.publish();
  ring.tail = 77;  // scribbled over by the other side
  producer.push({2, 0});
  producer.publish();
  EXPECT_EQ(ring.tail, 2U);
}

TEST(SpscRing, TwoThreadsSeeEveryItemOnceAndWhole) {
  Ring ring;
  constexpr std::uint64_t kItems = 200'000;
  std::thread writer([&] {
    RingProducer<Item> producer(ring.memory());
    for (std::uint64_t i = 0; i < kItems;) {
      if (producer.push({i, ~i}))
        ++i;
      else
        std::this_thread::yield();
      producer.publish();
    }
  });
  RingConsumer<Item> consumer(ring.memory());
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kItems;) {
    Item item;
    if (!consumer.pop(item)) {
      std::this_thread::yield();
      continue;
    }
    wrong += item.value != i || item.check != ~i ? 1 : 0;
    ++i;
    consumer.release();
  }
  writer.join();
  EXPECT_EQ(wrong, 0U);
  EXPECT_FALSE(consumer.broken());
}

TEST(Waker, TakesOnlyWhatIsWanted) {
  std::uint32_t word = 0;
  Sleeper sleeper(&word);
  Waker waker(&word);
  EXPECT_FALSE(waker.take(3));
  sleeper.want(1);
  EXPECT_TRUE(sleeper.is_wanting());
  EXPECT_FALSE(waker.take(2));
  EXPECT_TRUE(waker.take(1));
  EXPECT_FALSE(waker.take(1)) << "one signal per sleep";
  EXPECT_FALSE(sleeper.is_wanting());
  EXPECT_FALSE(sleeper.awake()) << "it was taken, so a signal is due";
  sleeper.want(1);
  EXPECT_TRUE(sleeper.awake()) << "nobody took it";
  EXPECT_FALSE(waker.take(1));
}

/// Stands for a descriptor: counts signals, and lets one sleep until there is one.
class Semaphore {
 public:
  void signal() {
    count_.fetch_add(1);
    count_.notify_one();
  }
  void sleep() {
    int count = count_.load();
    while (count == 0) {
      count_.wait(0);
      count = count_.load();
    }
    count_.store(0);
  }
  std::atomic<int> count_ = 0;
};

// A lost wake-up shows as a test that never ends.
TEST(Waker, LosesNoWakeUpBetweenTwoThreads) {
  Ring ring;
  alignas(128) std::uint32_t consumer_wants = 0;
  alignas(128) std::uint32_t producer_wants = 0;
  Semaphore consumer_bell;
  Semaphore producer_bell;
  constexpr std::uint64_t kItems = 100'000;

  std::thread writer([&] {
    RingProducer<Item> producer(ring.memory());
    Sleeper sleeper(&producer_wants);
    Waker waker(&consumer_wants);
    for (std::uint64_t i = 0; i < kItems;) {
      const bool pushed = producer.push({i, ~i});
      if (pushed) {
        ++i;
        producer.publish_ordered();
        if (waker.take(1)) consumer_bell.signal();
        continue;
      }
      sleeper.want(2);
      producer.refresh_ordered();
      if (producer.space() == 0) producer_bell.sleep();
      sleeper.awake();
    }
  });

  RingConsumer<Item> consumer(ring.memory());
  Sleeper sleeper(&consumer_wants);
  Waker waker(&producer_wants);
  std::uint64_t sleeps = 0;
  for (std::uint64_t i = 0; i < kItems;) {
    Item item;
    if (consumer.pop(item)) {
      ASSERT_EQ(item.value, i);
      ++i;
      consumer.release_ordered();
      if (waker.take(2)) producer_bell.signal();
      continue;
    }
    sleeper.want(1);
    if (consumer.empty_ordered()) {
      ++sleeps;
      consumer_bell.sleep();
    }
    sleeper.awake();
  }
  writer.join();
  EXPECT_FALSE(consumer.broken());
  RecordProperty("sleeps", static_cast<int>(sleeps));
}

}  // namespace
}  // namespace ds4::ipc
