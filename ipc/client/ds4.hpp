#pragma once
// C++20 wrapper over ds4.h: owners instead of pointers, spans and strings instead of buffers.
// Header only, so that just the C ABI crosses the library's border.
//
// Errors: calls throw ds4::client::Error, which carries the status and the library's sentence. How
// a request ends is never an exception: it is the Final event, for the caller to look at. Thread
// rule: as in ds4.h, one thread at a time per Connection.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ds4.h"

namespace ds4::client {

using Token = ds4_token;
using RequestId = std::uint64_t;
using SessionId = std::uint64_t;

class Error : public std::runtime_error {
 public:
  Error(ds4_status status, const char* sentence) : std::runtime_error(sentence), status_(status) {}
  ds4_status status() const noexcept { return status_; }
  bool retryable() const noexcept { return ds4_is_retryable(status_) != 0; }

 private:
  ds4_status status_;
};

inline void check(ds4_status status) {
  if (status != DS4_OK) throw Error(status, ds4_last_error());
}

struct Message {
  enum class Role : std::uint32_t {
    kSystem = DS4_SYSTEM,
    kUser = DS4_USER,
    kAssistant = DS4_ASSISTANT
  };
  Role role = Role::kUser;
  std::string_view text;
};

/// What ds4_request says, with views: they need only live until submit() returns.
struct Request {
  std::span<const Token> prompt = {};
  std::span<const Token> stop = {};
  std::uint32_t max_tokens = 0;
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  std::uint32_t top_k = 0;
  std::uint64_t seed = 0;
  SessionId session = 0;
  bool stop_at_eos = true;
  bool logprobs = false;
  bool keep_session = false;
  bool progress = false;
  bool resume = false;  // goes on by itself after a restart of the agent
};

/// A ds4_event; `sentence` is valid until the connection's next call.
using Event = ds4_event;

inline bool is_final(const Event& event) {
  return event.kind == DS4_EVENT_FINAL;
}
inline bool is_token(const Event& event) {
  return event.kind == DS4_EVENT_TOKEN;
}
/// A final that says why there is no (whole) answer.
inline bool is_error(const Event& event) {
  return is_final(event) && ds4_is_error(event.status) != 0;
}

/// Tokens to text, never ending inside a UTF-8 character. Outlives its connection if need be.
class Decoder {
 public:
  explicit Decoder(const ds4_client* client) {
    ds4_decoder* decoder = nullptr;
    check(ds4_decoder_new(client, &decoder));
    decoder_.reset(decoder);
  }
  /// Views are valid until the next call.
  std::string_view push(Token token) {
    const char* text = nullptr;
    std::size_t bytes = 0;
    check(ds4_decoder_push(decoder_.get(), token, &text, &bytes));
    return {text, bytes};
  }
  std::string_view finish() {
    const char* text = nullptr;
    std::size_t bytes = 0;
    check(ds4_decoder_finish(decoder_.get(), &text, &bytes));
    return {text, bytes};
  }

 private:
  struct Free {
    void operator()(ds4_decoder* decoder) const noexcept { ds4_decoder_free(decoder); }
  };
  std::unique_ptr<ds4_decoder, Free> decoder_;
};

class Connection {
  /// A single-pass range.
  class Events {
   public:
    class Iterator {
     public:
      using value_type = Event;
      using difference_type = std::ptrdiff_t;
      Iterator() = default;
      explicit Iterator(Connection& connection) : connection_(&connection) { ++*this; }
      const Event& operator*() const { return event_; }
      const Event* operator->() const { return &event_; }
      Iterator& operator++() {
        // Only a final can have been the last event, and before the first one there is none.
        if (event_.kind == 0 || is_final(event_)) more_ = connection_->info().requests > 0;
        if (!more_) return *this;
        std::optional<Event> event;
        while (!event) event = connection_->next();  // a signal's interruption is no event
        event_ = *event;
        return *this;
      }
      void operator++(int) { ++*this; }
      bool operator==(std::default_sentinel_t) const { return !more_; }

     private:
      Connection* connection_ = nullptr;
      Event event_ = {};
      bool more_ = false;
    };
    explicit Events(Connection& connection) : connection_(&connection) {}
    Iterator begin() const { return Iterator(*connection_); }
    std::default_sentinel_t end() const { return {}; }

   private:
    Connection* connection_;
  };

 public:
  /// Empty path: DS4_SOCKET from the environment, else the system's agent.
  explicit Connection(const std::string& socket_path = {},
                      const ds4_connect_options& options = DS4_CONNECT_OPTIONS_INIT) {
    ds4_client* client = nullptr;
    check(ds4_connect(socket_path.empty() ? nullptr : socket_path.c_str(), &options, &client));
    client_.reset(client);
  }

  ds4_info info() const {
    ds4_info info = DS4_INFO_INIT;
    check(ds4_get_info(client_.get(), &info));
    return info;
  }

