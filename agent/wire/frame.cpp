// The headers' layout. Every field is little-endian; `x*` stands for the elements counted before.
//
// clang-format off
//   work      epoch u64 | activations u32 (0: float32, 1: bf16) | items u32 | item*
//   item      session u64 | prefix_hash u64 | first_position u32 | context u32 | entry u32
//             | flags u32 (1: sample) | tokens u32 | 0 u32 | sampling, if flagged | token i32*
//   sampling  seed u64 | temperature f32 | top_p f32 | min_p f32 | top_k u32
//   tokens    epoch u64 | 0 u32 | outcomes u32 | outcome*
//   outcome   session u64 | position u32 | token i32 | logprob f32 | 0 u32
//   close     epoch u64 | 0 u32 | sessions u32 | session u64*
//   fork      epoch u64 | 0 u32 | items u32 | fork item*
//   fork item source u64 | target u64 | prefix_hash u64 | position u32 | entry u32
//   error     epoch u64 | stage u32 | code u32 | sessions u32 | message_bytes u32 | session u64* | message
//   ping      epoch u64 | instance u64 | stage u32 | flags u32 (1: loaded, 2: route ready, 4: hears all)
//             | processes u64 | sent_us u64 | echo_us u64 | held_us u64
// clang-format on
#include "agent/wire/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "agent/wire/byte_cursor.h"
#include "agent/wire/control.h"
#include "agent/wire/peer_text.h"
#include "engine/base/checked.h"
#include "engine/quant/float16.h"

