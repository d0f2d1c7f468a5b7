#include "agent/wire/control.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace ds4::wire {
namespace {

using Json = nlohmann::json;

std::vector<StageSpec> two_stages() {
  return {{"left", "tcp://10.0.0.1:7400", "0:2", "node:1"},
          {"right", "tcp://10.0.0.2:7400", "3:output", "node:2"}};
}

PrepareRequest prepare_request() {
  return {7, "f00d", two_stages(), "right"};
}

NodeStatus full_status() {
  NodeStatus status;
  status.name = "left";
  status.state = NodeState::kReady;
  status.detail = "all is well";
  status.version = "0.1.0";
  status.model = "/var/lib/ds4d/model.gguf";
  status.fingerprint = "f00d";
  status.block_count = 43;
  status.layers = "0:2";
  status.epoch = 6;
  status.highest_epoch = 8;
  status.preparation = Preparation{7, PreparePhase::kFailed, "0:3", "no memory"};
  status.cover = {1000, 4096, 800, 900, 12, {{0, 400}, {500, 500}}, {0, 1000}};
  status.resident = {900, 899, 898, 1, 0, 1100};
  status.sessions = 3;
  status.requests = 2;
  status.draining = true;
  status.kv_bytes = ~0ULL;
  status.kv_formula = "raw rows 584 B x 128 x 43 layers = 3214336 B for 4096 positions";
  status.resident.group_peak_bytes = 1200;
  status.resident.registered_bytes = 2;
  status.resident.strategy = "memfd";
  status.resident.note = "2 bytes not locked";
  status.resident.read_bytes = 500;
  status.resident.kept_bytes = 300;
  status.resident.adopted_bytes = 100;
  status.resident.load_us = 12345;
  status.resident.intervals = {{0, 400, 400, 399, 398, 1, 1}, {500, 500, 500, 500, 500, 1, 0}};
  status.load = {10, 20, 30};
  status.stage = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  status.links = {{"right", 1, 2, 3, 4, 5}};
  status.clients = {1, 2, 3, 4, 5};
  status.dropped_messages = 6;
  status.route = two_stages();
  return status;
}

std::string error_of(const std::string& text) {
  const auto request = decode_request(text);
  if (request) return "";
  EXPECT_EQ(request.error().code, ErrorCode::kCorrupt);
  return request.error().message;
}

bool names(const std::string& error, const std::string& what) {
  return error.find(what) != std::string::npos;
}

TEST(ControlRequest, EveryKindRoundTrips) {
  const std::vector<Request> requests = {{1, StatusRequest{}},
                                         {9, StatusRequest{.spans = true}},
                                         {9, StatusRequest{.audit = false}},
                                         {2, prepare_request()},
                                         {3, CommitRequest{7}},
                                         {~0ULL, AbortRequest{~0ULL}},
                                         {5, ReleaseRequest{}},
                                         {6, KeysRequest{}},
                                         {7, TrustRequest{"alice", "operator:1"}},
                                         {8, RevokeRequest{"alice"}},
                                         {9, DrainRequest{true}},
                                         {10, DrainRequest{false}},
                                         {11, OfferRequest{}},
                                         {12, OfferRequest{.measure = true}},
                                         {13, ExpectRequest{{"node:1", "node:2"}}},
                                         {14, ExpectRequest{}},
                                         {15, ProbeRequest{"tcp://10.0.0.2:7400", "node:2"}}};
  for (const Request& request : requests) {
    const auto decoded = decode_request(encode(request));
    ASSERT_TRUE(decoded) << name_of(request) << ": " << decoded.error().message;
    EXPECT_EQ(*decoded, request) << name_of(request);
  }
}

TEST(ControlRequest, UnknownKeysAreIgnoredAtEveryLevel) {
  Json json = Json::parse(encode(Request{2, prepare_request()}));
  json["later"] = {{"any", {1, 2, 3}}};
  json["route"][1]["weight"] = 3.5;
  const auto decoded = decode_request(json.dump());
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->body, Request({2, prepare_request()}).body);
}

TEST(ControlRequest, EveryMissingKeyIsNamed) {
  const Json whole = Json::parse(encode(Request{2, prepare_request()}));
  for (const std::string key : {"id", "request", "epoch", "fingerprint", "route", "you"}) {
    Json json = whole;
    json.erase(key);
    EXPECT_TRUE(names(error_of(json.dump()), "request." + key)) << error_of(json.dump());
  }
  for (const std::string key : {"node", "address", "layers"}) {
    Json json = whole;
    json["route"][1].erase(key);
    EXPECT_TRUE(names(error_of(json.dump()), "request.route." + key + " is missing"));
  }
}

