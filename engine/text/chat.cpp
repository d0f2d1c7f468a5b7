#include "engine/text/chat.h"

#include <fmt/format.h>

namespace ds4 {
namespace {

struct Markers {
  Token begin = -1;
  Token end = -1;
  Token user = -1;
  Token assistant = -1;
  Token think = -1;
  Token no_think = -1;
};

Result<Token> marker(const Tokenizer& tokenizer, std::string_view text) {
  const Token token = tokenizer.find(text);
  if (token >= 0) return token;
  return fail(ErrorCode::kUnsupported,
              fmt::format("the vocabulary has no {} token, which the chat format needs; send plain "
                          "text instead",
                          text));
}

Result<Markers> find_markers(const Tokenizer& tokenizer) {
  Markers markers;
  DS4_ASSIGN(markers.begin, marker(tokenizer, "<｜begin▁of▁sentence｜>"));
  DS4_ASSIGN(markers.end, marker(tokenizer, "<｜end▁of▁sentence｜>"));
  DS4_ASSIGN(markers.user, marker(tokenizer, "<｜User｜>"));
  DS4_ASSIGN(markers.assistant, marker(tokenizer, "<｜Assistant｜>"));
  DS4_ASSIGN(markers.think, marker(tokenizer, "<think>"));
  DS4_ASSIGN(markers.no_think, marker(tokenizer, "</think>"));
  return markers;
}

/// An optional system text, then turns of user and assistant, a user's first and last.
Result<void> check_order(std::span<const ChatMessage> messages) {
  const auto wrong = [](std::size_t index, std::string_view what) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("chat message {}: {}", index, what));
  };
  Role expected = Role::kUser;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Role role = messages[i].role;
    if (role == Role::kSystem) {
      if (i > 0) return wrong(i, "the system text can only come first");
      continue;
    }
    if (role != expected) {
      return wrong(i, expected == Role::kUser ? "a user's message must come before an answer"
                                              : "two messages of the user follow one another");
    }
    expected = role == Role::kUser ? Role::kAssistant : Role::kUser;
  }
  if (expected == Role::kAssistant) return {};
  return fail(ErrorCode::kInvalidArgument,
              "the chat must end with a user's message for the assistant to answer");
}

}  // namespace

Result<std::vector<Token>> render_chat(const Tokenizer& tokenizer,
                                       std::span<const ChatMessage> messages, bool thinking) {
  DS4_TRY(check_order(messages));
  DS4_ASSIGN(const Markers markers, find_markers(tokenizer));
  std::vector<Token> tokens = {markers.begin};
  const auto append_text = [&](const std::string& text) {
    const std::vector<Token> encoded = tokenizer.encode(text, false);
    tokens.insert(tokens.end(), encoded.begin(), encoded.end());
  };
  for (const ChatMessage& message : messages) {
    switch (message.role) {
      case Role::kSystem:
        append_text(message.text);
        break;
      case Role::kUser:
        tokens.push_back(markers.user);
        append_text(message.text);
        tokens.push_back(markers.assistant);
        break;
      case Role::kAssistant:
        // Answers stand in the history without the thoughts that led to them.
        tokens.push_back(markers.no_think);
        append_text(message.text);
        tokens.push_back(markers.end);
        break;
    }
  }
  tokens.push_back(thinking ? markers.think : markers.no_think);
  return tokens;
}

}  // namespace ds4