namespace ds4::wire {
namespace {

constexpr std::size_t kItemBytes = 40;
constexpr std::size_t kSamplingBytes = 24;
constexpr std::size_t kOutcomeBytes = 24;
constexpr std::size_t kSessionBytes = 8;
constexpr std::size_t kForkBytes = 32;
constexpr std::uint32_t kSampleFlag = 1U << 0;
constexpr std::uint32_t kLoadedFlag = 1U << 0;
constexpr std::uint32_t kRouteReadyFlag = 1U << 1;
constexpr std::uint32_t kHearsAllFlag = 1U << 2;

/// An error code's number on the wire is its index here: append only.
constexpr std::array kWireCodes = {
    ErrorCode::kInternal,    ErrorCode::kInvalidArgument,   ErrorCode::kOutOfRange,
    ErrorCode::kNotFound,    ErrorCode::kCorrupt,           ErrorCode::kUnsupported,
    ErrorCode::kMismatch,    ErrorCode::kResourceExhausted, ErrorCode::kPermission,
    ErrorCode::kUnavailable, ErrorCode::kTimeout,           ErrorCode::kCancelled,
    ErrorCode::kIo,
};

std::uint32_t wire_code(ErrorCode code) {
  for (std::uint32_t i = 0; i < kWireCodes.size(); ++i) {
    if (kWireCodes[i] == code) return i;
  }
  return 0;
}

/// A newer peer's code becomes kInternal: its sentence still says what happened.
ErrorCode error_code(std::uint32_t number) {
  return number < kWireCodes.size() ? kWireCodes[number] : ErrorCode::kInternal;
}

void write_sampling(ByteWriter& out, const SamplingParams& params) {
  out.u64(params.seed);
  out.f32(params.temperature);
  out.f32(params.top_p);
  out.f32(params.min_p);
  out.u32(params.top_k);
}

void write_item(ByteWriter& out, const WorkItem& item) {
  out.u64(item.session);
  out.u64(item.prefix_hash);
  out.u32(item.first_position);
  out.u32(item.context);
  out.u32(item.entry);
  out.u32(item.sample ? kSampleFlag : 0);
  out.u32(static_cast<std::uint32_t>(item.tokens.size()));
  out.u32(0);
  if (item.sample) write_sampling(out, *item.sample);
  out.tokens(item.tokens);
}

/// The same bounds as a client's request has; a value outside would make sampling undefined.
float bounded_f32(ByteReader& in, std::string_view field, float least, float most) {
  const float value = in.f32(field);
  if (!std::isfinite(value) || value < least || value > most) {
    in.reject(field, fmt::format("is {}, must be within {} and {}", value, least, most));
  }
  return value;
}

SamplingParams read_sampling(ByteReader& in) {
  constexpr float kAnyFinite = std::numeric_limits<float>::max();
  constexpr float kAboveZero = std::numeric_limits<float>::min();
  SamplingParams params;
  params.seed = in.u64("seed");
  params.temperature = bounded_f32(in, "temperature", 0, kAnyFinite);
  params.top_p = bounded_f32(in, "top_p", kAboveZero, 1);
  params.min_p = bounded_f32(in, "min_p", 0, 1);
  params.top_k = in.u32("top_k");
  return params;
}

/// Work that begins a session continues nothing, and no item may reach beyond its session's context
/// (which also keeps positions from overflowing).
void check_place(ByteReader& in, const WorkItem& item, std::uint32_t tokens) {
  if (item.first_position == 0 && item.prefix_hash != 0) {
    in.reject("prefix_hash", "must be 0 at position 0");
  }
  if (!fits(item.first_position, tokens, item.context)) {
    in.reject("first_position", fmt::format("is {}: with {} tokens it exceeds the context of {}",
                                            item.first_position, tokens, item.context));
  }
}

void read_tokens(ByteReader& in, std::uint32_t count, std::vector<std::int32_t>& tokens) {
  const auto bytes = in.take("tokens", std::size_t{count} * sizeof(std::int32_t));
  if (bytes.empty()) return;
  tokens.resize(count);
  std::memcpy(tokens.data(), bytes.data(), bytes.size());
  for (const std::int32_t token : tokens) {
    if (token < 0) return in.reject("tokens", fmt::format("hold the negative id {}", token));
  }
}

std::uint32_t read_stage(ByteReader& in, std::string_view field) {
  const std::uint32_t stage = in.u32(field);
  if (stage >= kMaxStages) {
    in.reject(field, fmt::format("is {}, must be below {}", stage, kMaxStages));
  }
  return stage;
}

WorkItem read_item(ByteReader& in, std::uint32_t rows_left) {
  WorkItem item;
  item.session = in.u64("session");
  item.prefix_hash = in.u64("prefix_hash");
  item.first_position = in.u32("first_position");
  item.context = in.u32("context");
  item.entry = read_stage(in, "entry");
  const std::uint32_t flags = in.u32("flags");
  if ((flags & ~kSampleFlag) != 0) in.reject("flags", fmt::format("{:#x} are unknown", flags));
  const std::uint32_t tokens = in.count("tokens", 1, rows_left, sizeof(std::int32_t));
  in.zero_u32("reserved");
  if ((flags & kSampleFlag) != 0) item.sample = read_sampling(in);
  if (in.failed()) return item;
  check_place(in, item, tokens);
  read_tokens(in, tokens, item.tokens);
  return item;
}

std::uint32_t read_count(ByteReader& in, std::string_view field, std::size_t element_bytes) {
  in.zero_u32("reserved");
  return in.count(field, 1, kMaxItems, element_bytes);
}

void read_sessions(ByteReader& in, std::uint32_t count, std::vector<std::uint64_t>& sessions) {
  sessions.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) sessions.push_back(in.u64("sessions"));
}

Activations read_activations(ByteReader& in) {
  const std::uint32_t number = in.u32("activations");
  if (number > static_cast<std::uint32_t>(Activations::kBf16)) {
    in.reject("activations", fmt::format("are of kind {}: is a later ds4d on the route?", number));
  }
  return static_cast<Activations>(number);
}

Result<std::vector<float>> read_streams(std::span<const std::byte> bytes, Activations activations,
                                        std::uint64_t rows, std::uint64_t floats_per_row) {
  std::vector<float> streams;
  if (bytes.empty()) return streams;
  const bool narrow = activations == Activations::kBf16;
  const std::uint64_t float_bytes = narrow ? sizeof(std::uint16_t) : sizeof(float);
  const auto floats = checked_mul(rows, floats_per_row);
  const auto expected = floats ? checked_mul<std::uint64_t>(*floats, float_bytes) : std::nullopt;
  if (expected != bytes.size()) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("work frame: streams are {} bytes, but {} rows of {} floats belong "
                            "here: do both stages serve the same model?",
                            bytes.size(), rows, floats_per_row));
  }
  streams.resize(*floats);
  if (!narrow) {
    std::memcpy(streams.data(), bytes.data(), bytes.size());
    return streams;
  }
  for (std::size_t i = 0; i < streams.size(); ++i) {
    std::uint16_t value;
    std::memcpy(&value, bytes.data() + i * sizeof(value), sizeof(value));
    streams[i] = quant::bf16_to_float(value);
  }
  return streams;
}

