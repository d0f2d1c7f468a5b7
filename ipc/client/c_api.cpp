// The C ABI: checks arguments, calls Caller and Text, and lets no exception out.
#include <fmt/format.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "engine/text/chat.h"
#include "ipc/client/caller.h"
#include "ipc/client/ds4.h"
#include "ipc/client/fork_guard.h"
#include "ipc/client/text.h"
#include "ipc/packet.h"

namespace ipc = ds4::ipc;

struct ds4_client {
  ds4_client(ipc::CallerOptions options, ipc::Dialed dialed)
      : caller(std::move(options), std::move(dialed)) {}

  mutable ipc::Caller caller;  // its texts load on first use
  std::uint64_t generation = ipc::process_generation();
};

struct ds4_decoder {
  explicit ds4_decoder(std::shared_ptr<const ds4::Tokenizer> tables)
      : tokenizer(std::move(tables)), detokenizer(*tokenizer) {}

  std::shared_ptr<const ds4::Tokenizer> tokenizer;
  ds4::Detokenizer detokenizer;
  std::string text;  // what the last call handed out
};

namespace {

thread_local std::string last_error;

ds4_status fail(ds4_status status, std::string sentence) {
  last_error = sentence.empty() ? ds4_status_text(status) : std::move(sentence);
  return status;
}

ds4_status fail(const ipc::Failure& failure) {
  return fail(failure.status, failure.sentence);
}

/// Runs a call's body; what it throws becomes a status.
template <typename Body>
ds4_status guarded(Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    last_error.assign("out of memory");  // fits into the string itself
    return DS4_NO_MEMORY;
  } catch (const std::exception& e) {
    try {
      return fail(DS4_INTERNAL, std::string("the library failed: ") + e.what());
    } catch (...) {
      return DS4_INTERNAL;
    }
  } catch (...) {
    return DS4_INTERNAL;
  }
}

template <typename Body>
ds4_status guarded(const ds4_client* client, Body body) noexcept {
  return guarded([&]() -> ds4_status {
    if (client == nullptr) return fail(DS4_INVALID, "the client is NULL");
    if (client->generation != ipc::process_generation())
      return fail(DS4_INVALID,
                  "this connection was made before a fork; connect again in the child");
    return body();
  });
}

/// The part of a caller's struct that both sides know; the rest keeps its defaults. Nothing if the
/// caller's size is no size that any version had; `least` is the struct's size in API version 1.
template <typename Struct>
bool copy_in(Struct& to, const Struct* from, std::size_t least) {
  std::uint32_t bytes = 0;
  std::memcpy(&bytes, from, sizeof(bytes));
  if (bytes < least || bytes > 4096) return false;
  std::memcpy(&to, from, std::min<std::size_t>(bytes, sizeof(Struct)));
  return true;
}

// The structs of API version 1 ended here.
constexpr std::size_t kOptionsBytes = offsetof(ds4_connect_options, reconnect_ms);
constexpr std::size_t kInfoBytes = offsetof(ds4_info, model) + sizeof(ds4_info::model);
constexpr std::size_t kRequestBytes = offsetof(ds4_request, seed) + sizeof(ds4_request::seed);

template <typename T>
ds4_status hand_out(const T* data, std::size_t size, T* out, std::size_t capacity,
                    std::size_t* count) {
  *count = size;
  if (size > capacity)
    return fail(DS4_TOO_SMALL,
                fmt::format("the buffer holds {}, but {} are needed", capacity, size));
  if (size > 0) std::memcpy(out, data, size * sizeof(T));
  return DS4_OK;
}

bool is_buffer(const void* data, std::size_t size) {
  return data != nullptr || size == 0;
}

ds4_status null_argument() {
  return fail(DS4_INVALID, "an argument is NULL that must not be");
}

ipc::DialOptions dial_options(const char* socket_path, const ds4_connect_options& options) {
  ipc::DialOptions dial;
  dial.socket_path =
      socket_path != nullptr && *socket_path != '\0' ? socket_path : ipc::default_socket_path();
  dial.name = options.name != nullptr ? options.name : program_invocation_short_name;
  dial.submission_entries = options.submission_entries;
  dial.completion_entries = options.completion_entries;
  dial.arena_tokens = options.arena_tokens;
  if (options.timeout_ms > 0) dial.timeout = std::chrono::milliseconds(options.timeout_ms);
  return dial;
}

}  // namespace

