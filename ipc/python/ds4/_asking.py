"""What a client and a session have in common: prompts of every kind, and ``generate()``."""

from __future__ import annotations

from array import array
from ctypes import POINTER, byref, c_char, c_int32, c_size_t, cast, sizeof
from typing import Any, Callable, Iterable, NamedTuple, Sequence, Tuple, Union

from . import _library as c
from ._connection import Connection, check
from ._library import lib
from .answer import Answer
from .errors import InvalidError, OutOfRangeError


class Message(NamedTuple):
    """Of a conversation. A plain tuple of two strings does as well."""

    #: ``"system"``, ``"user"`` or ``"assistant"``.
    role: str
    text: str


#: A string is what a user says, in the model's chat format. Messages are a conversation. Token ids
#: go to the model as they are.
Prompt = Union[str, Sequence[int], Sequence[Tuple[str, str]]]

_ROLES = {"system": 0, "user": 1, "assistant": 2}
_GUESS = 256  # tokens or bytes; a call that needs more says how many


class Asks:
    """Something that has a connection and can be asked."""

    _connection: Connection

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Iterable[int] = (),
        stop_at_eos: bool = True,
        logprobs: bool = False,
        resume: bool = False,
        think: bool = False,
        timeout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Answer:
        """Asks, and returns at once with the answer to iterate over; only while the agent is away,
        it is looked for first (``connect(reconnect=...)``).

        ``temperature`` 0 always takes the likeliest token; above it, ``seed`` decides. ``stop`` are
        token ids. ``timeout`` bounds, in seconds, the wait for each token. ``progress`` is called
        with (tokens read, tokens of the prompt) while the loop over the answer waits. With
        ``resume`` the answer waits for a model that is not ready, and goes on at the very next
        token when the agent was restarted meanwhile; without, both are errors. ``think`` lets the
        model think first, where this call renders the chat.
        """
        request = c.RawRequest(struct_bytes=sizeof(c.RawRequest))
        tokens = _token_array("prompt", self._tokens_of(prompt, think))
        stops = _token_array("stop", stop)
        request.prompt, request.prompt_tokens = cast(tokens, POINTER(c_int32)), len(tokens)
        request.stop, request.stop_tokens = cast(stops, POINTER(c_int32)), len(stops)
        request.max_tokens = whole("max_tokens", max_tokens or 0, 32)
        request.temperature, request.top_p, request.min_p = temperature, top_p, min_p
        request.top_k = whole("top_k", top_k, 32)
        request.seed = whole("seed", seed, 64)
        request.flags = (
            (c.STOP_AT_EOS if stop_at_eos else 0)
            | (c.LOGPROBS if logprobs else 0)
            | (c.RESUME if resume else 0)
            | (c.PROGRESS if progress is not None else 0)
        )
        return self._begin(request, timeout, progress)

    def _begin(
        self,
        request: c.RawRequest,
        timeout: float | None,
        progress: Callable[[int, int], None] | None,
    ) -> Answer:
        return Answer(self._connection, request, timeout, progress)

    def _tokens_of(self, prompt: Prompt, think: bool) -> Sequence[int]:
        if isinstance(prompt, str):
            return render_chat(self._connection, [("user", prompt)], think)
        if len(prompt) > 0 and isinstance(prompt[0], tuple):
            return render_chat(self._connection, prompt, think)  # type: ignore[arg-type]
        return prompt  # type: ignore[return-value]


def render_chat(
    connection: Connection, messages: Iterable[Tuple[str, str]], think: bool
) -> list[int]:
    texts = [(role, text.encode()) for role, text in messages]
    for role, _ in texts:
        if role not in _ROLES:
            raise InvalidError(f'no role "{role}"; there are "system", "user" and "assistant"')
    raw = (c.RawMessage * len(texts))()
    for message, (role, text) in zip(raw, texts):
        message.role, message.text, message.text_bytes = _ROLES[role], text, len(text)
    flags = c.THINK if think else 0
    with connection as client:
        out = _fill(c_int32, lambda *out: lib.ds4_chat(client, raw, len(raw), flags, *out))
    return list(out)


def tokenize(connection: Connection, text: str, control: bool) -> list[int]:
    raw = text.encode()
    flags = c.CONTROL if control else 0
    with connection as client:
        out = _fill(c_int32, lambda *out: lib.ds4_tokenize(client, raw, len(raw), flags, *out))
    return list(out)


def detokenize(connection: Connection, tokens: Iterable[int], control: bool) -> str:
    raw = _token_array("tokens", tokens)
    flags = c.CONTROL if control else 0
    with connection as client:
        out = _fill(c_char, lambda *out: lib.ds4_detokenize(client, raw, len(raw), flags, *out))
    return bytes(out).decode(errors="replace")


def raw_info(connection: Connection) -> c.RawInfo:
    raw = c.RawInfo(struct_bytes=sizeof(c.RawInfo))
    with connection as client:
        check(lib.ds4_get_info(client, byref(raw)))
    return raw


def _fill(kind: Any, call: Callable[..., int]) -> Any:
    """A ctypes array of just the right size with what ``call(buffer, capacity, count)`` stores."""
    count = c_size_t(_GUESS)
    while True:
        buffer = (kind * count.value)()
        status = call(buffer, count.value, byref(count))
        if status != c.TOO_SMALL:
            check(status)
            return buffer[: count.value]


def _token_array(name: str, tokens: Iterable[int]) -> Any:
    try:
        compact = array("i", tokens)
    except OverflowError as why:
        raise OutOfRangeError(f"{name}: a token id does not fit into 32 bits") from why
    return (c_int32 * len(compact)).from_buffer(compact)


def whole(name: str, value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise InvalidError(f"{name} is {value}, but must be from 0 to {(1 << bits) - 1}")
    return value
