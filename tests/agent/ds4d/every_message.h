#pragma once
// One of every message that an agent can be sent, so that no test of who may send what forgets one:
// a new control message does not compile until it has an example here, a new kind of link message
// neither.
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "agent/wire/control.h"
#include "agent/wire/frame.h"
#include "agent/wire/message_kind.h"

namespace ds4::test {

using RequestBody = decltype(wire::Request::body);

/// What the examples refer to. They are valid, so that only their sender speaks against them.
struct MessageSetting {
  std::vector<wire::StageSpec> route;  // of the agent that hears them, whose name is `you`
  std::string you;
  std::string other;         // another node of the route
  std::string new_operator;  // a key
  std::uint64_t epoch = 1;   // that serves
};

namespace examples {

template <typename T>
using Of = std::type_identity<T>;

inline RequestBody of(Of<wire::StatusRequest>, const MessageSetting&) {
  return wire::StatusRequest{.spans = true};
}
inline RequestBody of(Of<wire::PrepareRequest>, const MessageSetting& setting) {
  return wire::PrepareRequest{setting.epoch + 8, "", setting.route, setting.you};
}
inline RequestBody of(Of<wire::CommitRequest>, const MessageSetting& setting) {
  return wire::CommitRequest{setting.epoch + 8};
}
inline RequestBody of(Of<wire::AbortRequest>, const MessageSetting& setting) {
  return wire::AbortRequest{setting.epoch + 8};
}
inline RequestBody of(Of<wire::ReleaseRequest>, const MessageSetting&) {
  return wire::ReleaseRequest{};
}
inline RequestBody of(Of<wire::KeysRequest>, const MessageSetting&) {
  return wire::KeysRequest{};
}
inline RequestBody of(Of<wire::TrustRequest>, const MessageSetting& setting) {
  return wire::TrustRequest{"eve", setting.new_operator};
}
inline RequestBody of(Of<wire::RevokeRequest>, const MessageSetting& setting) {
  return wire::RevokeRequest{setting.other};
}
inline RequestBody of(Of<wire::DrainRequest>, const MessageSetting&) {
  return wire::DrainRequest{true};
}
inline RequestBody of(Of<wire::OfferRequest>, const MessageSetting&) {
  return wire::OfferRequest{true};
}
inline RequestBody of(Of<wire::ExpectRequest>, const MessageSetting& setting) {
  return wire::ExpectRequest{{setting.route.front().key}};
}
inline RequestBody of(Of<wire::ProbeRequest>, const MessageSetting& setting) {
  return wire::ProbeRequest{setting.route.back().address, setting.route.back().key};
}

template <std::size_t... I>
std::vector<RequestBody> all(const MessageSetting& setting, std::index_sequence<I...>) {
  return {of(Of<std::variant_alternative_t<I, RequestBody>>{}, setting)...};
}

}  // namespace examples

inline std::vector<RequestBody> every_request(const MessageSetting& setting) {
  return examples::all(setting, std::make_index_sequence<std::variant_size_v<RequestBody>>{});
}

/// Parts 1 and on of a message of this kind.
inline std::vector<std::string> link_message(wire::MessageKind kind, std::uint64_t epoch) {
  using wire::MessageKind;
  constexpr std::uint64_t kSession = 5;
  switch (kind) {
    case MessageKind::kControl:
      return {encode(wire::Request{1, wire::ReleaseRequest{}})};
    case MessageKind::kWork: {
      wire::WorkFrame work;
      work.epoch = epoch;
      wire::WorkItem& item = work.items.emplace_back();
      item.session = kSession;
      item.context = 16;
      item.sample = SamplingParams{};
      item.tokens = {1};
      return {encode(work), ""};
    }
    case MessageKind::kToken:
      return {encode(wire::TokenFrame{epoch, {{.session = kSession, .position = 1}}})};
    case MessageKind::kClose:
      return {encode(wire::CloseFrame{epoch, {kSession}})};
    case MessageKind::kFork: {
      wire::ForkItem item;
      item.source = kSession;
      item.target = kSession + 1;
      item.position = 1;
      return {encode(wire::ForkFrame{epoch, {item}})};
    }
    case MessageKind::kError:
      return {
          encode(wire::ErrorFrame{epoch, 1, {kSession}, ErrorCode::kInternal, "made up by eve"})};
    case MessageKind::kPing:  // the worst: another process of stage 1 would take the route down
      return {encode(wire::PingFrame{.epoch = epoch, .stage = 1, .instance = 666})};
    case MessageKind::kProbe:
      return {"8 bytes.", std::string(1000, 'p')};
  }
  return {};
}

/// Every kind that an agent knows, control among them.
inline std::vector<wire::MessageKind> every_kind() {
  std::vector<wire::MessageKind> kinds;
  for (int byte = 0; byte < 256; ++byte) {
    const std::byte part[] = {static_cast<std::byte>(byte),
                              static_cast<std::byte>(wire::kProtocolVersion)};
    if (const auto kind = wire::decode_kind(part)) kinds.push_back(*kind);
  }
  return kinds;
}

}  // namespace ds4::test