  /// Without `control`, nothing in the text can become a control token: right for user input.
  std::vector<Token> tokenize(std::string_view text, bool control = false) const {
    return fill<std::vector<Token>>([&](Token* out, std::size_t capacity, std::size_t* count) {
      return ds4_tokenize(client_.get(), text.data(), text.size(), control ? DS4_CONTROL : 0, out,
                          capacity, count);
    });
  }

  std::string detokenize(std::span<const Token> tokens, bool control = false) const {
    return fill<std::string>([&](char* out, std::size_t capacity, std::size_t* count) {
      return ds4_detokenize(client_.get(), tokens.data(), tokens.size(), control ? DS4_CONTROL : 0,
                            out, capacity, count);
    });
  }

  /// A conversation in the model's chat format, ending where the assistant is to speak.
  std::vector<Token> chat(std::span<const Message> messages, bool think = false) const {
    std::vector<ds4_message> raw;
    raw.reserve(messages.size());
    for (const Message& m : messages)
      raw.push_back({static_cast<std::uint32_t>(m.role), m.text.data(), m.text.size()});
    return fill<std::vector<Token>>([&](Token* out, std::size_t capacity, std::size_t* count) {
      return ds4_chat(client_.get(), raw.data(), raw.size(), think ? DS4_THINK : 0, out, capacity,
                      count);
    });
  }
  std::vector<Token> chat(std::string_view user_text, bool think = false) const {
    const Message message{Message::Role::kUser, user_text};
    return chat(std::span(&message, 1), think);
  }

  Decoder decoder() const { return Decoder(client_.get()); }

  RequestId submit(const Request& request) {
    ds4_request raw = DS4_REQUEST_INIT;
    raw.flags = flag(request.stop_at_eos, DS4_STOP_AT_EOS) | flag(request.logprobs, DS4_LOGPROBS) |
                flag(request.keep_session, DS4_KEEP_SESSION) |
                flag(request.progress, DS4_PROGRESS) | flag(request.resume, DS4_RESUME);
    raw.session = request.session;
    raw.prompt = request.prompt.data();
    raw.prompt_tokens = request.prompt.size();
    raw.stop = request.stop.data();
    raw.stop_tokens = request.stop.size();
    raw.max_tokens = request.max_tokens;
    raw.temperature = request.temperature;
    raw.top_p = request.top_p;
    raw.min_p = request.min_p;
    raw.top_k = request.top_k;
    raw.seed = request.seed;
    RequestId id = 0;
    check(ds4_submit(client_.get(), &raw, &id));
    return id;
  }

  void cancel(RequestId request) { check(ds4_cancel(client_.get(), request)); }

  /// Its final (DS4_OK_CLOSED) arrives as an event.
  RequestId close_session(SessionId session) {
    RequestId id = 0;
    check(ds4_close_session(client_.get(), session, &id));
    return id;
  }

  /// Its final (DS4_OK_FORKED) names the copy.
  RequestId fork_session(SessionId session) {
    RequestId id = 0;
    check(ds4_fork_session(client_.get(), session, &id));
    return id;
  }

  /// The next event of any request. Nothing after `timeout`, or when a signal interrupted the wait.
  /// Without a timeout, waits for ever. Throws once the agent is gone and all finals were taken.
  std::optional<Event> next(std::optional<std::chrono::milliseconds> timeout = std::nullopt) {
    Event event;
    const ds4_status status =
        ds4_next(client_.get(), &event, timeout ? milliseconds_of(*timeout) : -1);
    if (status == DS4_TIMEOUT || status == DS4_INTERRUPTED) return std::nullopt;
    check(status);
    return event;
  }

  /// All events from now on, of every request in flight, until each has had its final:
  /// `for (const Event& event : connection.events())`.
  auto events() { return Events(*this); }

  /// For epoll; the rule in ds4.h applies.
  int event_fd() const { return ds4_event_fd(client_.get()); }
  ds4_client* get() const { return client_.get(); }

 private:
  /// Bounded to what ds4_next takes for a time: -1 would be for ever.
  static int milliseconds_of(std::chrono::milliseconds time) {
    return static_cast<int>(std::clamp<std::int64_t>(time.count(), 0, INT32_MAX));
  }
  static std::uint32_t flag(bool on, std::uint32_t bit) { return on ? bit : 0; }

  /// Guesses a size, and asks once more if it was too small.
  template <typename Buffer, typename Call>
  static Buffer fill(Call call) {
    Buffer buffer;
    buffer.resize(256);
    std::size_t count = 0;
    ds4_status status = call(buffer.data(), buffer.size(), &count);
    if (status == DS4_TOO_SMALL) {
      buffer.resize(count);
      status = call(buffer.data(), buffer.size(), &count);
    }
    check(status);
    buffer.resize(count);
    return buffer;
  }

  struct Close {
    void operator()(ds4_client* client) const noexcept { ds4_close(client); }
  };
  std::unique_ptr<ds4_client, Close> client_;
};

}  // namespace ds4::client