extern "C" {

// ---- Statuses -------------------------------------------------------------------------------

const char* ds4_status_name(ds4_status status) {
  switch (status) {
    case DS4_TIMEOUT:
      return "timeout";
    case DS4_INTERRUPTED:
      return "interrupted";
    case DS4_TOO_SMALL:
      return "too_small";
    case DS4_NO_AGENT:
      return "no_agent";
    case DS4_NO_MEMORY:
      return "no_memory";
    case DS4_NO_TEXT:
      return "no_text";
    case DS4_MODEL_CHANGED:
      return "model_changed";
    default:
      break;
  }
  // Literals, so NUL-terminated.
  return status >= 0 && status < 256 ? to_string(static_cast<ipc::Status>(status)).data()
                                     : "unknown";
}

const char* ds4_status_text(ds4_status status) {
  switch (status) {
    case DS4_TIMEOUT:
      return "nothing happened within the given time";
    case DS4_INTERRUPTED:
      return "a signal interrupted the wait";
    case DS4_TOO_SMALL:
      return "the buffer is too small";
    case DS4_NO_AGENT:
      return "no agent answers at the socket";
    case DS4_NO_MEMORY:
      return "out of memory";
    case DS4_NO_TEXT:
      return "the agent has sent no tokenizer tables";
    case DS4_MODEL_CHANGED:
      return "the agent came back with another model";
    default:
      break;
  }
  return status >= 0 && status < 256 ? describe(static_cast<ipc::Status>(status)).data()
                                     : "unknown status";
}

int ds4_is_error(ds4_status status) {
  return status >= DS4_INVALID && status != DS4_TIMEOUT && status != DS4_INTERRUPTED;
}

int ds4_is_retryable(ds4_status status) {
  return status == DS4_NO_AGENT ||
         (status >= 0 && status < 256 && is_retryable(static_cast<ipc::Status>(status)));
}

const char* ds4_last_error(void) {
  return last_error.c_str();
}
uint32_t ds4_api_version(void) {
  return DS4_API_VERSION;
}

// ---- Connection -----------------------------------------------------------------------------

ds4_status ds4_connect(const char* socket_path, const ds4_connect_options* options,
                       ds4_client** out) {
  return guarded([&]() -> ds4_status {
    if (out == nullptr) return null_argument();
    *out = nullptr;
    ds4_connect_options own = DS4_CONNECT_OPTIONS_INIT;
    if (options != nullptr && !copy_in(own, options, kOptionsBytes))
      return fail(DS4_INVALID, "ds4_connect_options.struct_bytes is not set");
    ipc::CallerOptions caller{dial_options(socket_path, own), own.spin_us, own.reconnect_ms};
    auto dialed = ipc::dial(caller.dial);
    if (!dialed) return fail(dialed.error());
    *out = new ds4_client(std::move(caller), std::move(*dialed));
    return DS4_OK;
  });
}

void ds4_close(ds4_client* client) {
  delete client;
}

ds4_status ds4_get_info(const ds4_client* client, ds4_info* info) {
  return guarded(client, [&]() -> ds4_status {
    if (info == nullptr) return null_argument();
    ds4_info known = DS4_INFO_INIT;
    if (!copy_in(known, info, kInfoBytes))
      return fail(DS4_INVALID, "ds4_info.struct_bytes is not set");
    const ipc::Welcome& welcome = client->caller.welcome();
    known = DS4_INFO_INIT;
    known.struct_bytes = info->struct_bytes;
    known.route_state = client->caller.route_state();
    known.vocabulary = welcome.vocabulary;
    known.context = welcome.context;
    known.max_requests = welcome.max_requests;
    known.max_stop_tokens = welcome.max_stop_tokens;
    known.requests = client->caller.requests();
    known.has_text = client->caller.text().available() ? 1 : 0;
    known.bos = client->caller.text().bos();
    known.eos = client->caller.text().eos();
    known.protocol_major = welcome.major;
    known.protocol_minor = welcome.minor;
    known.fingerprint = welcome.fingerprint;
    known.connected = client->caller.is_connected() ? 1 : 0;
    known.reconnects = client->caller.reconnects();
    ipc::put_text(known.model, ipc::text_of(welcome.model));
    std::memcpy(info, &known, std::min<std::size_t>(info->struct_bytes, sizeof(known)));
    return DS4_OK;
  });
}

const char* ds4_route_state_name(uint32_t route_state) {
  return to_string(static_cast<ipc::RouteState>(route_state)).data();
}

// ---- Text -----------------------------------------------------------------------------------

ds4_status ds4_tokenize(const ds4_client* client, const char* text, size_t text_bytes,
                        uint32_t flags, ds4_token* tokens, size_t capacity, size_t* count) {
  return guarded(client, [&]() -> ds4_status {
    if (count == nullptr || !is_buffer(text, text_bytes) || !is_buffer(tokens, capacity))
      return null_argument();
    auto tokenizer = client->caller.text().tokenizer();
    if (!tokenizer) return fail(tokenizer.error());
    const auto out = (*tokenizer)->encode({text, text_bytes}, (flags & DS4_CONTROL) != 0);
    return hand_out(out.data(), out.size(), tokens, capacity, count);
  });
}

ds4_status ds4_detokenize(const ds4_client* client, const ds4_token* tokens, size_t token_count,
                          uint32_t flags, char* text, size_t capacity, size_t* count) {
  return guarded(client, [&]() -> ds4_status {
    if (count == nullptr || !is_buffer(tokens, token_count) || !is_buffer(text, capacity))
      return null_argument();
    auto tokenizer = client->caller.text().tokenizer();
    if (!tokenizer) return fail(tokenizer.error());
    const auto out = (*tokenizer)->decode({tokens, token_count}, (flags & DS4_CONTROL) != 0);
    return hand_out(out.data(), out.size(), text, capacity, count);
  });
}

ds4_status ds4_chat(const ds4_client* client, const ds4_message* messages, size_t message_count,
                    uint32_t flags, ds4_token* tokens, size_t capacity, size_t* count) {
  return guarded(client, [&]() -> ds4_status {
    if (count == nullptr || !is_buffer(messages, message_count) || !is_buffer(tokens, capacity))
      return null_argument();
    auto tokenizer = client->caller.text().tokenizer();
    if (!tokenizer) return fail(tokenizer.error());
    std::vector<ds4::ChatMessage> conversation;
    for (const ds4_message& message : std::span(messages, message_count)) {
      if (message.role > DS4_ASSISTANT)
        return fail(DS4_INVALID, fmt::format("message role {} is unknown", message.role));
      if (!is_buffer(message.text, message.text_bytes)) return null_argument();
      const auto role = static_cast<ds4::Role>(message.role);
      conversation.push_back({role, std::string(message.text, message.text_bytes)});
    }
    const auto out = ds4::render_chat(**tokenizer, conversation, (flags & DS4_THINK) != 0);
    if (!out) return fail(DS4_INVALID, out.error().message);
    return hand_out(out->data(), out->size(), tokens, capacity, count);
  });
}

ds4_status ds4_decoder_new(const ds4_client* client, ds4_decoder** out) {
  return guarded(client, [&]() -> ds4_status {
    if (out == nullptr) return null_argument();
    auto tokenizer = client->caller.text().tokenizer();
    if (!tokenizer) return fail(tokenizer.error());
    *out = new ds4_decoder(std::move(*tokenizer));
    return DS4_OK;
  });
}

ds4_status ds4_decoder_push(ds4_decoder* decoder, ds4_token token, const char** text,
                            size_t* text_bytes) {
  return guarded([&]() -> ds4_status {
    if (decoder == nullptr || text == nullptr || text_bytes == nullptr) return null_argument();
    decoder->text = decoder->detokenizer.push(token);
    *text = decoder->text.data();
    *text_bytes = decoder->text.size();
    return DS4_OK;
  });
}

ds4_status ds4_decoder_finish(ds4_decoder* decoder, const char** text, size_t* text_bytes) {
  return guarded([&]() -> ds4_status {
    if (decoder == nullptr || text == nullptr || text_bytes == nullptr) return null_argument();
    decoder->text = decoder->detokenizer.finish();
    *text = decoder->text.data();
    *text_bytes = decoder->text.size();
    return DS4_OK;
  });
}

void ds4_decoder_free(ds4_decoder* decoder) {
  delete decoder;
}

// ---- Requests and events --------------------------------------------------------------------

ds4_status ds4_submit(ds4_client* client, const ds4_request* request, uint64_t* request_id) {
  return guarded(client, [&]() -> ds4_status {
    if (request == nullptr || request_id == nullptr) return null_argument();
    ds4_request own = DS4_REQUEST_INIT;
    if (!copy_in(own, request, kRequestBytes))
      return fail(DS4_INVALID, "ds4_request.struct_bytes is not set; begin with DS4_REQUEST_INIT");
    if (!is_buffer(own.prompt, own.prompt_tokens) || !is_buffer(own.stop, own.stop_tokens))
      return null_argument();
    if ((own.flags &
         ~(DS4_LOGPROBS | DS4_KEEP_SESSION | DS4_PROGRESS | DS4_STOP_AT_EOS | DS4_RESUME)) != 0 ||
        own.reserved != 0)
      return fail(DS4_INVALID,
                  fmt::format("request flags {:#x} are unknown to this library", own.flags));
    std::vector<ds4_token> stop(own.stop, own.stop + own.stop_tokens);
    if ((own.flags & DS4_STOP_AT_EOS) != 0) {
      if (client->caller.text().eos() < 0)
        return fail(DS4_NO_TEXT, "DS4_STOP_AT_EOS: the model names no end-of-sentence token");
      stop.push_back(client->caller.text().eos());
    }
    ipc::Caller::Generate generate;
    ipc::SubmissionEntry& entry = generate.entry;
    entry.flags = static_cast<std::uint16_t>(own.flags & 0xffff);  // numbers as on the wire
    entry.max_tokens = own.max_tokens;
    entry.session_id = own.session;
    entry.temperature = own.temperature;
    entry.top_p = own.top_p;
    entry.min_p = own.min_p;
    entry.top_k = own.top_k;
    entry.seed = own.seed;
    generate.prompt = {own.prompt, own.prompt_tokens};
    generate.stop = stop;
    generate.resume = (own.flags & DS4_RESUME) != 0;
    const auto id = client->caller.generate(generate);
    if (!id) return fail(id.error());
    *request_id = *id;
    return DS4_OK;
  });
}

ds4_status ds4_cancel(ds4_client* client, uint64_t request_id) {
  return guarded(client, [&]() -> ds4_status {
    const auto done = client->caller.cancel(request_id);
    return done ? DS4_OK : fail(done.error());
  });
}

ds4_status ds4_close_session(ds4_client* client, uint64_t session, uint64_t* request_id) {
  return guarded(client, [&]() -> ds4_status {
    const auto id = client->caller.close_session(session, request_id == nullptr);
    if (!id) return fail(id.error());
    if (request_id != nullptr) *request_id = *id;
    return DS4_OK;
  });
}

ds4_status ds4_fork_session(ds4_client* client, uint64_t session, uint64_t* request_id) {
  return guarded(client, [&]() -> ds4_status {
    if (request_id == nullptr) return null_argument();
    const auto id = client->caller.fork_session(session);
    if (!id) return fail(id.error());
    *request_id = *id;
    return DS4_OK;
  });
}

ds4_status ds4_next(ds4_client* client, ds4_event* event, int timeout_ms) {
  return guarded(client, [&]() -> ds4_status {
    if (event == nullptr) return null_argument();
    ds4_event found;  // the caller's stays as it is when there is nothing for it
    const auto got = client->caller.next(found, timeout_ms);
    if (got) {
      *event = found;
      return DS4_OK;
    }
    // Neither is a failure, and both are frequent: no sentence.
    const ds4_status status = got.error().status;
    return status == DS4_TIMEOUT || status == DS4_INTERRUPTED ? status : fail(got.error());
  });
}

int ds4_event_fd(const ds4_client* client) {
  const bool ours = client != nullptr && client->generation == ipc::process_generation();
  return ours ? client->caller.event_fd() : -1;
}

}  // extern "C"
