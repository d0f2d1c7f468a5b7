#pragma once
// Makes a ZeroMQ socket prove a key to an agent.
#include <string>
#include <zmq.hpp>

#include "agent/keys/key.h"

namespace ds4::test {

/// Before connecting. `server`: the agent's public key, "node:...".
void prove(zmq::socket_t& socket, const keys::KeyPair& who, const std::string& server);

}  // namespace ds4::test
