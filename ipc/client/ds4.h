/* libds4client: talk to the ds4d agent of this machine over shared memory.
 *
 * A connection is a private region of memory that the program and the agent share: requests go in
 * as tokens, answers come out as a stream of events, and the kernel is only asked to wake who
 * sleeps. The library also turns text into tokens and back, with the tables of the model that the
 * agent serves.
 *
 *     ds4_client* client = NULL;
 *     if (ds4_connect(NULL, NULL, &client) != DS4_OK) { puts(ds4_last_error()); return 1; }
 *     ds4_request request = DS4_REQUEST_INIT;
 *     request.prompt = tokens; request.prompt_tokens = n; request.flags = DS4_STOP_AT_EOS;
 *     uint64_t id = 0;
 *     ds4_submit(client, &request, &id);
 *     ds4_event event;
 *     while (ds4_next(client, &event, -1) == DS4_OK && event.kind != DS4_EVENT_FINAL) { ... }
 *     ds4_close(client);
 *
 * Threads: one connection is used by one thread at a time; different connections are independent.
 * Nothing here blocks except ds4_connect and ds4_next (up to their timeouts) and, while the agent
 * is away, the calls that ask something of it (up to reconnect_ms).
 *
 * Restarts: a connection outlives its agent. When the agent goes away, every request in flight ends
 * with DS4_AGENT_SHUTDOWN, which is retryable, unless it was submitted with DS4_RESUME: then the
 * library waits for the agent and has the answer continued at the very next token. Kept sessions
 * stay valid either way: the agent's copy is gone, but the library remembers a session's tokens and
 * shows them to the new agent when the session is continued. Sampling depends on the seed and the
 * position alone, so an answer that was interrupted goes on exactly as it would have: no token is
 * ever delivered twice or left out. An agent that comes back with another model ends all that with
 * DS4_MODEL_CHANGED.
 * Errors: a call that fails returns a status and leaves a sentence for ds4_last_error(). No call
 * ever ends the process, raises SIGPIPE or throws. After fork() the child may only ds4_close() a
 * connection that it inherited; every other call on it fails with DS4_INVALID. Strings are UTF-8.
 * The ABI only grows: structs that callers fill begin with their own size. */
#ifndef DS4_H
#define DS4_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DS4_API __attribute__((visibility("default")))
#else
#define DS4_API
#endif

/* Grows with every addition; ds4_api_version() is the library's at run time. */
#define DS4_API_VERSION 2

typedef int32_t ds4_token;
typedef struct ds4_client ds4_client;   /* a connection */
typedef struct ds4_decoder ds4_decoder; /* tokens to text, piece by piece */

/* ---- Statuses ------------------------------------------------------------------------------- */

/* How a call or a request ended. Below 256 as on the wire (PROTOCOL.md); above, the library's own.
 */
typedef int32_t ds4_status;
enum {
  DS4_OK = 0,
  DS4_OK_STOP = 0,    /* the answer ended at a stop token */
  DS4_OK_LENGTH = 1,  /* at max_tokens, or at the end of the context */
  DS4_OK_CLOSED = 2,  /* the session is closed */
  DS4_OK_FORKED = 3,  /* the session is copied; the final names the copy */
  DS4_CANCELLED = 16, /* by ds4_cancel */
  /* Errors. "Retryable": the same request may succeed later, unchanged. */
  DS4_INVALID = 32,         /* an argument breaks its bounds */
  DS4_OUT_OF_RANGE = 33,    /* a token outside the vocabulary, a prompt beyond the context */
  DS4_BUSY = 34,            /* a limit on requests, sessions, clients or memory; retryable */
  DS4_ROUTE_NOT_READY = 35, /* no model is being served now; retryable */
  DS4_PEER_LOST = 36,       /* another node of the route went away; retryable */
  DS4_AGENT_SHUTDOWN = 37,  /* the agent is stopping or gone; retryable */
  DS4_INTERNAL = 38,        /* the agent failed; its log says more */
  DS4_UNKNOWN_SESSION = 39, /* no such session on this connection */
  DS4_REFUSED = 40,         /* this user or program may not connect */
  DS4_VERSION = 41,         /* library and agent share no protocol version */
  /* Of the library alone. */
  DS4_TIMEOUT = 256,     /* nothing happened within the given time; not a failure */
  DS4_INTERRUPTED = 257, /* a signal handler ran while waiting; not a failure */
  DS4_TOO_SMALL = 258,   /* the buffer is too small; the needed size has been stored */
  DS4_NO_AGENT = 259,    /* nobody answers at the socket; retryable */
  DS4_NO_MEMORY = 260,
  DS4_NO_TEXT = 261, /* the agent sent no tokenizer tables (no model is assigned yet) */
  /* The agent came back with another model: sessions and requests of the one before are over.
   * Requests in flight end with it; afterwards the connection is as new. */
  DS4_MODEL_CHANGED = 262
};

