#pragma once
// Both ends of one region in one process: the agent's session, and a client that writes what it
// likes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ipc/server/session.h"

namespace ds4::ipc::testing {

inline const RequestLimits kLimits{
    .vocabulary = 1000, .context = 3000, .max_requests = 3, .max_stop_tokens = 4};
inline const RegionShape kShape{
    .submission_entries = 8, .completion_entries = 16, .arena_tokens = 1024};

struct Recorder final : Session::Sink {
  void on_request(Request request) override { requests.push_back(std::move(request)); }
  void on_space() override { ++spaces; }
  std::vector<Request> requests;
  int spaces = 0;
};

/// Both ends of one region: the session under test, and a client that writes what it likes.
class SessionTest : public ::testing::Test {
 protected:
  void open(const RequestLimits& limits = kLimits) {
    auto created = Region::create(kShape);
    ASSERT_TRUE(created);
    session = std::make_unique<Session>(std::move(created->region), limits);
    auto opened = Region::open(created->fd.get(), kShape.region_bytes());
    ASSERT_TRUE(opened);
    region = std::move(*opened);
    submissions = RingProducer<SubmissionEntry>(region.submissions());
    completions = RingConsumer<CompletionEntry>(region.completions());
  }
  void SetUp() override { open(); }

  static SubmissionEntry entry(Op op, std::uint64_t id) {
    SubmissionEntry e;
    e.op = static_cast<std::uint16_t>(op);
    e.request_id = id;
    if (op != Op::kGenerate) e.top_p = 0;
    return e;
  }
  /// A generate or a part whose tokens lie where they should.
  SubmissionEntry with_tokens(Op op, std::uint64_t id, std::uint32_t tokens,
                              std::int32_t value = 5) {
    SubmissionEntry e = entry(op, id);
    e.arena_begin = arena_tail;
    e.prompt_tokens = tokens;
    write_arena(tokens, value);
    return e;
  }
  void write_arena(std::uint32_t tokens, std::int32_t value) {
    for (std::uint32_t i = 0; i < tokens; ++i)
      region.arena()[(arena_tail + i) % kShape.arena_tokens] = value;
    arena_tail += tokens;
  }
  void submit(const SubmissionEntry& e) {
    ASSERT_TRUE(submissions.push(e));
    submissions.publish_ordered();
  }
  /// Turns until the session wants to sleep.
  void turns() {
    for (int i = 0; i < 1000 && session->turn(sink); ++i) {
    }
  }
  std::vector<CompletionEntry> drain() {
    session->flush();  // as the agent does at the end of its turn
    std::vector<CompletionEntry> out;
    CompletionEntry e;
    while (completions.pop(e)) out.push_back(e);
    completions.release_ordered();
    return out;
  }
  /// The final of request `id` among what the client can read, with its sentence.
  std::pair<Status, std::string> final_of(std::uint64_t id) {
    std::string sentence;
    for (const CompletionEntry& e : drain()) {
      if (e.request_id != id) continue;
      if (e.kind == static_cast<std::uint16_t>(Kind::kMessage))
        sentence.append(reinterpret_cast<const char*>(e.body.data()), e.text_bytes);
      if (e.kind == static_cast<std::uint16_t>(Kind::kFinal)) return {Status{e.status}, sentence};
    }
    return {Status::kOkClosed, "no final"};
  }
  void expect_broken(const char* why) {
    turns();
    ASSERT_TRUE(session->broken());
    EXPECT_THAT(*session->broken(), ::testing::HasSubstr(why));
    EXPECT_FALSE(session->turn(sink)) << "a broken session does no more work";
  }

  std::unique_ptr<Session> session;
  Region region;
  RingProducer<SubmissionEntry> submissions;
  RingConsumer<CompletionEntry> completions;
  std::uint64_t arena_tail = 0;
  Recorder sink;
};

}  // namespace ds4::ipc::testing
