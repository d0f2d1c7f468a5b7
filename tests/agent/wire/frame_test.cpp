#include "agent/wire/frame.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

namespace ds4::wire {
namespace {

using ::testing::Test;

std::span<const std::byte> bytes_of(const std::string& s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& v) {
  return std::as_bytes(std::span(v));
}

template <typename T>
void poke(std::string& bytes, std::size_t offset, T value) {
  ASSERT_LE(offset + sizeof(T), bytes.size());
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// Offsets in a work header whose first item samples.
constexpr std::size_t kItems = 12;
constexpr std::size_t kItem = 16;
constexpr std::size_t kPrefixHash = kItem + 8;
constexpr std::size_t kFirstPosition = kItem + 16;
constexpr std::size_t kContext = kItem + 20;
constexpr std::size_t kEntry = kItem + 24;
constexpr std::size_t kFlags = kItem + 28;
constexpr std::size_t kTokens = kItem + 32;
constexpr std::size_t kItemReserved = kItem + 36;
constexpr std::size_t kSampling = kItem + 40;
constexpr std::size_t kTemperature = kSampling + 8;
constexpr std::size_t kTopP = kSampling + 12;
constexpr std::size_t kMinP = kSampling + 16;
constexpr std::size_t kFirstToken = kSampling + 24;

WorkItem sampled_item() {
  WorkItem item;
  item.session = 0x1122334455667788;
  item.first_position = 7;
  item.context = 4096;
  item.prefix_hash = 0xfedcba9876543210;
  item.entry = 2;
  item.sample = SamplingParams{0.7F, 0.9F, 0.05F, 40, 1234567890123};
  item.tokens = {5, 0, 129279};
  return item;
}

WorkItem silent_item() {
  WorkItem item;
  item.session = 9;
  item.context = 2;
  item.tokens = {1, 2};
  return item;
}

WorkFrame work_frame() {
  WorkFrame frame;
  frame.epoch = 42;
  frame.items = {sampled_item(), silent_item()};
  return frame;
}

/// The error of decoding `header` with no streams; empty if it decodes.
std::string work_error(const std::string& header) {
  const auto frame = decode_work(bytes_of(header), {}, 4);
  if (frame) return "";
  EXPECT_EQ(frame.error().code, ErrorCode::kCorrupt);
  return frame.error().message;
}

std::string work_error(const std::function<void(std::string&)>& change) {
  std::string header = encode(work_frame());
  change(header);
  return work_error(header);
}

bool names(const std::string& error, const std::string& field) {
  return error.find(field) != std::string::npos;
}

TEST(WorkFrame, RoundTripsWithStreams) {
  WorkFrame frame = work_frame();
  for (int i = 0; i < 5 * 4; ++i) frame.streams.push_back(static_cast<float>(i) / 3);
  const auto decoded = decode_work(bytes_of(encode(frame)), bytes_of(frame.streams), 4);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->epoch, 42U);
  EXPECT_EQ(decoded->items, frame.items);
  EXPECT_EQ(decoded->streams, frame.streams);
}

TEST(WorkFrame, Bf16IsHalfTheBytesAndRoundsToNearestEven) {
  WorkFrame frame;
  frame.items = {silent_item()};
  frame.activations = Activations::kBf16;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float nan = std::bit_cast<float>(0x7F800001U);  // whose upper half alone is an infinity
  frame.streams = {1.0F, 0x1.01p0F, 0x1.03p0F, 0x1.010002p0F, -0x1.03p0F, -0.0F, nan, -kInfinity};
  const std::vector<std::uint16_t> narrow = to_bf16(frame.streams);
  const auto decoded = decode_work(bytes_of(encode(frame)), bytes_of(narrow), 4);
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->activations, Activations::kBf16);
  EXPECT_EQ(decoded->items, frame.items);
  ASSERT_EQ(decoded->streams.size(), 8U);
  const std::vector<float> wanted = {1.0F, 1.0F, 0x1.04p0F, 0x1.02p0F, -0x1.04p0F};
  EXPECT_EQ(std::vector<float>(decoded->streams.begin(), decoded->streams.begin() + 5), wanted);
  EXPECT_TRUE(std::signbit(decoded->streams[5]));
  EXPECT_TRUE(std::isnan(decoded->streams[6]));
  EXPECT_EQ(decoded->streams[7], -kInfinity);
}

TEST(WorkFrame, StreamsOfTheOtherNumbersAreAnError) {
  WorkFrame frame;
  frame.items = {silent_item()};
  const std::vector<float> streams(2 * 4);
  EXPECT_FALSE(decode_work(bytes_of(encode(frame)), bytes_of(to_bf16(streams)), 4));
  frame.activations = Activations::kBf16;
  EXPECT_FALSE(decode_work(bytes_of(encode(frame)), bytes_of(streams), 4));
  std::string header = encode(frame);
  header[8] = 2;
  EXPECT_TRUE(names(work_error(header), "activations"));
}

TEST(WorkFrame, StreamsThatAreNotFiniteArePassedOnAsTheyAre) {
  WorkFrame frame;
  frame.items = {silent_item()};
  frame.streams = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  const auto decoded = decode_work(bytes_of(encode(frame)), bytes_of(frame.streams), 1);
  ASSERT_TRUE(decoded);
  EXPECT_TRUE(std::isnan(decoded->streams[0]));
  EXPECT_TRUE(std::isinf(decoded->streams[1]));
}

TEST(WorkFrame, LayoutIsTheDocumentedOne) {
  const std::string header = encode(work_frame());
  ASSERT_EQ(header.size(), 16U + 40 + 24 + 3 * 4 + 40 + 2 * 4);
  const auto u32 = [&](std::size_t at) {
    std::uint32_t value;
    std::memcpy(&value, header.data() + at, 4);
    return value;
  };
  EXPECT_EQ(static_cast<unsigned char>(header[0]), 42);  // little-endian
  EXPECT_EQ(u32(kItems), 2U);
  EXPECT_EQ(static_cast<unsigned char>(header[kItem]), 0x88);
  EXPECT_EQ(u32(kFirstPosition), 7U);
  EXPECT_EQ(u32(kContext), 4096U);
  EXPECT_EQ(u32(kEntry), 2U);
  EXPECT_EQ(u32(kFlags), 1U);
  EXPECT_EQ(u32(kTokens), 3U);
  EXPECT_EQ(u32(kFirstToken + 8), 129279U);
}

TEST(WorkFrame, EveryTruncationIsAnError) {
  const std::string header = encode(work_frame());
  for (std::size_t size = 0; size < header.size(); ++size) {
    EXPECT_NE(work_error(header.substr(0, size)), "") << size;
  }
}

TEST(WorkFrame, BytesAfterTheEndAreAnError) {
  EXPECT_TRUE(names(work_error(encode(work_frame()) + '\0'), "1 bytes follow"));
}

TEST(WorkFrame, StreamsOfAnotherSizeAreAnError) {
  const std::string header = encode(work_frame());
  const std::vector<float> streams(5 * 4 + 1);
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{79}, std::size_t{81}, std::size_t{84}}) {
    const auto frame = decode_work(bytes_of(header), bytes_of(streams).first(bytes), 4);
    ASSERT_FALSE(frame) << bytes;
    EXPECT_TRUE(names(frame.error().message, "streams are"));
  }
  EXPECT_TRUE(decode_work(bytes_of(header), bytes_of(streams).first(80), 4));
}

