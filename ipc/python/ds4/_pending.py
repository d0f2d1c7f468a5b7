"""A request in flight, of any kind: something that will get exactly one final."""

from __future__ import annotations

import weakref
from asyncio import Future
from dataclasses import dataclass
from typing import Any, Callable

from . import _library as c
from ._connection import Connection
from ._library import lib
from .errors import error_for


@dataclass(frozen=True)
class Final:
    """How an answer ended."""

    #: ``"ok_stop"``, ``"ok_length"``, ``"cancelled"``, or the name of an error.
    status: str
    prompt_tokens: int
    generated_tokens: int
    #: The token that ended the answer (itself not delivered).
    stop_token: int | None


class Pending:
    """``keeper`` wants the session that the end may leave behind; without one, or when it is gone
    by then, the agent is told to forget that session.
    """

    def __init__(self, connection: Connection, keeper: object | None = None) -> None:
        self._connection = connection
        self._keeper = weakref.ref(keeper) if keeper is not None else None
        self._request_id = 0
        self._final: Final | None = None
        self._status = c.OK
        self._sentence = ""
        #: The session that the end left behind; 0: none.
        self._session = 0
        self._waiter: Future[None] | None = None

    def _submit(self, call: Callable[..., int], what: Any) -> None:
        self._request_id = self._connection.submit(call, what, self)

    def cancel(self) -> None:
        """Ends the request soon. Never blocks, and does nothing to one that has ended."""
        if self._final is None and self._request_id:
            self._connection.cancel(self._request_id)

    def __del__(self) -> None:
        self.cancel()

    def _on_event(self, event: c.Event) -> None:
        """May see an event twice, if an interrupt came in between."""
        if event.kind == c.EVENT_FINAL:
            self._status, self._session = event.status, event.session
            self._sentence = event.sentence.decode(errors="replace")
            name = lib.ds4_status_name(event.status).decode()
            stop = event.stop_token if event.stop_token >= 0 else None
            self._final = Final(name, event.prompt_tokens, event.generated_tokens, stop)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_kept(self) -> bool:
        return self._keeper is not None and self._keeper() is not None

    def _settle(self) -> None:
        """Waits for the end; whatever came before stays where it is."""
        while self._final is None:
            self._connection.take(None)

    def _raise_error(self) -> None:
        if lib.ds4_is_error(self._status):
            raise error_for(self._status, self._sentence)