/* Stable lower-case name ("route_not_ready"); "unknown" for other numbers. Never NULL, static. */
DS4_API const char* ds4_status_name(ds4_status status);
/* One fixed sentence for each status. Never NULL, static. */
DS4_API const char* ds4_status_text(ds4_status status);
DS4_API int ds4_is_error(ds4_status status);
DS4_API int ds4_is_retryable(ds4_status status);

/* What went wrong in this thread's last failed call, as a sentence. Valid until its next call. */
DS4_API const char* ds4_last_error(void);
DS4_API uint32_t ds4_api_version(void);

/* ---- Connection ----------------------------------------------------------------------------- */

typedef struct ds4_connect_options {
  uint32_t struct_bytes; /* sizeof(ds4_connect_options) */
  uint32_t timeout_ms;   /* for the agent's answer; 0: 10 seconds */
  const char* name;      /* of the program, for the agent's log; NULL: its executable's name */
  /* Wishes, rounded and bounded by the agent; 0: its choice. */
  uint32_t submission_entries;
  uint32_t completion_entries;
  uint32_t arena_tokens;
  /* How long ds4_next looks at the ring before it sleeps. 0: up to 50 microseconds, and only while
   * that has lately been enough; DS4_NEVER: it sleeps at once; else this long, within its timeout.
   */
  uint32_t spin_us;
  /* Since API version 2. How long the library looks for an agent that went away: one call, and a
   * request that is to be resumed, for all its interruptions together without a token in between.
   * 0: 30 seconds; DS4_NEVER: it does not, and a lost connection stays lost. */
  uint32_t reconnect_ms;
} ds4_connect_options;

#define DS4_NEVER UINT32_MAX

#define DS4_CONNECT_OPTIONS_INIT \
  { sizeof(ds4_connect_options), 0, NULL, 0, 0, 0, 0, 0 }

/* socket_path NULL: the environment's DS4_SOCKET, else /run/ds4d/client.sock. options NULL:
 * defaults. Errors: DS4_NO_AGENT, DS4_REFUSED, DS4_BUSY, DS4_VERSION, DS4_INTERNAL (garbled
 * answer). */
DS4_API ds4_status ds4_connect(const char* socket_path, const ds4_connect_options* options,
                               ds4_client** out);
/* Ends all of its requests and forgets its sessions. NULL is harmless. Decoders stay usable. */
DS4_API void ds4_close(ds4_client* client);

enum {                     /* ds4_info.route_state */
       DS4_ROUTE_IDLE = 0, /* no layers assigned */
       DS4_ROUTE_LOADING = 1,
       DS4_ROUTE_READY = 2,
       DS4_ROUTE_DEGRADED = 3, /* a node does not answer */
       DS4_ROUTE_STOPPING = 4
};

typedef struct ds4_info {
  uint32_t struct_bytes; /* sizeof(ds4_info), set by the caller */
  uint32_t route_state;  /* DS4_ROUTE_*, as of now */
  uint32_t vocabulary;   /* tokens are 0 to vocabulary - 1 */
  uint32_t context;      /* positions that one session may hold */
  uint32_t max_requests; /* in flight at once on this connection */
  uint32_t max_stop_tokens;
  uint32_t requests; /* in flight now */
  uint32_t has_text; /* 1: tokenize, detokenize and chat work */
  ds4_token bos;     /* -1: none */
  ds4_token eos;
  uint16_t protocol_major;
  uint16_t protocol_minor;
  char model[128];
  /* Since API version 2. */
  uint64_t fingerprint; /* of the model file; 0: none, or an agent of protocol 1.0 */
  uint32_t connected;   /* 1: an agent is at the other end, as far as is known */
  uint32_t reconnects;  /* agents found again since ds4_connect */
} ds4_info;