TEST(ControlRequest, EveryIllTypedKeyIsNamed) {
  const Json whole = Json::parse(encode(Request{2, prepare_request()}));
  const std::vector<Json> wrong = {nullptr, true, -1, 1.5, Json::object(), Json::array({1})};
  for (const std::string key : {"id", "request", "epoch", "fingerprint", "route", "you"}) {
    for (const Json& value : wrong) {
      Json json = whole;
      json[key] = value;
      EXPECT_TRUE(names(error_of(json.dump()), "request." + key)) << json.dump();
    }
  }
  for (const std::string key : {"node", "address", "layers"}) {
    for (const Json& value : wrong) {
      Json json = whole;
      json["route"][0][key] = value;
      EXPECT_TRUE(names(error_of(json.dump()), "request.route." + key)) << json.dump();
    }
  }
}

TEST(ControlRequest, AnUnknownRequestListsTheKnownOnes) {
  EXPECT_TRUE(names(error_of(R"({"id":1,"request":"explode"})"),
                    "request.request must be one of status, prepare, commit, abort, release, keys, "
                    "trust, revoke, drain, offer, expect, probe"));
}

TEST(ControlRequest, NumbersBeyond64BitsAreRefused) {
  EXPECT_TRUE(names(error_of(R"({"id":18446744073709551616,"request":"status"})"), "request.id"));
  EXPECT_EQ(error_of(R"({"id":18446744073709551615,"request":"status"})"), "");
}

TEST(ControlRequest, NamesAreBounded) {
  Request request{2, prepare_request()};
  auto& you = std::get<PrepareRequest>(request.body).you;
  you = std::string(kMaxNameBytes, 'n');
  EXPECT_EQ(error_of(encode(request)), "");
  you += 'n';
  EXPECT_TRUE(names(error_of(encode(request)), "request.you must be at most 128 bytes"));
}

TEST(ControlRequest, NamesWithControlCharactersAreRefused) {
  for (const std::string bad : {"a\x1b[2J", "line\nbreak", "del\x7f", "c1\xc2\x9b"}) {
    Request request{2, prepare_request()};
    std::get<PrepareRequest>(request.body).route[0].node = bad;
    EXPECT_TRUE(names(error_of(encode(request)), "free of control characters")) << bad;
  }
}

TEST(ControlRequest, ARouteOfTooManyStagesIsRefused) {
  Request request{2, prepare_request()};
  auto& route = std::get<PrepareRequest>(request.body).route;
  route.assign(kMaxStages, {"n", "a", "0:1"});
  EXPECT_EQ(error_of(encode(request)), "");
  route.push_back({"n", "a", "0:1"});
  EXPECT_TRUE(names(error_of(encode(request)), "at most 256 elements, not 257"));
}

TEST(ControlRequest, TextThatIsNotAnObjectIsRefused) {
  EXPECT_TRUE(names(error_of(""), "not JSON"));
  EXPECT_TRUE(names(error_of("{"), "not JSON"));
  EXPECT_TRUE(names(error_of("{} {}"), "not JSON"));
  EXPECT_TRUE(names(error_of("[1]"), "not a JSON object"));
  EXPECT_TRUE(names(error_of("null"), "not a JSON object"));
  EXPECT_TRUE(names(error_of(std::string("{\"id\":1,\"request\":\"\xff\"}")), "not JSON"));
}

TEST(ControlRequest, EveryTruncationIsAnError) {
  const std::string text = encode(Request{2, prepare_request()});
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(decode_request(text.substr(0, size))) << size;
  }
}

TEST(ControlRequest, DeepNestingIsRefusedBeforeItIsParsed) {
  const auto nested = [](int levels) {
    return R"({"id":1,"request":"status","x":)" + std::string(levels, '[') +
           std::string(levels, ']') + "}";
  };
  EXPECT_EQ(error_of(nested(7)), "");
  EXPECT_TRUE(names(error_of(nested(8)), "deeper than 8"));
  EXPECT_TRUE(names(error_of(nested(1000000)), "deeper than 8"));
  // Brackets inside strings do not count, also behind an escaped quote.
  EXPECT_EQ(error_of(R"({"id":1,"request":"status","x":"\"[[[[[[[[[[[[[[["})"), "");
}

TEST(ControlRequest, TextBeyondTheBoundIsRefused) {
  const std::string head = R"({"id":1,"request":"status","x":")";
  const std::string tail = R"("})";
  const std::string fill(kMaxControlBytes - head.size() - tail.size(), 'x');
  EXPECT_EQ(error_of(head + fill + tail), "");
  EXPECT_TRUE(names(error_of(head + fill + "x" + tail), "at most 4194304 are taken"));
}

