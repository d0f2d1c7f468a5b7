#pragma once
// DeepSeek's chat format: <bos>[system]<User>question<Assistant></think>answer<eos>...
#include <span>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/text/tokenizer.h"

namespace ds4 {

enum class Role { kSystem, kUser, kAssistant };

struct ChatMessage {
  Role role = Role::kUser;
  std::string text;
};

/// Tokens of the conversation, ending where the assistant is to speak. The texts cannot forge
/// control tokens. `thinking` opens with <think> instead of </think>. Errors: kUnsupported if the
/// vocabulary lacks a control token the format needs; kInvalidArgument for an order that the format
/// cannot say.
Result<std::vector<Token>> render_chat(const Tokenizer& tokenizer,
                                       std::span<const ChatMessage> messages,
                                       bool thinking = false);

}  // namespace ds4
