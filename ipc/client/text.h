#pragma once
// Text to tokens and back, with the tables that came with the welcome.
#include <memory>
#include <span>
#include <string>

#include "engine/text/tokenizer.h"
#include "ipc/client/outcome.h"
#include "ipc/region.h"

namespace ds4::ipc {

/// Loads on first use: a program that speaks tokens never pays for it. One thread at a time; what
/// tokenizer() hands out may be shared and outlive this.
class Text {
 public:
  explicit Text(Mapping metadata) : metadata_(std::move(metadata)) {}

  bool available() const { return metadata_.size() > 0; }
  /// DS4_NO_TEXT without tables; DS4_INTERNAL if they make no sense.
  Outcome<std::shared_ptr<const Tokenizer>> tokenizer();
  /// -1 where the tables name none, or there are none. Cheaper than the tokenizer.
  Token bos();
  Token eos();

 private:
  void read_special();

  Mapping metadata_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool has_special_ = false;
  Token bos_ = -1;
  Token eos_ = -1;
};

}  // namespace ds4::ipc
