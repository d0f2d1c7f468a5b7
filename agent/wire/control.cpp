#include "agent/wire/control.h"

#include <fmt/format.h>

#include <array>

#include "agent/wire/json_fields.h"
#include "agent/wire/status_json.h"

namespace ds4::wire {
namespace {

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};
template <typename... Visitors>
Overloaded(Visitors...) -> Overloaded<Visitors...>;

// In the order of Request::body's alternatives.
constexpr std::array<std::string_view, 12> kRequestNames = {
    "status", "prepare", "commit", "abort", "release", "keys",
    "trust",  "revoke",  "drain",  "offer", "expect",  "probe"};
static_assert(kRequestNames.size() == std::variant_size_v<decltype(Request::body)>);

ErrorCode error_code_from(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const auto code = static_cast<ErrorCode>(i);
    if (to_string(code) == name) return code;
  }
  return ErrorCode::kInternal;  // a newer peer's code: its sentence still says what happened
}

void read_body(Fields& fields, std::string_view name, Request& request) {
  if (name == "status") {
    auto& status = request.body.emplace<StatusRequest>();
    if (fields.has("spans")) fields.boolean("spans", status.spans);
    if (fields.has("audit")) fields.boolean("audit", status.audit);
  } else if (name == "prepare") {
    auto& prepare = request.body.emplace<PrepareRequest>();
    fields.u64("epoch", prepare.epoch);
    fields.name("fingerprint", prepare.fingerprint);
    read_route(fields, prepare.route);
    fields.name("you", prepare.you);
  } else if (name == "commit") {
    fields.u64("epoch", request.body.emplace<CommitRequest>().epoch);
  } else if (name == "abort") {
    fields.u64("epoch", request.body.emplace<AbortRequest>().epoch);
  } else if (name == "release") {
    request.body = ReleaseRequest{};
  } else if (name == "keys") {
    request.body = KeysRequest{};
  } else if (name == "trust") {
    auto& trust = request.body.emplace<TrustRequest>();
    fields.name("name", trust.name);
    fields.name("key", trust.key);
  } else if (name == "revoke") {
    fields.name("who", request.body.emplace<RevokeRequest>().who);
  } else if (name == "drain") {
    fields.boolean("on", request.body.emplace<DrainRequest>().on);
  } else if (name == "offer") {
    auto& offer = request.body.emplace<OfferRequest>();
    if (fields.has("measure")) fields.boolean("measure", offer.measure);
  } else if (name == "expect") {
    auto& expect = request.body.emplace<ExpectRequest>();
    fields.array("nodes", kMaxProbeKeys,
                 [&](Fields& inner) { inner.name("key", expect.keys.emplace_back()); });
  } else if (name == "probe") {
    auto& probe = request.body.emplace<ProbeRequest>();
    fields.name("address", probe.address);
    fields.name("key", probe.key);
  } else {
    fields.reject("request", fmt::format("one of {}", fmt::join(kRequestNames, ", ")));
  }
}

}  // namespace

std::string_view name_of(const Request& request) {
  return kRequestNames[request.body.index()];
}

std::string encode(const Request& request) {
  Json json = {{"id", request.id}, {"request", name_of(request)}};
  std::visit(Overloaded{[&](const StatusRequest& status) {
                          if (status.spans) json["spans"] = true;
                          if (!status.audit) json["audit"] = false;
                        },
                        [&](const PrepareRequest& prepare) {
                          json["epoch"] = prepare.epoch;
                          json["fingerprint"] = prepare.fingerprint;
                          json["route"] = to_json(prepare.route);
                          json["you"] = prepare.you;
                        },
                        [&](const CommitRequest& commit) { json["epoch"] = commit.epoch; },
                        [&](const AbortRequest& abort) { json["epoch"] = abort.epoch; },
                        [&](const TrustRequest& trust) {
                          json["name"] = trust.name;
                          json["key"] = trust.key;
                        },
                        [&](const RevokeRequest& revoke) { json["who"] = revoke.who; },
                        [&](const DrainRequest& drain) { json["on"] = drain.on; },
                        [&](const OfferRequest& offer) {
                          if (offer.measure) json["measure"] = true;
                        },
                        [&](const ExpectRequest& expect) {
                          Json& nodes = json["nodes"] = Json::array();
                          for (const std::string& key : expect.keys)
                            nodes.push_back({{"key", key}});
                        },
                        [&](const ProbeRequest& probe) {
                          json["address"] = probe.address;
                          json["key"] = probe.key;
                        },
                        [](const ReleaseRequest&) {}, [](const KeysRequest&) {}},
             request.body);
  return dump(json);
}

std::string encode(const Reply& reply) {
  Json json = {{"id", reply.id}, {"ok", !reply.error.has_value()}};
  if (reply.error) {
    json["error"] = {{"code", to_string(reply.error->code)}, {"message", reply.error->message}};
  }
  if (reply.status) json["status"] = to_json(*reply.status);
  if (reply.keys) {
    Json& keys = json["keys"] = Json::array();
    for (const KnownKey& known : *reply.keys) {
      keys.push_back({{"name", known.name}, {"key", known.key}, {"revoked", known.revoked}});
    }
  }
  if (reply.offer) json["offer"] = to_json(*reply.offer);
  if (reply.probe) json["probe"] = to_json(*reply.probe);
  return dump(json);
}

Result<Request> decode_request(std::string_view text) {
  DS4_ASSIGN(const ParsedJson json, parse_object(text));
  std::optional<Error> error;
  Fields fields(json, "request", error);
  Request request;
  std::string name;
  fields.u64("id", request.id);
  fields.name("request", name);
  read_body(fields, name, request);
  if (error) return tl::unexpected<Error>(std::move(*error));
  return request;
}

Result<Reply> decode_reply(std::string_view text) {
  DS4_ASSIGN(const ParsedJson json, parse_object(text));
  std::optional<Error> error;
  Fields fields(json, "reply", error);
  Reply reply;
  fields.u64("id", reply.id);
  bool ok = false;
  fields.boolean("ok", ok);
  if (!ok) {
    fields.object("error", [&](Fields& inner) {
      std::string code;
      inner.name("code", code);
      reply.error.emplace();
      inner.text("message", reply.error->message);
      reply.error->code = error_code_from(code);
    });
  }
  if (fields.has("status")) {
    fields.object("status", [&](Fields& inner) { read(inner, reply.status.emplace()); });
  }
  if (fields.has("keys")) {
    auto& keys = reply.keys.emplace();
    fields.array("keys", kMaxKnownKeys, [&](Fields& inner) {
      KnownKey& known = keys.emplace_back();
      inner.name("name", known.name);
      inner.name("key", known.key);
      inner.boolean("revoked", known.revoked);
    });
  }
  if (fields.has("offer")) {
    fields.object("offer", [&](Fields& inner) { read(inner, reply.offer.emplace()); });
  }
  if (fields.has("probe")) {
    fields.object("probe", [&](Fields& inner) { read(inner, reply.probe.emplace()); });
  }
  if (error) return tl::unexpected<Error>(std::move(*error));
  return reply;
}

}  // namespace ds4::wire
