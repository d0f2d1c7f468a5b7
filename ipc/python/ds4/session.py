"""A session: a conversation whose keys and values stay on the agents between its answers."""

from __future__ import annotations

from typing import Callable, Sequence

from . import _library as c
from ._asking import Asks, Prompt, raw_info
from ._connection import Connection
from .answer import Answer
from ._library import lib
from ._pending import Pending
from .errors import UnknownSessionError


class Session(Asks):
    """Made by ``Client.session()``. Each ``generate()`` continues where the last answer ended.

    Its answers come one after another: ``generate()``, ``fork()`` and ``close()`` first wait for
    the end of the one before. An answer that fails leaves the session as it was. ``close()`` it,
    use it in a ``with`` block, or drop it, and the agents forget it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = 0  # the agent's name for it; 0: there is nothing in it yet
        self._end = -1  # the token to put in first, because the last answer was cut off
        self._answer: Answer | None = None
        self._gone: str | None = None

    def fork(self) -> Session:
        """A second session that has read and said the same; both then go on apart."""
        self._check()
        copy = Session(self._connection)
        if self._id:
            forking = Pending(self._connection, keeper=copy)
            forking._submit(lib.ds4_fork_session, self._id)
            forking._settle()
            forking._raise_error()
            copy._id, copy._end = forking._session, self._end
        return copy

    def close(self) -> None:
        """The agents forget it. An answer in progress is cancelled."""
        if self._answer is not None and not self._connection.closed:
            self._answer.cancel()
            self._settle()
        self._forget()
        self._gone = "this session is closed"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # An answer in progress may outlive this; its end then finds nobody to keep the session.
        if self._answer is None or self._answer._final is not None:
            self._forget()

    def _forget(self) -> None:
        session = self._answer._session if self._answer is not None else self._id
        self._answer, self._id = None, 0
        if session:
            self._connection.forget_session(session)

    def _begin(
        self,
        request: c.RawRequest,
        timeout: float | None,
        progress: Callable[[int, int], None] | None,
    ) -> Answer:
        request.session = self._id
        request.flags |= c.KEEP_SESSION
        self._answer = Answer(self._connection, request, timeout, progress, keeper=self)
        return self._answer

    def _tokens_of(self, prompt: Prompt, think: bool) -> Sequence[int]:
        self._check()
        tokens = super()._tokens_of(prompt, think)
        if self._id == 0 or tokens is prompt:
            return tokens
        # A further turn: no begin of sentence, and the former turn ends even if it was cut off.
        return ([self._end] if self._end >= 0 else []) + list(tokens[1:])

    def _settle(self) -> None:
        """Waits for the end of the last answer, and learns what it left."""
        if self._answer is not None:
            self._answer._settle()
            self._learn_from(self._answer)
            self._answer = None

    def _check(self) -> None:
        self._settle()
        if self._gone is not None:
            raise UnknownSessionError(self._gone)

    def _learn_from(self, answer: Answer) -> None:
        final = answer._final
        assert final is not None
        if answer._session:
            self._id = answer._session
            cut_off = final.stop_token is None and not lib.ds4_is_error(answer._status)
            self._end = raw_info(self._connection).eos if cut_off else -1
        elif self._id:
            self._id = 0
            self._gone = f"the agent no longer has this session ({final.status})"
