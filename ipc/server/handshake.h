#pragma once
// The first packet of a connection, judged: bytes in, a decision out. Pure, and fuzzed.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "ipc/region.h"
#include "ipc/validate.h"

namespace ds4::ipc {

struct HelloVerdict {
  std::optional<Refusal> refusal;  // set: nothing below is
  RegionShape shape;
  std::uint16_t minor = 0;  // what both ends will speak
  std::string name;         // of the program; may be empty
};

/// `packet` is what arrived, cut at sizeof(Hello) + 1 bytes so that a longer one shows.
HelloVerdict judge_hello(std::span<const std::byte> packet, const RegionShape& most);

/// A welcome that says no.
Welcome make_refusal(const Refusal& refusal);
Farewell make_farewell(Status status, std::string_view sentence);

}  // namespace ds4::ipc
