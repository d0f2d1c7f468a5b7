#pragma once
// The bytes that an agent and a client share: an io_uring for tokens.
//
// One idea carries this folder: a client and the agent talk by writing into memory that both have
// mapped, and the kernel is asked only to wake a sleeper. The agent makes one region per client, a
// memfd sealed against resizing, with a ring of submissions (client to agent), a ring of
// completions (agent to client) and an arena of token ids (prompts, client to agent). Each position
// is a 64-bit counter that only grows and that exactly one side writes; a slot is `position %
// entries`. Whatever the client may write is hostile: the agent keeps its own positions privately,
// reads the client's with bounds, copies an entry once into private memory and looks at nothing
// twice.
//
// PROTOCOL.md beside this file says the same in words, with offsets and memory ordering; the
// static_asserts below tie the two together. All integers are little-endian, all reserved bytes are
// zero and are checked, so that a later minor version can give them a meaning.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ds4::ipc {

inline constexpr const char* kDefaultSocketPath = "/run/ds4d/client.sock";

/// A major version changes the layout; a minor version gives reserved fields a meaning. Both ends
/// speak the smaller of their minors.
inline constexpr std::uint16_t kMajorVersion = 1;
inline constexpr std::uint16_t kMinorVersion = 1;
/// Of the first minor version that knows fork_session and the welcome's fingerprint.
inline constexpr std::uint16_t kForkMinor = 1;

// ---- Submissions ----------------------------------------------------------------------------

enum class Op : std::uint16_t {
  kGenerate = 1,    // answer a prompt
  kPromptPart = 2,  // an earlier piece of the next generate's prompt, for prompts beyond the arena
  kCancel = 3,      // end `request_id` early
  kCloseSession = 4,  // forget a kept session
  kForkSession = 5,   // since 1.1: copy a kept session
};

inline constexpr std::uint16_t kFlagLogprobs = 1U
                                               << 0;  // token completions carry log-probabilities
inline constexpr std::uint16_t kFlagKeepSession = 1U << 1;  // the KV cache outlives the request
inline constexpr std::uint16_t kFlagProgress = 1U << 2;     // progress completions during prefill
inline constexpr std::uint16_t kKnownFlags = kFlagLogprobs | kFlagKeepSession | kFlagProgress;

/// One request, two cache lines. Which fields an op uses is in PROTOCOL.md; the others are zero.
struct SubmissionEntry {
  std::uint64_t request_id = 0;  // chosen by the client; each new request's is larger than the last
  std::uint16_t op = 0;          // Op
  std::uint16_t flags = 0;       // kFlag*
  std::uint32_t max_tokens = 0;  // 0: as many as the context holds
  std::uint64_t session_id = 0;  // 0: a new session; else one that an earlier final named
  std::uint64_t arena_begin = 0;  // arena position of the first prompt token
  std::uint32_t prompt_tokens = 0;
  std::uint32_t stop_tokens = 0;  // they follow the prompt in the arena
  float temperature = 0;          // 0: greedy
  float top_p = 1;                // 1: off
  float min_p = 0;                // 0: off
  std::uint32_t top_k = 0;        // 0: off
  std::uint64_t seed = 0;
  std::array<std::uint8_t, 64> reserved = {};
};

// ---- Completions ----------------------------------------------------------------------------

enum class Kind : std::uint16_t {
  kToken = 1,     // TokenBody
  kProgress = 2,  // ProgressBody
  kMessage = 3,   // up to 48 bytes of UTF-8; fragments join and precede the final they explain
  kFinal = 4,     // FinalBody; nothing follows it for its request
};

struct TokenBody {
  std::int32_t token = 0;
  std::uint32_t position = 0;  // in the session: the first prompt token of a new session has 0
  float logprob = 0;           // 0 unless kFlagLogprobs
  std::array<std::uint8_t, 36> reserved = {};
};

struct ProgressBody {
  std::uint32_t done = 0;  // prompt tokens through the model so far
  std::uint32_t total = 0;
  std::array<std::uint8_t, 40> reserved = {};
};

struct FinalBody {
  std::uint64_t session_id = 0;  // of a kept session, else 0
  std::uint32_t prompt_tokens = 0;
  std::uint32_t generated_tokens = 0;  // token completions delivered
  std::int32_t stop_token = -1;        // the stop token that ended the answer; it is not delivered
  std::array<std::uint8_t, 28> reserved = {};
};

inline constexpr std::size_t kMessageFragmentBytes = 48;
inline constexpr std::size_t kMaxMessageBytes = 5 * kMessageFragmentBytes;

/// One answer, one cache line: 16 bytes in common, then the body that `kind` names.
struct CompletionEntry {
  std::uint64_t request_id = 0;
  std::uint16_t kind = 0;        // Kind
  std::uint16_t status = 0;      // Status (status.h), of a final
  std::uint32_t text_bytes = 0;  // of a message fragment
  std::array<std::byte, 48> body = {};