#define DS4_INFO_INIT \
  { sizeof(ds4_info), 0, 0, 0, 0, 0, 0, 0, -1, -1, 0, 0, {0}, 0, 0, 0 }

/* Works, with what is known, even when the agent is gone. */
DS4_API ds4_status ds4_get_info(const ds4_client* client, ds4_info* info);
DS4_API const char* ds4_route_state_name(uint32_t route_state);

/* ---- Text ----------------------------------------------------------------------------------- */
/* The calls that fill a buffer store in *count how many they have, even when the buffer (of
 * `capacity` tokens or bytes, NULL if 0) is too small for them: then the result is DS4_TOO_SMALL
 * and the buffer's content unspecified. Text is not NUL-terminated. */

enum { /* flags */
       DS4_CONTROL =
           1 << 0, /* texts of control tokens count as those tokens (and are shown as text) */
       DS4_THINK = 1 << 1 /* ds4_chat: let the model think before it answers */
};

/* Without DS4_CONTROL nothing in the text can become a control token: right for user input. */
DS4_API ds4_status ds4_tokenize(const ds4_client* client, const char* text, size_t text_bytes,
                                uint32_t flags, ds4_token* tokens, size_t capacity, size_t* count);
DS4_API ds4_status ds4_detokenize(const ds4_client* client, const ds4_token* tokens,
                                  size_t token_count, uint32_t flags, char* text, size_t capacity,
                                  size_t* count);

enum { DS4_SYSTEM = 0, DS4_USER = 1, DS4_ASSISTANT = 2 };

typedef struct ds4_message {
  uint32_t role; /* DS4_SYSTEM, DS4_USER, DS4_ASSISTANT */
  const char* text;
  size_t text_bytes;
} ds4_message;

/* The tokens of a conversation in the model's chat format, ending where the assistant is to speak.
 */
DS4_API ds4_status ds4_chat(const ds4_client* client, const ds4_message* messages,
                            size_t message_count, uint32_t flags, ds4_token* tokens,
                            size_t capacity, size_t* count);

/* A decoder turns a stream of tokens into text that never ends inside a UTF-8 character. Control
 * tokens yield no text. One thread at a time; independent of the connection once made. */
DS4_API ds4_status ds4_decoder_new(const ds4_client* client, ds4_decoder** out);
/* *text (valid until the decoder's next call) is what has become complete, perhaps 0 bytes. */
DS4_API ds4_status ds4_decoder_push(ds4_decoder* decoder, ds4_token token, const char** text,
                                    size_t* text_bytes);
/* What is left at the end of the stream; the decoder may then be used for another stream. */
DS4_API ds4_status ds4_decoder_finish(ds4_decoder* decoder, const char** text, size_t* text_bytes);
DS4_API void ds4_decoder_free(ds4_decoder* decoder);

/* ---- Requests ------------------------------------------------------------------------------- */

enum {                            /* ds4_request.flags */
       DS4_LOGPROBS = 1 << 0,     /* token events carry log-probabilities */
       DS4_KEEP_SESSION = 1 << 1, /* the final names a session that later requests may continue */
       DS4_PROGRESS = 1 << 2,     /* progress events while the prompt is read */
       DS4_STOP_AT_EOS = 1 << 16, /* adds the model's end-of-sentence token to the stop tokens */
       DS4_RESUME = 1 << 17       /* goes on by itself when the agent or another node of the route
                                   * went away and is back within reconnect_ms */
};

typedef struct ds4_request {
  uint32_t struct_bytes;   /* sizeof(ds4_request) */
  uint32_t flags;          /* DS4_* above */
  uint64_t session;        /* 0: a new one; else one that a final of this connection named */
  const ds4_token* prompt; /* copied; of a continued session only what is new (may be empty) */
  size_t prompt_tokens;
  const ds4_token* stop; /* generating one of them ends the answer; copied */
  size_t stop_tokens;
  uint32_t max_tokens; /* 0: as many as the context holds */
  float temperature;   /* 0: always the likeliest token; at most 100 */
  float top_p;         /* (0, 1]; 1: off */
  float min_p;         /* [0, 1), relative to the likeliest token; 0: off */
  uint32_t top_k;      /* 0: off */
  uint32_t reserved;   /* 0 */
  uint64_t seed;
} ds4_request;