TEST(WorkFrame, FloatsPerRowThatOverflowAreAnError) {
  const std::vector<float> streams(4);
  const std::string header = encode(work_frame());
  EXPECT_FALSE(decode_work(bytes_of(header), bytes_of(streams), 1ULL << 62));
  EXPECT_FALSE(decode_work(bytes_of(header), bytes_of(streams), ~0ULL));
}

TEST(WorkFrame, HostileCountsAreRefusedBeforeAnythingIsAllocated) {
  for (const std::uint32_t count : {0U, kMaxItems + 1, 0x7fffffffU, 0xffffffffU}) {
    EXPECT_TRUE(names(work_error([&](std::string& h) { poke(h, kItems, count); }), "items is"));
    EXPECT_TRUE(names(work_error([&](std::string& h) { poke(h, kTokens, count * 64); }),
                      "items[0].tokens is"));
  }
  // Within the bound, but more than the bytes present can hold.
  EXPECT_TRUE(
      names(work_error([](std::string& h) { poke(h, kItems, kMaxItems); }), "bytes left can hold"));
  EXPECT_TRUE(names(work_error([](std::string& h) { poke(h, kTokens, kMaxFrameTokens); }),
                    "bytes left can hold"));
}

TEST(WorkFrame, AllItemsTogetherHaveAtMostTheRowsOfAFrame) {
  WorkFrame frame;
  frame.items.resize(2, silent_item());
  frame.items[0].context = frame.items[1].context = kMaxFrameTokens;
  frame.items[0].tokens.assign(kMaxFrameTokens - 2, 1);
  EXPECT_EQ(work_error(encode(frame)), "");
  frame.items[1].tokens.push_back(3);
  EXPECT_TRUE(names(work_error(encode(frame)), "items[1].tokens is 3"));
}

