#include "ipc/status.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "ipc/client/ds4.h"
#include "ipc/layout.h"

namespace ds4::ipc {
namespace {

// The C header repeats the wire's numbers; they must never part.
constexpr bool same(int c, Status status) {
  return c == static_cast<int>(status);
}
static_assert(same(DS4_OK, Status::kOkStop) && same(DS4_OK_STOP, Status::kOkStop));
static_assert(same(DS4_OK_LENGTH, Status::kOkLength) && same(DS4_OK_CLOSED, Status::kOkClosed));
static_assert(same(DS4_OK_FORKED, Status::kOkForked));
static_assert(same(DS4_CANCELLED, Status::kCancelled));
static_assert(same(DS4_INVALID, Status::kInvalid) && same(DS4_OUT_OF_RANGE, Status::kOutOfRange));
static_assert(same(DS4_BUSY, Status::kBusy) && same(DS4_ROUTE_NOT_READY, Status::kRouteNotReady));
static_assert(same(DS4_PEER_LOST, Status::kPeerLost));
static_assert(same(DS4_AGENT_SHUTDOWN, Status::kAgentShutdown));
static_assert(same(DS4_INTERNAL, Status::kInternal));
static_assert(same(DS4_UNKNOWN_SESSION, Status::kUnknownSession));
static_assert(same(DS4_REFUSED, Status::kRefused) && same(DS4_VERSION, Status::kVersion));

static_assert(DS4_ROUTE_IDLE == static_cast<int>(RouteState::kIdle));
static_assert(DS4_ROUTE_LOADING == static_cast<int>(RouteState::kLoading));
static_assert(DS4_ROUTE_READY == static_cast<int>(RouteState::kReady));
static_assert(DS4_ROUTE_DEGRADED == static_cast<int>(RouteState::kDegraded));
static_assert(DS4_ROUTE_STOPPING == static_cast<int>(RouteState::kStopping));

static_assert(DS4_LOGPROBS == kFlagLogprobs && DS4_KEEP_SESSION == kFlagKeepSession);
static_assert(DS4_PROGRESS == kFlagProgress);
static_assert(DS4_EVENT_TOKEN == static_cast<int>(Kind::kToken));
static_assert(DS4_EVENT_PROGRESS == static_cast<int>(Kind::kProgress));
static_assert(DS4_EVENT_FINAL == static_cast<int>(Kind::kFinal));

TEST(StatusNames, EveryStatusHasItsOwnNameAndSentence) {
  std::set<std::string> names;
  const int statuses[] = {0,  1,  2,  16,  32,  33,  34,  35,  36,  37,  38,
                          39, 40, 41, 256, 257, 258, 259, 260, 261, 262, 3};
  for (const int status : statuses) {
    EXPECT_TRUE(names.insert(ds4_status_name(status)).second) << status;
    EXPECT_STRNE(ds4_status_name(status), "unknown") << status;
    EXPECT_STRNE(ds4_status_text(status), "unknown status") << status;
  }
  for (const int status : {-1, 4, 31, 42, 255, 263, 65536}) {
    EXPECT_STREQ(ds4_status_name(status), "unknown") << status;
    EXPECT_STREQ(ds4_status_text(status), "unknown status") << status;
  }
}

TEST(StatusNames, ErrorsAndRetriesAreToldApart) {
  EXPECT_FALSE(ds4_is_error(DS4_OK));
  EXPECT_FALSE(ds4_is_error(DS4_CANCELLED));
  EXPECT_TRUE(ds4_is_error(DS4_INVALID));
  EXPECT_TRUE(ds4_is_error(DS4_NO_AGENT));
  EXPECT_FALSE(ds4_is_error(DS4_INTERRUPTED));
  EXPECT_TRUE(ds4_is_retryable(DS4_BUSY));
  EXPECT_TRUE(ds4_is_retryable(DS4_NO_AGENT));
  EXPECT_FALSE(ds4_is_retryable(DS4_INVALID));
  EXPECT_FALSE(ds4_is_retryable(-5));
}

TEST(StatusNames, RouteStatesHaveNames) {
  EXPECT_STREQ(ds4_route_state_name(DS4_ROUTE_READY), "ready");
  EXPECT_STREQ(ds4_route_state_name(77), "unknown");
}

}  // namespace
}  // namespace ds4::ipc