  template <typename Body>
  Body body_as() const {
    static_assert(sizeof(Body) == sizeof(body) && std::is_trivially_copyable_v<Body>);
    Body out;
    std::memcpy(&out, body.data(), sizeof(out));
    return out;
  }
  template <typename Body>
  void set_body(const Body& value) {
    static_assert(sizeof(Body) == sizeof(body) && std::is_trivially_copyable_v<Body>);
    std::memcpy(body.data(), &value, sizeof(value));
  }
};

// ---- The region -----------------------------------------------------------------------------

/// What the side that owns a waker word asks to be woken for (waker.h).
inline constexpr std::uint32_t kWantEntries = 1U << 0;  // the other side has published entries
inline constexpr std::uint32_t kWantSpace = 1U << 1;    // the other side has made room

/// Pairs of cache lines: neighbours are prefetched together, so one line each would still bounce.
inline constexpr std::size_t kLine = 128;

/// Page 0 of the region. Everything before `state` is written by the agent before the client sees
/// the region and never again, and the agent never reads it back: it keeps its own copy. The words
/// below are accessed as atomics only (std::atomic_ref); each names its partner and order.
struct RegionHeader {
  std::uint64_t magic = 0;  // kRegionMagic
  std::uint16_t major = 0;
  std::uint16_t minor = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t region_bytes = 0;
  std::uint32_t submission_offset = 0;
  std::uint32_t submission_entries = 0;  // a power of two, as are the next two counts
  std::uint32_t completion_offset = 0;
  std::uint32_t completion_entries = 0;
  std::uint32_t arena_offset = 0;
  std::uint32_t arena_tokens = 0;

  /// RouteState (status.h). Agent stores release, client loads acquire.
  alignas(kLine) std::uint32_t route_state = 0;
  std::uint32_t state_reserved = 0;

  /// Submissions published. Client stores release (seq_cst when it then reads agent_wants), agent
  /// loads acquire (seq_cst after it wrote agent_wants).
  alignas(kLine) std::uint64_t submission_tail = 0;

  /// Submissions and arena tokens consumed: copied out, so their room may be reused. Agent stores
  /// release, client loads acquire; seq_cst around client_wants as above.
  alignas(kLine) std::uint64_t submission_head = 0;
  std::uint64_t arena_head = 0;

  /// Completions published: agent stores, client loads. Orders as for submission_tail, with
  /// client_wants.
  alignas(kLine) std::uint64_t completion_tail = 0;

  /// Completions consumed: client stores, agent loads. Orders as for submission_head, with
  /// agent_wants.
  alignas(kLine) std::uint64_t completion_head = 0;

  /// kWant* bits of the agent, who sets them before it sleeps; the client takes them (exchange 0)
  /// before it signals. All seq_cst.
  alignas(kLine) std::uint32_t agent_wants = 0;

  /// kWant* bits of the client; the agent takes them before it signals. All seq_cst.
  alignas(kLine) std::uint32_t client_wants = 0;

  alignas(kLine) std::array<std::uint8_t, 4096 - 8 * kLine> reserved = {};
};

inline constexpr std::uint64_t kRegionMagic = 0x31474e4952345344;  // "DS4RING1" in memory

// ---- The handshake --------------------------------------------------------------------------

inline constexpr std::uint32_t kHelloMagic = 0x48345344;     // "DS4H"
inline constexpr std::uint32_t kWelcomeMagic = 0x57345344;   // "DS4W"
inline constexpr std::uint32_t kFarewellMagic = 0x46345344;  // "DS4F"

/// First packet of a connection, client to agent.
struct Hello {
  std::uint32_t magic = kHelloMagic;
  std::uint16_t major = kMajorVersion;
  std::uint16_t minor = kMinorVersion;
  std::uint32_t submission_entries =
      0;  // wishes; 0: the agent's choice. The agent rounds and bounds.
  std::uint32_t completion_entries = 0;
  std::uint32_t arena_tokens = 0;
  std::uint32_t flags = 0;         // none yet
  std::array<char, 40> name = {};  // of the program, for the agent's log; NUL-terminated
  std::array<std::uint8_t, 64> reserved = {};
};