TEST(WorkFrame, PositionsBeyondTheContextAreRefused) {
  const auto at = [](std::uint32_t first, std::uint32_t context) {
    return work_error([&](std::string& h) {
      poke(h, kFirstPosition, first);
      poke(h, kContext, context);
    });
  };
  EXPECT_EQ(at(7, 10), "");
  EXPECT_TRUE(names(at(7, 9), "items[0].first_position is 7"));
  EXPECT_TRUE(names(at(0xffffffff, 0xffffffff), "first_position"));
  EXPECT_TRUE(names(at(0xfffffffd, 2), "first_position"));
  EXPECT_EQ(at(0xfffffffc, 0xffffffff), "");
}

TEST(WorkFrame, WorkThatBeginsASessionContinuesNothing) {
  EXPECT_TRUE(names(work_error([](std::string& h) { poke(h, kFirstPosition, 0U); }),
                    "items[0].prefix_hash must be 0"));
}

TEST(WorkFrame, FieldsOutOfRangeAreNamed) {
  const auto with_u32 = [](std::size_t at, std::uint32_t value) {
    return work_error([&](std::string& h) { poke(h, at, value); });
  };
  EXPECT_TRUE(names(with_u32(8, 2), "activations are of kind 2"));
  EXPECT_TRUE(names(with_u32(kEntry, 256), "items[0].entry is 256"));
  EXPECT_TRUE(names(with_u32(kFlags, 3), "items[0].flags"));
  EXPECT_TRUE(names(with_u32(kItemReserved, 9), "items[0].reserved is 9"));
  EXPECT_TRUE(names(with_u32(kFirstToken + 4, 0x80000000), "items[0].tokens hold the negative id"));
  EXPECT_EQ(with_u32(kPrefixHash, 77), "");
}

TEST(WorkFrame, SamplingParametersOutOfRangeAreNamed) {
  const auto with = [](std::size_t at, float value) {
    return work_error([&](std::string& h) { poke(h, at, value); });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity, -0.5F}) {
    EXPECT_TRUE(names(with(kTemperature, bad), "items[0].temperature is")) << bad;
    EXPECT_TRUE(names(with(kTopP, bad), "items[0].top_p is")) << bad;
    EXPECT_TRUE(names(with(kMinP, bad), "items[0].min_p is")) << bad;
  }
  EXPECT_TRUE(names(with(kTopP, 0.0F), "top_p"));
  EXPECT_TRUE(names(with(kTopP, 1.5F), "top_p"));
  EXPECT_TRUE(names(with(kMinP, 1.5F), "min_p"));
  EXPECT_EQ(with(kTemperature, 50.0F), "");
}

TEST(TokenFrame, RoundTrips) {
  TokenFrame frame;
  frame.epoch = 3;
  frame.outcomes = {{1, 10, 129279, -0.25F}, {~0ULL, 0xffffffff, -1, 0}};
  const auto decoded = decode_tokens(bytes_of(encode(frame)));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->epoch, 3U);
  EXPECT_EQ(decoded->outcomes, frame.outcomes);
}

TEST(TokenFrame, BadOutcomesAreNamed) {
  TokenFrame frame;
  frame.outcomes = {{1, 10, 5, 0}, {2, 0, 5, 0}};
  EXPECT_TRUE(
      names(decode_tokens(bytes_of(encode(frame))).error().message, "outcomes[1].position"));
  frame.outcomes[1] = {2, 1, -2, 0};
  EXPECT_TRUE(
      names(decode_tokens(bytes_of(encode(frame))).error().message, "outcomes[1].token is -2"));
  frame.outcomes.clear();
  EXPECT_TRUE(names(decode_tokens(bytes_of(encode(frame))).error().message, "outcomes is 0"));
}

TEST(CloseFrame, RoundTripsAtItsBounds) {
  CloseFrame frame;
  frame.epoch = 8;
  for (std::uint64_t i = 0; i < kMaxItems; ++i) frame.sessions.push_back(i << 32);
  const auto decoded = decode_close(bytes_of(encode(frame)));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->epoch, 8U);
  EXPECT_EQ(decoded->sessions, frame.sessions);
  frame.sessions.push_back(1);
  EXPECT_TRUE(names(decode_close(bytes_of(encode(frame))).error().message, "sessions is 1025"));
}

