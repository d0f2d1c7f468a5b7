// Runs the C program against a server, as a separate process linked to the shared library.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>

#include "tests/ipc/fake_agent.h"

namespace ds4::ipc::testing {
namespace {

TEST(CInterface, AProgramInCGetsItsAnswer) {
  SocketPlace place;
  FakeAgent agent(config_at(place.path()));
  const int status =
      std::system((std::string(DS4_BINARY_DIR "/bin/c_abi_test ") + place.path()).c_str());
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(agent.handler().requests, 1);
}

}  // namespace
}  // namespace ds4::ipc::testing
