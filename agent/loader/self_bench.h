#pragma once
// How fast this machine computes, measured on the engine and the weights that serve: a few passes
// through one layer of each kind, with rows of no meaning. What a row says does not change what it
// costs, and layers of one kind differ only by their bytes, so rates of bytes and multiplications
// per second carry over to layers that this node does not hold.
//
// A node that holds nothing knows its memory's bandwidth alone, which is what decoding lives on.
#include <chrono>
#include <string>
#include <vector>

#include "agent/wire/offer.h"
#include "engine/base/result.h"
#include "engine/model/slice.h"

namespace ds4::agent {

/// Rows that a bench slice must take in one forward().
inline constexpr std::uint32_t kBenchRows = 64;

struct LayerTimes {
  std::chrono::duration<double> token{};  // one row alone
  std::chrono::duration<double> row{};    // of kBenchRows together
};

/// Runs `slice`, which has no session of clients and not the output head, for no longer than about
/// `budget`; the best of what it saw, since other programs only ever slow one down. Errors: the
/// slice's.
Result<LayerTimes> time_layers(Slice& slice, std::chrono::milliseconds budget);

/// From the time that `load`'s layer took.
wire::SpeedRate rate_of(const LayerTimes& times, const wire::LayerLoad& load);
/// Of all of these together: the middle of each.
wire::SpeedRate overall_rate(std::vector<wire::SpeedRate> rates);

}  // namespace ds4::agent