TEST(ControlReply, StatusRoundTripsWhole) {
  const Reply reply{9, std::nullopt, full_status()};
  const auto decoded = decode_reply(encode(reply));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->id, 9U);
  EXPECT_FALSE(decoded->error);
  EXPECT_EQ(decoded->status, reply.status);
}

TEST(ControlReply, KnownKeysRoundTrip) {
  Reply reply{.id = 3, .error = {}, .status = {}};
  reply.keys = {{"alice", "operator:1", false}, {"b", "node:2", true}};
  const auto decoded = decode_reply(encode(reply));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->keys, reply.keys);
  EXPECT_FALSE(decode_reply(R"({"id":3,"ok":true,"keys":[{"name":"a","key":3,"revoked":false}]})"));
  EXPECT_FALSE(decode_reply(R"({"id":3,"ok":true,"keys":{}})"));
}

TEST(ControlReply, OffersAndProbesRoundTrip) {
  Reply reply{.id = 4, .error = {}, .status = {}};
  NodeOffer& offer = reply.offer.emplace();
  offer.budget_bytes = kNoLimit;
  offer.device_memory = true;
  offer.held_bytes = 1;
  offer.kv_fixed_bytes = 2;
  offer.scratch_bytes = 3;
  offer.page_bytes = 4096;
  offer.context = 5;
  offer.max_rows = 6;
  offer.graph = "official";
  offer.stream_row_bytes = 7;
  offer.layers = {{4, 10, 11, 12, 13, 14}, {kHeadKind, 20, 21, 22, 23, 24}};
  offer.rates = {{4, 30, 31}};
  offer.overall = {0, 40, 41};
  offer.measured = "measured on layer 3";
  reply.probe = {50, 51, 52};
  const auto decoded = decode_reply(encode(reply));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->offer, reply.offer);
  EXPECT_EQ(decoded->probe, reply.probe);

  Json json = Json::parse(encode(reply));
  json["offer"]["layers"][1].erase("kv_bytes");
  EXPECT_FALSE(decode_reply(json.dump()));
  json = Json::parse(encode(reply));
  for (std::size_t i = 0; i <= kMaxSpeedRates; ++i) {
    json["offer"]["rates"].push_back(json["offer"]["overall"]);
  }
  EXPECT_FALSE(decode_reply(json.dump()));
  json = Json::parse(encode(reply));
  json["probe"]["bytes_per_s"] = -1;
  EXPECT_FALSE(decode_reply(json.dump()));
}

TEST(ControlRequest, AStageOfAnEarlierReleaseHasNoKey) {
  Json json = Json::parse(encode(Request{2, prepare_request()}));
  json["route"][0].erase("key");
  const auto decoded = decode_request(json.dump());
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(std::get<PrepareRequest>(decoded->body).route[0].key, "");
}

TEST(ControlReply, EveryStateAndPhaseRoundTrips) {
  for (int state = 0; state <= static_cast<int>(NodeState::kStopping); ++state) {
    for (int phase = 0; phase <= static_cast<int>(PreparePhase::kFailed); ++phase) {
      NodeStatus status = full_status();
      status.state = static_cast<NodeState>(state);
      status.preparation->phase = static_cast<PreparePhase>(phase);
      const auto decoded = decode_reply(encode(Reply{1, std::nullopt, status}));
      ASSERT_TRUE(decoded) << decoded.error().message;
      EXPECT_EQ(decoded->status, status);
    }
  }
}

TEST(ControlReply, EveryErrorCodeRoundTripsWithItsSentence) {
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    const Error error{static_cast<ErrorCode>(code), "the epoch is 7, not 8"};
    const auto decoded = decode_reply(encode(Reply{1, error, std::nullopt}));
    ASSERT_TRUE(decoded) << decoded.error().message;
    ASSERT_TRUE(decoded->error);
    EXPECT_EQ(decoded->error->code, error.code);
    EXPECT_EQ(decoded->error->message, error.message);
    EXPECT_FALSE(decoded->status);
  }
}

TEST(ControlReply, ACodeOfANewerPeerIsInternal) {
  const auto decoded =
      decode_reply(R"({"id":1,"ok":false,"error":{"code":"tired","message":"later"}})");
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->error->code, ErrorCode::kInternal);
  EXPECT_EQ(decoded->error->message, "later");
}