/// The agent's answer. With status 0, descriptors come along: region memfd, doorbell eventfd
/// (client to agent), wake pipe's read end (agent to client), and, if metadata_bytes > 0, the
/// metadata memfd. With any other status there are none, and `sentence` says why.
struct Welcome {
  std::uint32_t magic = kWelcomeMagic;
  std::uint16_t major = kMajorVersion;
  std::uint16_t minor = kMinorVersion;
  std::uint16_t status = 0;  // Status
  std::uint16_t reserved0 = 0;
  std::uint32_t route_state = 0;
  std::uint64_t region_bytes = 0;
  std::uint64_t metadata_bytes = 0;
  std::uint32_t vocabulary = 0;
  std::uint32_t context = 0;       // positions that one session may hold
  std::uint32_t max_requests = 0;  // in flight at once on this connection
  std::uint32_t max_stop_tokens = 0;
  std::array<char, 128> model = {};     // NUL-terminated
  std::array<char, 256> sentence = {};  // NUL-terminated, empty when accepted
  std::uint64_t fingerprint = 0;        // since 1.1: of the model file; 0: there is none
  std::array<std::uint8_t, 72> reserved = {};
};

/// The agent's last words on the socket before it hangs up, if it has the time.
struct Farewell {
  std::uint32_t magic = kFarewellMagic;
  std::uint16_t status = 0;  // Status
  std::uint16_t reserved0 = 0;
  std::array<char, 248> sentence = {};
};

// ---- What PROTOCOL.md promises ---------------------------------------------------------------

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the protocol is little-endian");

static_assert(sizeof(SubmissionEntry) == 128);
static_assert(offsetof(SubmissionEntry, op) == 8 && offsetof(SubmissionEntry, flags) == 10);
static_assert(offsetof(SubmissionEntry, max_tokens) == 12);
static_assert(offsetof(SubmissionEntry, session_id) == 16);
static_assert(offsetof(SubmissionEntry, arena_begin) == 24);
static_assert(offsetof(SubmissionEntry, prompt_tokens) == 32);
static_assert(offsetof(SubmissionEntry, stop_tokens) == 36);
static_assert(offsetof(SubmissionEntry, temperature) == 40);
static_assert(offsetof(SubmissionEntry, top_p) == 44 && offsetof(SubmissionEntry, min_p) == 48);
static_assert(offsetof(SubmissionEntry, top_k) == 52 && offsetof(SubmissionEntry, seed) == 56);
static_assert(offsetof(SubmissionEntry, reserved) == 64);

static_assert(sizeof(CompletionEntry) == 64);
static_assert(offsetof(CompletionEntry, kind) == 8 && offsetof(CompletionEntry, status) == 10);
static_assert(offsetof(CompletionEntry, text_bytes) == 12);
static_assert(offsetof(CompletionEntry, body) == 16);
static_assert(sizeof(TokenBody) == 48 && sizeof(ProgressBody) == 48 && sizeof(FinalBody) == 48);
static_assert(offsetof(TokenBody, position) == 4 && offsetof(TokenBody, logprob) == 8);
static_assert(offsetof(ProgressBody, total) == 4);
static_assert(offsetof(FinalBody, prompt_tokens) == 8 &&
              offsetof(FinalBody, generated_tokens) == 12);
static_assert(offsetof(FinalBody, stop_token) == 16);

static_assert(sizeof(RegionHeader) == 4096);
static_assert(offsetof(RegionHeader, major) == 8 && offsetof(RegionHeader, minor) == 10);
static_assert(offsetof(RegionHeader, header_bytes) == 12);
static_assert(offsetof(RegionHeader, region_bytes) == 16);
static_assert(offsetof(RegionHeader, submission_offset) == 24);
static_assert(offsetof(RegionHeader, submission_entries) == 28);
static_assert(offsetof(RegionHeader, completion_offset) == 32);
static_assert(offsetof(RegionHeader, completion_entries) == 36);
static_assert(offsetof(RegionHeader, arena_offset) == 40);
static_assert(offsetof(RegionHeader, arena_tokens) == 44);
static_assert(offsetof(RegionHeader, route_state) == 128);
static_assert(offsetof(RegionHeader, submission_tail) == 256);
static_assert(offsetof(RegionHeader, submission_head) == 384);
static_assert(offsetof(RegionHeader, arena_head) == 392);
static_assert(offsetof(RegionHeader, completion_tail) == 512);
static_assert(offsetof(RegionHeader, completion_head) == 640);
static_assert(offsetof(RegionHeader, agent_wants) == 768);
static_assert(offsetof(RegionHeader, client_wants) == 896);

static_assert(sizeof(Hello) == 128 && offsetof(Hello, submission_entries) == 8);
static_assert(offsetof(Hello, arena_tokens) == 16 && offsetof(Hello, name) == 24);
static_assert(sizeof(Welcome) == 512 && offsetof(Welcome, status) == 8);
static_assert(offsetof(Welcome, region_bytes) == 16 && offsetof(Welcome, vocabulary) == 32);
static_assert(offsetof(Welcome, model) == 48 && offsetof(Welcome, sentence) == 176);
static_assert(offsetof(Welcome, fingerprint) == 432 && offsetof(Welcome, reserved) == 440);
static_assert(sizeof(Farewell) == 256 && offsetof(Farewell, sentence) == 8);

}  // namespace ds4::ipc
