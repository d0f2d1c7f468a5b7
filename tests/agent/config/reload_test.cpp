#include "agent/config/reload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Reload, TheSameConfigurationChangesNothing) {
  const ConfigChange change = compare_configs(Config{}, Config{});
  EXPECT_THAT(change.live, IsEmpty());
  EXPECT_THAT(change.restart, IsEmpty());
}

TEST(Reload, KnowsWhatTakesEffectAtOnceAndWhatWaits) {
  Config next;
  next.name = "b";
  next.listen.address = "tcp://127.0.0.1:1";
  next.engine.stuck_ms = 5000;
  next.engine.threads = 3;
  next.log_level = LogLevel::kDebug;
  const ConfigChange change = compare_configs(Config{}, next);
  EXPECT_THAT(change.live, ElementsAre("engine.stuck_ms", "log.level"));
  EXPECT_THAT(change.restart, ElementsAre("name", "listen.address", "engine.threads"));
}

TEST(Reload, WhatWaitsIsNotTakenOver) {
  Config next;
  next.log_level = LogLevel::kDebug;
  next.engine.threads = 3;
  const Config reached = with_live_keys(Config{}, next);
  EXPECT_EQ(reached.log_level, LogLevel::kDebug);
  EXPECT_EQ(reached.engine.threads, Config{}.engine.threads);
  // So a second reload names it again.
  EXPECT_THAT(compare_configs(reached, next).restart, ElementsAre("engine.threads"));
}

}  // namespace
}  // namespace ds4::agent
