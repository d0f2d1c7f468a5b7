#pragma once
// The options that every subcommand of ds4-eval shares: which model, and how to compute it.
#include <string>

#include "ctl/ds4_eval/slice_chain.h"

namespace CLI {
class App;
}

namespace ds4::eval {

struct EngineOptions {
  std::string model;
  std::string split;
  std::string graph = "official";
  std::string backend = "cpu";
  std::uint32_t chunk = 512;
  bool exact = false;
  unsigned threads = 0;  // 0: one for each core

  ChainOptions chain() const;
};

/// `options` must outlive the parsing.
void add_engine_options(CLI::App& command, EngineOptions& options);

}  // namespace ds4::eval
