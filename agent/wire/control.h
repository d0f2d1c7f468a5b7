#pragma once
// Control messages: what ds4ctl asks of an agent and what the agent answers.
//
// A route changes in two phases, and the coordinator (ds4ctl) holds no state of its own: everything
// it knows, it reads back from the agents. `prepare` is answered as soon as it is accepted; loading
// goes on behind it and is watched through `status`. When every node says that it has prepared the
// epoch, `commit` makes it the route, and the nodes become `ready` once a canary token has crossed
// it. Until a commit, `abort` leaves whatever served before untouched; it is idempotent and also
// succeeds for an epoch the node never heard of, so a coordinator may always send it to everyone.
//
// On the wire a message is two ZeroMQ parts: encode_kind(MessageKind::kControl) and one JSON text.
// A request carries an id that its reply repeats, so a late reply is never taken for another's.
// Unknown keys are ignored (a newer peer may send more); everything else about the input is
// checked: size, nesting, presence, type and range. Both decoders are pure and fuzzed.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "agent/wire/figures.h"
#include "agent/wire/offer.h"
#include "engine/base/result.h"

namespace ds4::wire {

inline constexpr std::size_t kMaxControlBytes = 4u << 20;  // one JSON text
inline constexpr std::size_t kMaxNameBytes = 128;          // a node's name, an address, a range
inline constexpr std::size_t kMaxTextBytes = 4096;         // a path, a detail, an error's sentence
inline constexpr std::size_t kMaxStages = 256;             // of a route
inline constexpr std::size_t kMaxKnownKeys = 8192;         // of one reply

/// One stage of a route, in order. `layers` is the text of a LayerRange ("0:2", "3:output").
struct StageSpec {
  std::string node;
  std::string address;  // tcp://host:port of that node's agent
  std::string layers;
  std::string key = {};  // the agent's public key, "node:..."; empty: links without encryption
  bool operator==(const StageSpec&) const = default;
};

// ---- requests --------------------------------------------------------------------------------

struct StatusRequest {
  bool spans = false;  // with ResidentReport::intervals
  /// Ask the kernel what is resident. Without, that part of the answer may be old; who looks every
  /// second should not have an agent walk 100 GiB of page tables for it.
  bool audit = true;
  bool operator==(const StatusRequest&) const = default;
};

/// Make the layers of `you` resident, ready to serve as that stage of `route`. Refused at once:
/// another fingerprint (kMismatch), an epoch not above the node's highest (kMismatch), another
/// epoch being prepared (kUnavailable), a range the model or the memory cannot hold.
struct PrepareRequest {
  std::uint64_t epoch = 0;
  std::string fingerprint;  // the model's; empty: take what you have
  std::vector<StageSpec> route;
  std::string you;  // one of route[].node, and this agent's own name
  bool operator==(const PrepareRequest&) const = default;
};

/// The epoch this node has prepared becomes the route. kMismatch if it has not prepared that one;
/// committing the epoch that already is the route succeeds (a repeated request changes nothing).
struct CommitRequest {
  std::uint64_t epoch = 0;
  bool operator==(const CommitRequest&) const = default;
};

struct AbortRequest {
  std::uint64_t epoch = 0;
  bool operator==(const AbortRequest&) const = default;
};

/// Give up the assignment and free its memory; the node becomes idle.
struct ReleaseRequest {
  bool operator==(const ReleaseRequest&) const = default;
};

/// Whom does this agent trust? Answered in Reply::keys.
struct KeysRequest {
  bool operator==(const KeysRequest&) const = default;
};

/// The owner of `key` ("operator:...") may command this agent from now on; a revoked "node:..." may
/// be assigned again.
struct TrustRequest {
  std::string name;
  std::string key;
  bool operator==(const TrustRequest&) const = default;
};

/// Nothing of this key's owner is heard any more, on standing connections either. `who` is a key,
/// or the name of a trusted operator or of a node of this agent's routes.
struct RevokeRequest {
  std::string who;
  bool operator==(const RevokeRequest&) const = default;
};

/// Before planned work: this agent's programs get no new requests answered (kBusy, retryable),
/// those that run go on; NodeStatus::requests counts them. Until `on` is false, or the agent starts
/// anew.
struct DrainRequest {
  bool on = true;
  bool operator==(const DrainRequest&) const = default;
};

/// What could this node hold, and how fast? Answered in Reply::offer, within a second or two if its
/// speed has to be measured first. kUnavailable while it loads.
struct OfferRequest {
  bool measure = false;  // even if it is known what was measured before
  bool operator==(const OfferRequest&) const = default;
};

/// For half a minute, the owners of these keys may send this agent probes, and nothing else. In
/// place of what the same connection said before; what others said stands.
struct ExpectRequest {
  std::vector<std::string> keys;  // "node:..."; none end the permission
  bool operator==(const ExpectRequest&) const = default;
};

/// Measure the way to the agent at `address`, which has this key (empty: links without encryption)
/// and expects it. Answered in Reply::probe; kBusy while another probe is under way.
struct ProbeRequest {
  std::string address;
  std::string key;
  bool operator==(const ProbeRequest&) const = default;
};

struct Request {
  std::uint64_t id = 0;
  std::variant<StatusRequest, PrepareRequest, CommitRequest, AbortRequest, ReleaseRequest,
               KeysRequest, TrustRequest, RevokeRequest, DrainRequest, OfferRequest, ExpectRequest,
               ProbeRequest>
      body;
  bool operator==(const Request&) const = default;
};

/// "status", "prepare", ...
std::string_view name_of(const Request& request);

// ---- status ----------------------------------------------------------------------------------

/// What the committed route does here. While another epoch is being prepared next to a serving
/// route the state stays that of the serving one; NodeStatus::preparation tells the other.
enum class NodeState : std::uint8_t {
  kIdle,      // no assignment
  kLoading,   // making layers resident, nothing served yet (first assignment, or after a start)
  kPrepared,  // layers resident, waiting for the commit, nothing served yet
  kJoining,   // committed; the canary has not crossed the route yet
  kReady,     // a canary has crossed the route
  kDegraded,  // a stage of the route does not answer; `detail` names it
  kFailed,    // the slice is lost; `detail` says why
  kStopping,
};

std::string_view to_string(NodeState state);

struct ByteInterval {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool operator==(const ByteInterval&) const = default;
};

/// Which bytes of the model file a slice owns.
struct CoverReport {
  std::uint64_t file_bytes = 0;
  std::uint64_t page_bytes = 0;
  std::uint64_t tensor_bytes = 0;  // of the tensors alone
  std::uint64_t cover_bytes = 0;   // of the intervals, rounded out to pages
  std::uint64_t spans = 0;         // tensors
  std::vector<ByteInterval> intervals;
  ByteInterval hull;  // from the first interval's start to the last one's end
  bool operator==(const CoverReport&) const = default;
};

/// One interval of the cover, as planned and as the kernel and the GPU's driver have it.
struct IntervalReport {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t mapped_bytes = 0;
  std::uint64_t incore_bytes = 0;
  std::uint64_t locked_bytes = 0;
  std::uint64_t registered_bytes = 0;
  std::uint64_t device_bytes = 0;
  bool operator==(const IntervalReport&) const = default;
};

/// What is in memory, by the kernel's account (smaps, mincore), not by our own counters.
struct ResidentReport {
  std::uint64_t mapped_bytes = 0;
  std::uint64_t incore_bytes = 0;
  std::uint64_t locked_bytes = 0;
  std::uint64_t device_bytes = 0;
  std::uint64_t outside_cover_bytes = 0;
  std::uint64_t load_peak_bytes = 0;   // VmHWM while it loaded
  std::uint64_t group_peak_bytes = 0;  // memory.peak of the agent's control group; 0 if unknown
  std::uint64_t registered_bytes = 0;  // with a GPU's driver
  std::string strategy = {};           // "file", "memfd", ...; empty: nothing is resident
  std::string note = {};               // what is not as it was asked for
  // How the bytes came, and in what time.
  std::uint64_t read_bytes = 0;
  std::uint64_t kept_bytes = 0;     // of a former assignment
  std::uint64_t adopted_bytes = 0;  // of a former process
  std::uint64_t load_us = 0;
  std::vector<IntervalReport> intervals = {};  // where StatusRequest::spans asks for them
  bool operator==(const ResidentReport&) const = default;
};

struct LoadProgress {
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
  std::uint64_t seconds_left = 0;  // 0: done, or not known
  bool operator==(const LoadProgress&) const = default;
};

enum class PreparePhase : std::uint8_t { kLoading, kPrepared, kFailed };

std::string_view to_string(PreparePhase phase);

/// An epoch between its prepare and its commit or abort.
struct Preparation {
  std::uint64_t epoch = 0;
  PreparePhase phase = PreparePhase::kLoading;
  std::string layers;
  std::string detail;  // why it failed
  bool operator==(const Preparation&) const = default;
};

struct NodeStatus {
  std::string name;
  NodeState state = NodeState::kIdle;
  std::string detail;       // one sentence, may be empty
  std::string version;      // of ds4d
  std::string model;        // path of the model file; known (with the next two) without assignment
  std::string fingerprint;  // of the model file
  std::uint64_t block_count = 0;    // layers of the model
  std::string layers;               // of the committed route; empty if none
  std::uint64_t epoch = 0;          // of the committed route; 0 if there was none yet
  std::uint64_t highest_epoch = 0;  // ever prepared here, aborted ones included: prepare one above
  std::optional<Preparation> preparation;
  CoverReport cover;  // of the committed layers, else of those being prepared
  ResidentReport resident;
  std::uint64_t sessions = 0;
  std::uint64_t requests = 0;  // of this node's programs, not ended yet
  bool draining = false;       // see DrainRequest
  std::uint64_t kv_bytes = 0;
  std::string kv_formula;  // what one session of the configured context takes, as the sum it is
  LoadProgress load;       // of the load going on, or of the last one
  std::vector<StageSpec> route;
  StageFigures stage;
  std::vector<LinkFigures> links;  // to the other nodes of the route
  ClientFigures clients;
  /// From the network since the agent started, because nothing could be made of them or their
  /// senders may not send them.
  std::uint64_t dropped_messages = 0;
  bool operator==(const NodeStatus&) const = default;
};

// ---- replies ---------------------------------------------------------------------------------

/// One key that an agent knows.
struct KnownKey {
  std::string name;
  std::string key;
  bool revoked = false;
  bool operator==(const KnownKey&) const = default;
};

/// `error` set: the request was refused. The node's status comes along either way where it can.
struct Reply {
  std::uint64_t id = 0;
  std::optional<Error> error;
  std::optional<NodeStatus> status;
  std::optional<std::vector<KnownKey>> keys = {};  // to KeysRequest, TrustRequest, RevokeRequest
  std::optional<NodeOffer> offer = {};
  std::optional<ProbeFigures> probe = {};
};

/// JSON texts. Bytes that are not UTF-8 become U+FFFD, so encoding never fails.
std::string encode(const Request& request);
std::string encode(const Reply& reply);

/// Errors: kCorrupt, naming the key and what was expected of it.
Result<Request> decode_request(std::string_view json);
Result<Reply> decode_reply(std::string_view json);

/// For people and programs: the objects of `ds4ctl status --json` and `ds4ctl cover --json`.
std::string to_json_text(const NodeStatus& status, int indent = 2);
std::string to_json_text(const CoverReport& cover, int indent = 2);

}  // namespace ds4::wire