TEST(ControlReply, ARefusalWithoutItsErrorIsRefused) {
  const auto decoded = decode_reply(R"({"id":1,"ok":false})");
  ASSERT_FALSE(decoded);
  EXPECT_TRUE(names(decoded.error().message, "reply.error is missing"));
}

TEST(ControlReply, ASentenceIsCleanedAndCutBetweenCharacters) {
  std::string message = "x\x1b[31m\n";
  while (message.size() < 2 * kMaxTextBytes) message += "\xe2\x82\xac";
  const auto decoded = decode_reply(encode(Reply{1, Error{ErrorCode::kIo, message}, std::nullopt}));
  ASSERT_TRUE(decoded) << decoded.error().message;
  const std::string& got = decoded->error->message;
  EXPECT_EQ(got.substr(0, 7), "x [31m ");
  EXPECT_LE(got.size(), kMaxTextBytes);
  EXPECT_GT(got.size(), kMaxTextBytes - 3);
  EXPECT_EQ(got.substr(got.size() - 3), "\xe2\x82\xac");
}

TEST(ControlReply, BytesThatAreNotUtf8AreReplacedWhenEncoding) {
  NodeStatus status = full_status();
  status.model = "/models/\xff.gguf";
  const auto decoded = decode_reply(encode(Reply{1, std::nullopt, status}));
  ASSERT_TRUE(decoded) << decoded.error().message;
  EXPECT_EQ(decoded->status->model, "/models/\xef\xbf\xbd.gguf");
}

/// Takes away or replaces every member of `json`, at every depth, and calls `check` with the path's
/// last key and the changed whole.
template <typename Check>
void damage(const Json& whole, Json& part, Json& root, const Check& check) {
  for (const auto& [key, value] : part.items()) {
    const Json original = value;
    if (part.is_object()) {
      part[key] = original.is_array() ? Json("text") : Json::array({1});
      check(key, root);
      part[key] = original;
    }
    Json& inner = part.is_object() ? part[key] : part[std::stoul(key)];
    if (inner.is_structured()) damage(whole, inner, root, check);
  }
}

TEST(ControlReply, EveryIllTypedMemberOfAStatusIsNamed) {
  const Json whole = Json::parse(encode(Reply{1, std::nullopt, full_status()}));
  Json root = whole;
  int damaged = 0;
  damage(whole, root, root, [&](const std::string& key, const Json& text) {
    // An optional part that is no object is caught too; the keys of one reply are all checked.
    const auto decoded = decode_reply(text.dump());
    ASSERT_FALSE(decoded) << key;
    EXPECT_TRUE(names(decoded.error().message, "." + key + " ")) << decoded.error().message;
    ++damaged;
  });
  EXPECT_GT(damaged, 45);
}

TEST(ControlReply, EveryMissingMemberOfAStatusIsNamed) {
  const Json whole = Json::parse(encode(Reply{1, std::nullopt, full_status()}));
  for (const auto& [key, value] : whole["status"].items()) {
    Json json = whole;
    json["status"].erase(key);
    const auto decoded = decode_reply(json.dump());
    if (key == "preparation") {
      ASSERT_TRUE(decoded);  // there may be none
      EXPECT_FALSE(decoded->status->preparation);
      continue;
    }
    ASSERT_FALSE(decoded) << key;
    EXPECT_TRUE(names(decoded.error().message, "reply.status." + key + " is missing"));
  }
}

TEST(ControlReply, AnUnknownStateIsRefused) {
  Json json = Json::parse(encode(Reply{1, std::nullopt, full_status()}));
  json["status"]["state"] = "sleeping";
  EXPECT_TRUE(names(decode_reply(json.dump()).error().message, "reply.status.state"));
}

TEST(ControlStatus, JsonForPeopleHasTheDocumentedKeys) {
  const Json json = Json::parse(to_json_text(full_status()));
  for (const char* key :
       {"name", "state", "model", "layers", "epoch", "cover", "resident", "sessions", "kv_bytes"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  for (const char* key : {"mapped_bytes", "incore_bytes", "locked_bytes", "device_bytes",
                          "outside_cover_bytes", "load_peak_bytes"}) {
    EXPECT_TRUE(json["resident"].contains(key)) << key;
  }
  const Json cover = Json::parse(to_json_text(full_status().cover));
  for (const char* key :
       {"file_bytes", "page_bytes", "tensor_bytes", "cover_bytes", "spans", "intervals", "hull"}) {
    EXPECT_TRUE(cover.contains(key)) << key;
  }
  EXPECT_EQ(cover["intervals"][1]["offset"], 500);
  EXPECT_EQ(cover["hull"]["bytes"], 1000);
}

}  // namespace
}  // namespace ds4::wire