TEST(ForkFrame, RoundTripsAtItsBounds) {
  ForkFrame frame;
  frame.epoch = 9;
  for (std::uint64_t i = 0; i < kMaxItems; ++i) {
    frame.items.push_back({i << 32, i << 32 | 1, ~i, static_cast<std::uint32_t>(i + 1), 255});
  }
  const auto decoded = decode_fork(bytes_of(encode(frame)));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->epoch, 9U);
  EXPECT_EQ(decoded->items, frame.items);
  frame.items.push_back(frame.items[0]);
  EXPECT_TRUE(names(decode_fork(bytes_of(encode(frame))).error().message, "items is 1025"));
}

TEST(ForkFrame, WhatCannotBeCopiedIsRefused) {
  ForkFrame frame;
  frame.items.resize(1);
  const auto is_refused_for = [&](const ForkItem& item, const char* field) {
    frame.items[0] = item;
    const std::string bytes = encode(frame);
    const auto decoded = decode_fork(bytes_of(bytes));
    return !decoded && names(decoded.error().message, field);
  };
  EXPECT_TRUE(is_refused_for({5, 5, 1, 1, 0}, "target"));
  EXPECT_TRUE(is_refused_for({5, 6, 1, 0, 0}, "position"));
  EXPECT_TRUE(is_refused_for({5, 6, 1, 1, 256}, "entry"));
  frame.items[0] = {5, 6, 1, 1, 0};
  const std::string whole = encode(frame);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_FALSE(decode_fork(bytes_of(whole).first(bytes)));
}

TEST(ErrorFrame, RoundTripsEveryCode) {
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    ErrorFrame frame;
    frame.epoch = 5;
    frame.stage = 255;
    frame.sessions = {4, 5};
    frame.code = static_cast<ErrorCode>(code);
    frame.message = "the session is not held here";
    const auto decoded = decode_error(bytes_of(encode(frame)));
    ASSERT_TRUE(decoded) << decoded.error().message;
    EXPECT_EQ(decoded->epoch, 5U);
    EXPECT_EQ(decoded->stage, 255U);
    EXPECT_EQ(decoded->sessions, frame.sessions);
    EXPECT_EQ(decoded->code, frame.code);
    EXPECT_EQ(decoded->message, frame.message);
  }
}

TEST(ErrorFrame, CodeNumbersNeverChange) {
  ErrorFrame frame;
  frame.sessions = {1};
  const auto number = [&](ErrorCode code) {
    frame.code = code;
    return static_cast<int>(encode(frame)[12]);
  };
  EXPECT_EQ(number(ErrorCode::kInternal), 0);
  EXPECT_EQ(number(ErrorCode::kMismatch), 6);
  EXPECT_EQ(number(ErrorCode::kResourceExhausted), 7);
  EXPECT_EQ(number(ErrorCode::kIo), 12);
}

TEST(ErrorFrame, ACodeOfANewerPeerIsInternal) {
  ErrorFrame frame;
  frame.sessions = {1};
  frame.code = ErrorCode::kMismatch;
  std::string header = encode(frame);
  poke(header, 12, 0xffffffffU);
  const auto decoded = decode_error(bytes_of(header));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->code, ErrorCode::kInternal);
}

TEST(ErrorFrame, MessageCannotDriveATerminal) {
  ErrorFrame frame;
  frame.sessions = {1};
  frame.message = "aaaaa";
  std::string header = encode(frame);
  header.replace(header.size() - 5, 5, "a\x1b[2J");
  const auto decoded = decode_error(bytes_of(header));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->message, "a [2J");
}

TEST(ErrorFrame, ALongMessageIsCutBetweenCharacters) {
  ErrorFrame frame;
  frame.sessions = {1};
  for (int i = 0; i < 3000; ++i) frame.message += "\xc3\xa9";
  frame.message.insert(0, "x");
  const auto decoded = decode_error(bytes_of(encode(frame)));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->message, frame.message.substr(0, 4095));
}

TEST(ErrorFrame, MessageLongerThanItsBytesIsRefused) {
  ErrorFrame frame;
  frame.sessions = {1};
  frame.message = "short";
  std::string header = encode(frame);
  poke(header, 20, 4096U);
  EXPECT_TRUE(names(decode_error(bytes_of(header)).error().message, "message"));
  poke(header, 20, 4097U);
  EXPECT_TRUE(names(decode_error(bytes_of(header)).error().message, "message_bytes is 4097"));
}

