#pragma once
// What `ds4-eval bench` found, as JSON and as sentences.
#include <optional>
#include <string>
#include <vector>

#include "ctl/ds4_eval/bench_run.h"
#include "engine/model/decode_traffic.h"

namespace ds4::eval {

struct Measured {
  Conversations what;  // the main ones
  std::uint32_t repeat = 0;
  std::size_t slices = 1;
  std::string device;               // an instruction set or a GPU
  std::optional<unsigned> threads;  // of a CPU
  double prefill_tps = 0;
  double decode_tps = 0;
  DecodeTraffic traffic;      // of a token in the middle of the answer
  double read_bandwidth = 0;  // bytes per second, of the memory that the weights are in
  std::string kv;             // what a session's cache consists of

  struct Further {
    Conversations what;
    Times times;
    DecodeTraffic traffic;
  };
  std::vector<Further> contexts, sessions, prefills;

  double bandwidth_share() const {
    return static_cast<double>(traffic.weight_bytes) * decode_tps / read_bandwidth;
  }
};

std::string to_json(const Measured& measured);
std::string to_text(const Measured& measured);

/// Where the GPU's time went.
struct Profiled {
  Conversations what;
  KernelTimes prefill, decode;
};
std::string to_json(const Profiled& profiled);
std::string to_text(const Profiled& profiled);

}  // namespace ds4::eval
