#include "agent/ds4d/request_id.h"

#include <gtest/gtest.h>

namespace ds4::agent {
namespace {

TEST(ReadRequestId, FindsTheIdOfAWrongRequest) {
  EXPECT_EQ(read_request_id(R"({"id": 7, "request": "explode"})"), 7U);
}

TEST(ReadRequestId, KnowsWhenThereIsNone) {
  for (const char* text :
       {"", "7", "[7]", "{}", R"({"id": -1})", R"({"id": "7"})", R"({"id": 7)"}) {
    EXPECT_FALSE(read_request_id(text)) << text;
  }
}

}  // namespace
}  // namespace ds4::agent