/// The finaliser of splitmix64: a bijection of the running hash, so two sequences that differ in
/// their last value never collide, and others do so by chance alone.
std::uint64_t mix(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) + 0x9e3779b97f4a7c15ULL;
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ULL;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebULL;
  return hash ^ (hash >> 31);
}

}  // namespace

std::string encode(const WorkFrame& frame) {
  std::size_t bytes = 16;
  for (const WorkItem& item : frame.items) {
    bytes += kItemBytes + kSamplingBytes + item.tokens.size() * sizeof(std::int32_t);
  }
  ByteWriter out(bytes);
  out.u64(frame.epoch);
  out.u32(static_cast<std::uint32_t>(frame.activations));
  out.u32(static_cast<std::uint32_t>(frame.items.size()));
  for (const WorkItem& item : frame.items) write_item(out, item);
  return out.take();
}

std::vector<std::uint16_t> to_bf16(std::span<const float> streams) {
  std::vector<std::uint16_t> narrow(streams.size());
  std::transform(streams.begin(), streams.end(), narrow.begin(), quant::float_to_bf16);
  return narrow;
}

std::string encode(const TokenFrame& frame) {
  ByteWriter out(16 + frame.outcomes.size() * kOutcomeBytes);
  out.u64(frame.epoch);
  out.u32(0);
  out.u32(static_cast<std::uint32_t>(frame.outcomes.size()));
  for (const Outcome& outcome : frame.outcomes) {
    out.u64(outcome.session);
    out.u32(outcome.position);
    out.i32(outcome.token);
    out.f32(outcome.logprob);
    out.u32(0);
  }
  return out.take();
}

std::string encode(const CloseFrame& frame) {
  ByteWriter out(16 + frame.sessions.size() * kSessionBytes);
  out.u64(frame.epoch);
  out.u32(0);
  out.u32(static_cast<std::uint32_t>(frame.sessions.size()));
  for (const std::uint64_t session : frame.sessions) out.u64(session);
  return out.take();
}

std::string encode(const ForkFrame& frame) {
  ByteWriter out(16 + frame.items.size() * kForkBytes);
  out.u64(frame.epoch);
  out.u32(0);
  out.u32(static_cast<std::uint32_t>(frame.items.size()));
  for (const ForkItem& item : frame.items) {
    out.u64(item.source);
    out.u64(item.target);
    out.u64(item.prefix_hash);
    out.u32(item.position);
    out.u32(item.entry);
  }
  return out.take();
}

std::string encode(const ErrorFrame& frame) {
  const std::string message = cleaned_text(frame.message, kMaxTextBytes);
  ByteWriter out(24 + frame.sessions.size() * kSessionBytes + message.size());
  out.u64(frame.epoch);
  out.u32(frame.stage);
  out.u32(wire_code(frame.code));
  out.u32(static_cast<std::uint32_t>(frame.sessions.size()));
  out.u32(static_cast<std::uint32_t>(message.size()));
  for (const std::uint64_t session : frame.sessions) out.u64(session);
  out.text(message);
  return out.take();
}

std::string encode(const PingFrame& frame) {
  ByteWriter out(56);
  out.u64(frame.epoch);
  out.u64(frame.instance);
  out.u32(frame.stage);
  out.u32((frame.loaded ? kLoadedFlag : 0) | (frame.route_ready ? kRouteReadyFlag : 0) |
          (frame.hears_all ? kHearsAllFlag : 0));
  out.u64(frame.processes);
  out.u64(frame.sent_us);
  out.u64(frame.echo_us);
  out.u64(frame.held_us);
  return out.take();
}

Result<WorkFrame> decode_work(std::span<const std::byte> header, std::span<const std::byte> streams,
                              std::uint64_t floats_per_row) {
  ByteReader in(header, "work frame");
  WorkFrame frame;
  frame.epoch = in.u64("epoch");
  frame.activations = read_activations(in);
  const std::uint32_t count = in.count("items", 1, kMaxItems, kItemBytes);
  frame.items.reserve(count);
  std::uint32_t rows = 0;
  for (std::uint32_t i = 0; i < count && !in.failed(); ++i) {
    in.set_element("items", i);
    frame.items.push_back(read_item(in, kMaxFrameTokens - rows));
    rows += static_cast<std::uint32_t>(frame.items.back().tokens.size());
  }
  in.clear_element();
  DS4_TRY(in.finish());
  DS4_ASSIGN(frame.streams, read_streams(streams, frame.activations, rows, floats_per_row));
  return frame;
}

