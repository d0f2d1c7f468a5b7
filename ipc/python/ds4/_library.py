"""libds4client, loaded: the structs and calls of ``ds4.h`` that this module uses."""

from __future__ import annotations

import ctypes
import os
from ctypes import CDLL, POINTER, c_char, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint16
from ctypes import c_uint32, c_uint64, c_void_p

SONAME = "libds4client.so.1"
API_VERSION = 2  # the least that has all of the calls below


class ConnectOptions(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("timeout_ms", c_uint32),
        ("name", c_char_p),
        ("submission_entries", c_uint32),
        ("completion_entries", c_uint32),
        ("arena_tokens", c_uint32),
        ("spin_us", c_uint32),
        ("reconnect_ms", c_uint32),
    ]


class RawInfo(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("route_state", c_uint32),
        ("vocabulary", c_uint32),
        ("context", c_uint32),
        ("max_requests", c_uint32),
        ("max_stop_tokens", c_uint32),
        ("requests", c_uint32),
        ("has_text", c_uint32),
        ("bos", c_int32),
        ("eos", c_int32),
        ("protocol_major", c_uint16),
        ("protocol_minor", c_uint16),
        ("model", c_char * 128),
        ("fingerprint", c_uint64),
        ("connected", c_uint32),
        ("reconnects", c_uint32),
    ]


class RawMessage(ctypes.Structure):
    _fields_ = [("role", c_uint32), ("text", c_char_p), ("text_bytes", c_size_t)]


class RawRequest(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("flags", c_uint32),
        ("session", c_uint64),
        ("prompt", POINTER(c_int32)),
        ("prompt_tokens", c_size_t),
        ("stop", POINTER(c_int32)),
        ("stop_tokens", c_size_t),
        ("max_tokens", c_uint32),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("top_k", c_uint32),
        ("reserved", c_uint32),
        ("seed", c_uint64),
    ]


class Event(ctypes.Structure):
    _fields_ = [
        ("request", c_uint64),
        ("kind", c_uint32),
        ("token", c_int32),
        ("position", c_uint32),
        ("logprob", c_float),
        ("done", c_uint32),
        ("total", c_uint32),
        ("status", c_int32),
        ("stop_token", c_int32),
        ("prompt_tokens", c_uint32),
        ("generated_tokens", c_uint32),
        ("session", c_uint64),
        ("sentence", c_char_p),
        ("reserved", c_uint64 * 4),
    ]


# Flags, kinds and statuses, as in ds4.h.
NEVER = (1 << 32) - 1
CONTROL, THINK = 1 << 0, 1 << 1
LOGPROBS, KEEP_SESSION, PROGRESS, STOP_AT_EOS, RESUME = 1 << 0, 1 << 1, 1 << 2, 1 << 16, 1 << 17
EVENT_TOKEN, EVENT_PROGRESS, EVENT_FINAL = 1, 2, 4
OK, CANCELLED, BUSY, TIMEOUT, INTERRUPTED, TOO_SMALL = 0, 16, 34, 256, 257, 258

_size_out = POINTER(c_size_t)
_text_out = POINTER(c_void_p)  # not c_char_p: the text is counted, not NUL-terminated
_PROTOTYPES: dict[str, tuple[object, list[object]]] = {
    "ds4_status_name": (c_char_p, [c_int32]),
    "ds4_is_error": (c_int, [c_int32]),
    "ds4_is_retryable": (c_int, [c_int32]),
    "ds4_last_error": (c_char_p, []),
    "ds4_api_version": (c_uint32, []),
    "ds4_connect": (c_int32, [c_char_p, POINTER(ConnectOptions), POINTER(c_void_p)]),
    "ds4_close": (None, [c_void_p]),
    "ds4_get_info": (c_int32, [c_void_p, POINTER(RawInfo)]),
    "ds4_route_state_name": (c_char_p, [c_uint32]),
    "ds4_tokenize": (
        c_int32,
        [c_void_p, c_char_p, c_size_t, c_uint32, POINTER(c_int32), c_size_t, _size_out],
    ),
    "ds4_detokenize": (
        c_int32,
        [c_void_p, POINTER(c_int32), c_size_t, c_uint32, POINTER(c_char), c_size_t, _size_out],
    ),
    "ds4_chat": (
        c_int32,
        [c_void_p, POINTER(RawMessage), c_size_t, c_uint32, POINTER(c_int32), c_size_t, _size_out],
    ),
    "ds4_decoder_new": (c_int32, [c_void_p, POINTER(c_void_p)]),
    "ds4_decoder_push": (c_int32, [c_void_p, c_int32, _text_out, _size_out]),
    "ds4_decoder_finish": (c_int32, [c_void_p, _text_out, _size_out]),
    "ds4_decoder_free": (None, [c_void_p]),
    "ds4_submit": (c_int32, [c_void_p, POINTER(RawRequest), POINTER(c_uint64)]),
    "ds4_cancel": (c_int32, [c_void_p, c_uint64]),
    "ds4_close_session": (c_int32, [c_void_p, c_uint64, POINTER(c_uint64)]),
    "ds4_fork_session": (c_int32, [c_void_p, c_uint64, POINTER(c_uint64)]),
    "ds4_next": (c_int32, [c_void_p, POINTER(Event), c_int]),
    "ds4_event_fd": (c_int, [c_void_p]),
}


def _load() -> CDLL:
    path = os.environ.get("DS4_CLIENT_LIBRARY") or SONAME
    try:
        library = CDLL(path)
        for name, (result, arguments) in _PROTOTYPES.items():
            call = getattr(library, name)
            call.restype, call.argtypes = result, arguments
    except (OSError, AttributeError) as why:
        raise ImportError(
            f"the module ds4 needs libds4client: {why}; install it, or set DS4_CLIENT_LIBRARY "
            "to its path"
        ) from why
    version = library.ds4_api_version()
    if version < API_VERSION:
        raise ImportError(f"{path} has API version {version}; the module ds4 needs {API_VERSION}")
    return library


lib = _load()