#define DS4_REQUEST_INIT \
  { sizeof(ds4_request), 0, 0, NULL, 0, NULL, 0, 0, 0.0f, 1.0f, 0.0f, 0, 0, 0 }

/* Never blocks, unless the agent is away: then it is looked for (reconnect_ms). Ends, whatever
 * happens, with exactly one final event for *request_id. Errors (then there is no such request):
 * DS4_INVALID, DS4_OUT_OF_RANGE, DS4_BUSY (max_requests are in flight), DS4_UNKNOWN_SESSION,
 * DS4_AGENT_SHUTDOWN or DS4_NO_AGENT (gone, and not back in time), DS4_MODEL_CHANGED,
 * DS4_INTERRUPTED (a signal handler ran during the search; ask again to go on with it). */
DS4_API ds4_status ds4_submit(ds4_client* client, const ds4_request* request, uint64_t* request_id);
/* The request ends soon, with DS4_CANCELLED unless it has ended otherwise. With DS4_KEEP_SESSION its
 * session holds what was delivered, or is as it was if the agent had not read all of the request.
 * Unknown ids are harmless. */
DS4_API ds4_status ds4_cancel(ds4_client* client, uint64_t request_id);
/* Forgets a kept session. A request like any other: its final has DS4_OK_CLOSED. request_id may be
 * NULL, and then no event is delivered. */
DS4_API ds4_status ds4_close_session(ds4_client* client, uint64_t session, uint64_t* request_id);
/* Makes a second session that has read and said the same as this one: both then go on apart, and
 * the prompt they share is computed once. A request like any other: its final has DS4_OK_FORKED and
 * the new session. DS4_BUSY in the final: the session is answering, or the agent has no room. */
DS4_API ds4_status ds4_fork_session(ds4_client* client, uint64_t session, uint64_t* request_id);

/* ---- Events --------------------------------------------------------------------------------- */

enum { /* ds4_event.kind */
       DS4_EVENT_TOKEN = 1,
       DS4_EVENT_PROGRESS = 2,
       DS4_EVENT_FINAL = 4
};

typedef struct ds4_event {
  uint64_t request;
  uint32_t kind;
  /* DS4_EVENT_TOKEN */
  ds4_token token;
  uint32_t position; /* in the session: the first prompt token of a new session has 0 */
  float logprob;     /* natural logarithm; 0 without DS4_LOGPROBS */
  /* DS4_EVENT_PROGRESS: prompt tokens through the model */
  uint32_t done;
  uint32_t total;
  /* DS4_EVENT_FINAL */
  ds4_status status;
  ds4_token stop_token; /* the one that ended the answer (itself not delivered); -1: none */
  uint32_t prompt_tokens;
  uint32_t generated_tokens;
  uint64_t session; /* the session, if it lives on; else 0 */
  const char*
      sentence; /* never NULL; says why, for errors; valid until the next call on the client */
  uint64_t reserved[4];
} ds4_event;

/* The next event of any request, in order. timeout_ms 0 looks only (but may take up to 100 ms to
 * shake hands with an agent that came back), -1 waits for ever. DS4_OK: *event is filled.
 * DS4_TIMEOUT, DS4_INTERRUPTED: it is not. When the agent goes away, every request in flight still
 * gets its final (DS4_AGENT_SHUTDOWN, or what the agent's farewell said), unless it is resumed; and
 * once those are taken, this returns that error at once until another request is submitted. */
DS4_API ds4_status ds4_next(ds4_client* client, ds4_event* event, int timeout_ms);

/* For epoll, poll, asyncio: readable when ds4_next has something, provided that ds4_next(…, 0) has
 * returned DS4_TIMEOUT and no other call on this client was made since. Stays the same over
 * reconnects. Owned by the client: neither read nor close it. -1: no descriptors are left, or
 * this is a forked child. */
DS4_API int ds4_event_fd(const ds4_client* client);

#ifdef __cplusplus
}
#endif

#endif /* DS4_H */