TEST(PingFrame, RoundTrips) {
  for (const bool loaded : {false, true}) {
    for (const bool ready : {false, true}) {
      const bool hears_all = loaded != ready;
      const PingFrame frame{11, 3, 0x1234567890, loaded, hears_all, ready, 0xabcdef, 7, 8, 9};
      const auto decoded = decode_ping(bytes_of(encode(frame)));
      ASSERT_TRUE(decoded) << decoded.error().message;
      EXPECT_EQ(decoded->epoch, 11U);
      EXPECT_EQ(decoded->stage, 3U);
      EXPECT_EQ(decoded->instance, 0x1234567890U);
      EXPECT_EQ(decoded->loaded, loaded);
      EXPECT_EQ(decoded->hears_all, hears_all);
      EXPECT_EQ(decoded->route_ready, ready);
      EXPECT_EQ(decoded->processes, 0xabcdefU);
      EXPECT_EQ(decoded->sent_us, 7U);
      EXPECT_EQ(decoded->echo_us, 8U);
      EXPECT_EQ(decoded->held_us, 9U);
    }
  }
}

TEST(DigestProcesses, ChangesWithEveryProcessAndWithTheirOrder) {
  const auto digest = [](std::vector<std::uint64_t> instances) {
    return digest_processes(instances);
  };
  EXPECT_EQ(digest({1, 2, 3}), digest({1, 2, 3}));
  EXPECT_NE(digest({1, 2, 3}), digest({1, 2, 4}));
  EXPECT_NE(digest({1, 2, 3}), digest({4, 2, 3}));
  EXPECT_NE(digest({1, 2, 3}), digest({2, 1, 3}));
  EXPECT_NE(digest({1, 2, 3}), digest({1, 2}));
}

TEST(PingFrame, UnknownFlagsAndStagesAreRefused) {
  PingFrame frame;
  frame.stage = 256;
  EXPECT_TRUE(names(decode_ping(bytes_of(encode(frame))).error().message, "stage is 256"));
  std::string header = encode(PingFrame{});
  poke(header, 20, 8U);
  EXPECT_TRUE(names(decode_ping(bytes_of(header)).error().message, "flags 0x8"));
}

TEST(Frames, EveryTruncationIsAnError) {
  TokenFrame tokens;
  tokens.outcomes = {{1, 10, 5, 0}};
  CloseFrame close;
  close.sessions = {1, 2};
  ErrorFrame error;
  error.sessions = {1, 2};
  error.message = "why";
  const auto check = [](const std::string& header, const auto& decode) {
    ASSERT_TRUE(decode(bytes_of(header)));
    for (std::size_t size = 0; size < header.size(); ++size) {
      EXPECT_FALSE(decode(bytes_of(header).first(size))) << size;
    }
    EXPECT_FALSE(decode(bytes_of(header + '\0')));
  };
  check(encode(tokens), decode_tokens);
  check(encode(close), decode_close);
  check(encode(error), decode_error);
  check(encode(PingFrame{}), decode_ping);
}

TEST(Frames, RandomlyDamagedHeadersNeverDoHarm) {
  std::mt19937 random(1);
  const std::string good = encode(work_frame());
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string header = good;
    for (int change = 0; change < 3; ++change) {
      header[random() % header.size()] = static_cast<char>(random());
    }
    const auto frame = decode_work(bytes_of(header), {}, 4);
    accepted += frame.has_value();
    (void)decode_tokens(bytes_of(header));
    (void)decode_close(bytes_of(header));
    (void)decode_error(bytes_of(header));
    (void)decode_ping(bytes_of(header));
  }
  EXPECT_GT(accepted, 0);  // damaged ids and hashes are still frames
  EXPECT_LT(accepted, 20000);
}

TEST(ExtendHash, ByPartsOrAtOnceIsTheSame) {
  const std::vector<std::int32_t> tokens = {17, 0, 129279, 4, 4};
  const std::uint64_t whole = extend_hash(0, tokens);
  for (std::size_t cut = 0; cut <= tokens.size(); ++cut) {
    const auto all = std::span(tokens);
    EXPECT_EQ(extend_hash(extend_hash(0, all.first(cut)), all.subspan(cut)), whole);
  }
}

TEST(ExtendHash, NeverChanges) {
  // Agents of different releases must agree; computed independently in Python.
  const std::vector<std::int32_t> tokens = {1, 2, 3};
  EXPECT_EQ(extend_hash(0, {}), 0U);
  EXPECT_EQ(extend_hash(0, tokens), 0xd0734750fde362b3ULL);
}

TEST(ExtendHash, TellsOrderValueAndLengthApart) {
  const auto of = [](std::vector<std::int32_t> tokens) { return extend_hash(0, tokens); };
  EXPECT_NE(of({1, 2}), of({2, 1}));
  EXPECT_NE(of({1, 2}), of({1, 3}));
  EXPECT_NE(of({0}), of({0, 0}));
  EXPECT_NE(of({0}), of({}));
}

}  // namespace
}  // namespace ds4::wire
