#pragma once
// One accepted socket: first a stranger that has yet to say hello, then a client with a region.
#include <memory>
#include <optional>
#include <string>

#include "engine/base/result.h"
#include "engine/base/unique_fd.h"
#include "ipc/server/gate.h"
#include "ipc/server/handshake.h"
#include "ipc/server/session.h"

namespace ds4::ipc {

/// What a welcome says about the model, and the descriptor that goes with it.
struct WelcomeCard {
  std::string model;
  std::uint64_t fingerprint = 0;
  RequestLimits limits;
  RouteState route_state = RouteState::kIdle;
  int metadata_fd = -1;
  std::uint64_t metadata_bytes = 0;
};

/// Descriptors that a client costs the agent: socket, life, doorbell, wake pipe.
inline constexpr std::uint64_t kDescriptorsPerClient = 4;

struct Connection {
  ClientId id = 0;
  PeerIdentity peer;
  UniqueFd socket;
  UniqueFd life;                     // readable once the program has ended; may be none
  std::string name;                  // as the program gave it
  UniqueFd doorbell;                 // the client rings; never read, see on_hello()
  UniqueFd wake;                     // write end of the client's wake pipe
  std::unique_ptr<Session> session;  // null until the handshake is done
  std::optional<Refusal> doom;       // to be hung up on in this turn
  bool is_ready = false;             // in the server's list of those who get a turn
  bool is_dirty = false;             // in the server's list of those who may need waking
};

/// "pid 4711 (ds4ctl) of user 1000", for sentences. `name` is what the program calls itself.
std::string describe_program(const PeerIdentity& peer, std::string_view name);

/// Makes the region and its descriptors and sends the welcome. On error nothing has been sent.
/// `budget` as for Intake.
Result<void> welcome_client(Connection& connection, const HelloVerdict& verdict,
                            const WelcomeCard& card, TokenBudget* budget);

/// Last words; whether they arrive is the client's affair.
void say_farewell(const Connection& connection, Status status, std::string_view sentence);
void say_refusal(int socket, const Refusal& refusal);
/// One byte into the wake pipe. A full pipe is a pipe that wakes already.
void wake_client(const Connection& connection);

}  // namespace ds4::ipc
