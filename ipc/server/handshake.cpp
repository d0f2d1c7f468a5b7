#include "ipc/server/handshake.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "ipc/packet.h"

namespace ds4::ipc {

namespace {

HelloVerdict refuse(Status status, std::string sentence) {
  HelloVerdict verdict;
  verdict.refusal = Refusal{status, std::move(sentence)};
  return verdict;
}

bool all_zero(std::span<const std::uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](auto b) { return b == 0; });
}

}  // namespace

HelloVerdict judge_hello(std::span<const std::byte> packet, const RegionShape& most) {
  // Magic and version first: they stand where they stand in every version, whatever its length.
  Hello hello;
  if (packet.size() < offsetof(Hello, submission_entries))
    return refuse(Status::kInvalid, "the first packet is too short for a hello");
  std::memcpy(&hello, packet.data(), std::min(packet.size(), sizeof(hello)));
  if (hello.magic != kHelloMagic)
    return refuse(Status::kInvalid, "the first packet is not a hello");
  if (hello.major != kMajorVersion)
    return refuse(Status::kVersion,
                  fmt::format("this agent speaks protocol {}.{}, the program's library {}.{}; "
                              "install matching packages",
                              kMajorVersion, kMinorVersion, hello.major, hello.minor));
  if (packet.size() != sizeof(Hello))
    return refuse(Status::kInvalid,
                  fmt::format("a hello has {} bytes, this one has not", sizeof(Hello)));
  // What a later minor puts there this agent may ignore; its own must leave them zero.
  if (hello.minor <= kMinorVersion && (hello.flags != 0 || !all_zero(hello.reserved)))
    return refuse(Status::kInvalid, "the hello sets bytes that its own version reserves");
  HelloVerdict verdict;
  verdict.shape = fit_shape(hello, most);
  verdict.minor = std::min(hello.minor, kMinorVersion);
  verdict.name = text_of(hello.name);
  return verdict;
}

Welcome make_refusal(const Refusal& refusal) {
  Welcome welcome;
  welcome.status = static_cast<std::uint16_t>(refusal.status);
  put_text(welcome.sentence,
           refusal.sentence.empty() ? describe(refusal.status) : refusal.sentence);
  return welcome;
}

Farewell make_farewell(Status status, std::string_view sentence) {
  Farewell farewell;
  farewell.status = static_cast<std::uint16_t>(status);
  put_text(farewell.sentence, sentence.empty() ? describe(status) : sentence);
  return farewell;
}

}  // namespace ds4::ipc
