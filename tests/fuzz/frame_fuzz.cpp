// Any bytes decode or are refused, and what decodes encodes to the same bytes again. The first byte
// chooses the decoder; for work, the second is the floats of a row and the next two the header's
// length, with the streams after it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "agent/wire/frame.h"

namespace {

using namespace ds4::wire;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

bool same(const std::string& encoded, std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == encoded;
}

void work(std::span<const std::byte> bytes) {
  if (bytes.size() < 3) return;
  const auto floats_per_row = std::to_integer<std::uint64_t>(bytes[0]);
  const std::size_t wished =
      std::to_integer<std::size_t>(bytes[1]) + 256 * std::to_integer<std::size_t>(bytes[2]);
  bytes = bytes.subspan(3);
  const auto header = bytes.first(std::min(wished, bytes.size()));
  const auto frame = decode_work(header, bytes.subspan(header.size()), floats_per_row);
  if (!frame) return;
  std::size_t rows = 0;
  for (const WorkItem& item : frame->items) rows += item.tokens.size();
  require(rows > 0 && rows <= kMaxFrameTokens, "rows within bounds");
  require(frame->streams.empty() || frame->streams.size() == rows * floats_per_row, "whole rows");
  require(same(encode(*frame), header), "work encodes as it came");
  if (frame->activations != Activations::kBf16) return;
  const std::vector<std::uint16_t> narrow = to_bf16(frame->streams);
  const auto again = decode_work(header, std::as_bytes(std::span(narrow)), floats_per_row);
  require(again && to_bf16(again->streams) == narrow, "what was rounded once stays");
}

void error(std::span<const std::byte> bytes) {
  const auto frame = decode_error(bytes);
  if (!frame) return;
  // A cleaned message and a known code are what is kept; those do round-trip.
  const std::string once = encode(*frame);
  const auto again = decode_error(std::as_bytes(std::span(once.data(), once.size())));
  require(again.has_value() && encode(*again) == once, "an error encodes to itself");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  switch (data[0] % 6) {
    case 0:
      work(bytes);
      break;
    case 1:
      if (const auto frame = decode_tokens(bytes)) {
        // NaN payloads and all: the bits are carried, not the value.
        require(same(encode(*frame), bytes), "tokens encode as they came");
      }
      break;
    case 2:
      if (const auto frame = decode_close(bytes)) {
        require(same(encode(*frame), bytes), "a close encodes as it came");
      }
      break;
    case 3:
      error(bytes);
      break;
    case 4:
      if (const auto frame = decode_ping(bytes)) {
        require(same(encode(*frame), bytes), "a ping encodes as it came");
      }
      break;
    case 5:
      if (const auto frame = decode_fork(bytes)) {
        require(same(encode(*frame), bytes), "a fork encodes as it came");
      }
      break;
  }
  return 0;
}
