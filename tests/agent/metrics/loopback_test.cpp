#include "agent/metrics/loopback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

std::string error_of(std::string_view text) {
  const auto address = parse_loopback(text);
  if (address) return "";
  EXPECT_EQ(address.error().code, ErrorCode::kInvalidArgument);
  return address.error().message;
}

TEST(Loopback, AddressesOfThisMachineAreTakenAsTheyAre) {
  for (const std::string text : {"127.0.0.1:9464", "127.8.9.1:0", "[::1]:65535"}) {
    const auto address = parse_loopback(text);
    ASSERT_TRUE(address) << address.error().message;
    EXPECT_EQ(to_text(*address), text);
  }
}

TEST(Loopback, AddressesThatOthersCouldReachAreRefusedWithTheReason) {
  for (const char* text : {"0.0.0.0:9464", "10.0.0.1:9464", "[::]:9464", "[fe80::1]:9464",
                           "128.0.0.1:1", "[::ffff:10.0.0.1]:9464"}) {
    EXPECT_THAT(error_of(text), HasSubstr("can be reached from other machines")) << text;
  }
}

TEST(Loopback, OtherFormsAreRefusedWithAnExample) {
  for (const char* text : {"", ":", "9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                           "127.0.0.1:-1", "127.0.0.1:9464 ", "localhost:9464", "::1:9464",
                           "[::1:9464", "[127.0.0.1]x:1", "tcp://127.0.0.1:9464", "127.1:80"}) {
    EXPECT_THAT(error_of(text), HasSubstr("such as 127.0.0.1:9464")) << text;
  }
}

}  // namespace
}  // namespace ds4::agent
