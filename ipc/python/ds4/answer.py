"""An answer: a request in flight, and what it has brought so far."""

from __future__ import annotations

import builtins
import time
from collections import deque
from ctypes import byref, c_size_t, c_void_p, string_at
from typing import Any, AsyncIterator, Callable, Generator, Iterator

from . import _library as c
from ._connection import Connection, check
from ._library import lib
from ._pending import Final, Pending
from .errors import TimeoutError


class Token(str):
    """The text that became complete with one generated token, and that token's facts.

    A plain string everywhere. It is empty while the answer is inside a UTF-8 character that takes
    several tokens. If an answer ends inside one, a last piece stands for the rest, with ``id`` -1.
    """

    __slots__ = ("id", "position", "logprob")

    #: In the model's vocabulary.
    id: int
    #: In the session: the first token of a new session's prompt has 0.
    position: int
    #: Natural logarithm of its probability; 0.0 unless ``logprobs=True`` was asked for.
    logprob: float

    def __new__(cls, text: str, id: int, position: int, logprob: float) -> Token:
        self = super().__new__(cls, text)
        self.id, self.position, self.logprob = id, position, logprob
        return self


class Answer(Pending):
    """Iterate over it, with ``for`` or ``async for``, to get its ``Token``s as they come.

    Leaving the loop early, in whatever way, cancels the request; so does the end of a ``with``
    block, and dropping the answer. An answer that fails raises its error once the tokens before it
    are taken. Tokens that nobody takes wait here.
    """

    def __init__(
        self,
        connection: Connection,
        request: c.RawRequest,
        timeout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
        keeper: object | None = None,
    ) -> None:
        super().__init__(connection, keeper)
        self._timeout = timeout
        self._progress = progress
        self._progress_news: tuple[int, int] | None = None
        self._tokens: deque[tuple[int, int, float]] = deque()
        self._last_position = -1
        self._pieces: list[str] = []
        self._decoder = _Decoder(connection)
        self._submit(lib.ds4_submit, byref(request))

    # -- Taking it --------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Token]:
        return _Loop(self)

    def __aiter__(self) -> AsyncIterator[Token]:
        return _Loop(self)

    def read(self) -> str:
        """Waits for the end. The whole text, including what was taken before."""
        for _ in self:
            pass
        return self.text

    def __await__(self) -> Generator[Any, None, str]:
        """``text = await answer``: as ``read()``, in an event loop."""
        return self._read_async().__await__()

    async def _read_async(self) -> str:
        async for _ in self:
            pass
        return self.text

    @property
    def text(self) -> str:
        """What has been taken so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def final(self) -> Final | None:
        """How it ended; None before the end has arrived."""
        return self._final

    # -- Ending it --------------------------------------------------------------------------------

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    # -- From the connection ----------------------------------------------------------------------

    def _on_event(self, event: c.Event) -> None:
        if event.kind == c.EVENT_TOKEN and event.position > self._last_position:
            self._tokens.append((event.token, event.position, event.logprob))
            self._last_position = event.position
        elif event.kind == c.EVENT_PROGRESS:
            self._progress_news = (event.done, event.total)
        super()._on_event(event)

    def _has_news(self) -> bool:
        """Something to return from a loop. Tells about progress on the way."""
        if self._progress_news is not None and self._progress is not None:
            news, self._progress_news = self._progress_news, None
            self._progress(*news)
        return bool(self._tokens) or self._final is not None

    def _wait(self) -> None:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._has_news():
            left_ms = None
            if deadline is not None:
                left_ms = max(0, round((deadline - time.monotonic()) * 1000))
            if not self._connection.take(left_ms) and left_ms == 0:
                raise self._too_late()

    async def _wait_async(self) -> None:
        while not self._has_news():
            try:
                await self._connection.wait(self, self._timeout)
            except builtins.TimeoutError as why:
                raise self._too_late() from why

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"no token came within {self._timeout} s")

    def _next(self) -> Token | None:
        """Of what is here. None: that was the end."""
        if self._tokens:
            token, position, logprob = self._tokens.popleft()
            piece = Token(self._decoder.push(token), token, position, logprob)
            self._pieces.append(piece)
            return piece
        rest = self._decoder.finish()
        if rest:
            self._pieces.append(rest)
            return Token(rest, -1, self._last_position, 0.0)
        self._raise_error()
        return None


class _Loop:
    """One pass over an answer. It belongs to the ``for`` alone, so its end is the loop's end."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __iter__(self) -> _Loop:
        return self

    def __aiter__(self) -> _Loop:
        return self

    def __next__(self) -> Token:
        try:
            self._answer._wait()
            token = self._answer._next()
        except BaseException:
            self._answer.cancel()  # not left to __del__: the traceback keeps this object
            raise
        if token is None:
            raise StopIteration
        return token

    async def __anext__(self) -> Token:
        try:
            await self._answer._wait_async()
            token = self._answer._next()
        except BaseException:
            self._answer.cancel()
            raise
        if token is None:
            raise StopAsyncIteration
        return token

    def __del__(self) -> None:
        self._answer.cancel()


class _Decoder:
    """A ds4_decoder."""

    def __init__(self, connection: Connection) -> None:
        self._handle = c_void_p()
        self._text, self._bytes = c_void_p(), c_size_t()
        with connection as handle:
            check(lib.ds4_decoder_new(handle, byref(self._handle)))

    def push(self, token: int) -> str:
        check(lib.ds4_decoder_push(self._handle, token, byref(self._text), byref(self._bytes)))
        return self._take()

    def finish(self) -> str:
        check(lib.ds4_decoder_finish(self._handle, byref(self._text), byref(self._bytes)))
        return self._take()

    def _take(self) -> str:
        if not self._bytes:
            return ""
        return string_at(self._text.value or 0, self._bytes.value).decode(errors="replace")

    def __del__(self) -> None:
        lib.ds4_decoder_free(self._handle)
