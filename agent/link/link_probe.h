#pragma once
// Measures the way to another agent: round trip and bytes per second, over a connection of its own
// that is encrypted like a route's.
//
// A probe is a message of the kind kProbe: eight bytes that number it, and a payload that says
// nothing. The other agent's main loop answers each with the eight bytes alone, so what is measured
// is what frames of a route will find: its encryption, its sockets, its loop. Payloads grow until
// one takes long enough to be timed, and are bounded in size and together in time.
//
// Thread rule: measure_link() blocks; LinkProber runs it on a thread of its own and is called by
// the main loop alone.
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "agent/keys/key.h"
#include "agent/wire/offer.h"
#include "engine/base/result.h"

namespace ds4::agent {

inline constexpr std::size_t kProbeHeaderBytes = 8;

struct ProbeTarget {
  std::string address;
  std::optional<keys::PublicKey> key = {};  // that it must prove; none: without encryption
};

struct ProbeLimits {
  std::chrono::milliseconds connect{3'000};  // until the first answer
  std::chrono::milliseconds answer{2'000};   // for each one after it
  std::chrono::milliseconds enough{30};      // a payload that takes so long tells the rate
  std::size_t max_bytes = wire::kMaxProbeBytes;
  const std::atomic<bool>* cancel = nullptr;  // looked at ten times a second
};

/// `own`: this side's key. Errors: kTimeout, naming the address and what to look at; kIo;
/// kCancelled.
Result<wire::ProbeFigures> measure_link(const ProbeTarget& target,
                                        const std::optional<keys::KeyPair>& own,
                                        const ProbeLimits& limits = {});

class LinkProber {
 public:
  LinkProber();
  ~LinkProber();  // ends the probe under way
  LinkProber(const LinkProber&) = delete;
  LinkProber& operator=(const LinkProber&) = delete;

  bool busy() const;
  /// While not busy. Errors: kResourceExhausted if there is no thread.
  Result<void> start(ProbeTarget target, std::optional<keys::KeyPair> own);
  /// Readable when take() has the outcome.
  int event_fd() const;
  std::optional<Result<wire::ProbeFigures>> take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::agent