Result<TokenFrame> decode_tokens(std::span<const std::byte> header) {
  ByteReader in(header, "token frame");
  TokenFrame frame;
  frame.epoch = in.u64("epoch");
  const std::uint32_t count = read_count(in, "outcomes", kOutcomeBytes);
  frame.outcomes.reserve(count);
  for (std::uint32_t i = 0; i < count && !in.failed(); ++i) {
    in.set_element("outcomes", i);
    Outcome& outcome = frame.outcomes.emplace_back();
    outcome.session = in.u64("session");
    outcome.position = in.u32("position");
    if (outcome.position == 0) in.reject("position", "is 0, but work has at least one token");
    outcome.token = in.i32("token");
    if (outcome.token < -1) {
      in.reject("token", fmt::format("is {}, must be an id, or -1 for none", outcome.token));
    }
    outcome.logprob = in.f32("logprob");
    in.zero_u32("reserved");
  }
  in.clear_element();
  DS4_TRY(in.finish());
  return frame;
}

Result<CloseFrame> decode_close(std::span<const std::byte> header) {
  ByteReader in(header, "close frame");
  CloseFrame frame;
  frame.epoch = in.u64("epoch");
  const std::uint32_t count = read_count(in, "sessions", kSessionBytes);
  read_sessions(in, count, frame.sessions);
  DS4_TRY(in.finish());
  return frame;
}

Result<ForkFrame> decode_fork(std::span<const std::byte> header) {
  ByteReader in(header, "fork frame");
  ForkFrame frame;
  frame.epoch = in.u64("epoch");
  const std::uint32_t count = read_count(in, "items", kForkBytes);
  frame.items.reserve(count);
  for (std::uint32_t i = 0; i < count && !in.failed(); ++i) {
    in.set_element("items", i);
    ForkItem& item = frame.items.emplace_back();
    item.source = in.u64("source");
    item.target = in.u64("target");
    if (item.target == item.source) in.reject("target", "is the source");
    item.prefix_hash = in.u64("prefix_hash");
    item.position = in.u32("position");
    if (item.position == 0) in.reject("position", "is 0, but a fork copies at least one token");
    item.entry = read_stage(in, "entry");
  }
  in.clear_element();
  DS4_TRY(in.finish());
  return frame;
}

Result<ErrorFrame> decode_error(std::span<const std::byte> header) {
  ByteReader in(header, "error frame");
  ErrorFrame frame;
  frame.epoch = in.u64("epoch");
  frame.stage = read_stage(in, "stage");
  frame.code = error_code(in.u32("code"));
  const std::uint32_t sessions = in.count("sessions", 1, kMaxItems, kSessionBytes);
  const std::uint32_t message_bytes = in.count("message_bytes", 0, kMaxTextBytes, 1);
  read_sessions(in, sessions, frame.sessions);
  const auto message = in.take("message", message_bytes);
  DS4_TRY(in.finish());
  frame.message =
      cleaned_text({reinterpret_cast<const char*>(message.data()), message.size()}, kMaxTextBytes);
  return frame;
}

Result<PingFrame> decode_ping(std::span<const std::byte> header) {
  ByteReader in(header, "ping frame");
  PingFrame frame;
  frame.epoch = in.u64("epoch");
  frame.instance = in.u64("instance");
  frame.stage = read_stage(in, "stage");
  const std::uint32_t flags = in.u32("flags");
  if ((flags & ~(kLoadedFlag | kRouteReadyFlag | kHearsAllFlag)) != 0) {
    in.reject("flags", fmt::format("{:#x} are unknown", flags));
  }
  frame.processes = in.u64("processes");
  frame.sent_us = in.u64("sent_us");
  frame.echo_us = in.u64("echo_us");
  frame.held_us = in.u64("held_us");
  DS4_TRY(in.finish());
  frame.loaded = (flags & kLoadedFlag) != 0;
  frame.route_ready = (flags & kRouteReadyFlag) != 0;
  frame.hears_all = (flags & kHearsAllFlag) != 0;
  return frame;
}

std::uint64_t extend_hash(std::uint64_t hash, std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) hash = mix(hash, static_cast<std::uint32_t>(token));
  return hash;
}

std::uint64_t digest_processes(std::span<const std::uint64_t> instances) {
  std::uint64_t digest = 0;
  for (const std::uint64_t instance : instances) digest = mix(digest, instance);
  return digest;
}

}  // namespace ds4::wire
