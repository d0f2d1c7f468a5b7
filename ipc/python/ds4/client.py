"""The connection to this machine's agent."""

from __future__ import annotations

import os
from ctypes import sizeof
from dataclasses import dataclass
from typing import Iterable, Tuple

from . import _asking
from . import _library as c
from ._asking import Asks
from ._connection import Connection
from ._library import lib
from .session import Session


@dataclass(frozen=True)
class Info:
    """What the agent serves, as of now."""

    model: str
    #: ``"idle"``, ``"loading"``, ``"ready"``, ``"degraded"`` or ``"stopping"``.
    route_state: str
    #: Tokens are 0 to ``vocabulary - 1``.
    vocabulary: int
    #: Positions that one session may hold.
    context: int
    #: In flight at once on one connection.
    max_requests: int
    #: In flight now on this one.
    requests: int
    #: Whether text can be turned into tokens: True once a model is assigned.
    has_text: bool
    bos: int | None
    eos: int | None
    protocol: Tuple[int, int]
    #: Of the model file; 0: none.
    fingerprint: int
    #: Whether an agent is at the other end, as far as is known.
    connected: bool
    #: How often an agent that went away was found again.
    reconnects: int


def _milliseconds(name: str, seconds: float) -> int:
    return _asking.whole(f"{name} in milliseconds", round(seconds * 1000), 31)


def connect(
    socket: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    timeout: float = 10.0,
    reconnect: float = 30.0,
    spin_us: int | None = None,
) -> Client:
    """Connects to the agent of this machine.

    ``socket`` None: the environment's ``DS4_SOCKET``, else ``/run/ds4d/client.sock``. ``name`` is
    for the agent's log. ``timeout`` is for the agent's answer and ``reconnect`` for an agent that
    went away to come back (0: not at all), both in seconds. A wait looks at the memory for
    ``spin_us`` before it sleeps; None lets the library decide.
    """
    return Client(socket, name=name, timeout=timeout, reconnect=reconnect, spin_us=spin_us)


class Client(Asks):
    """A connection. One thread at a time may use it; a second one gets ``InvalidError``.

    Any number of answers may be in progress, in ``for`` loops or in tasks of one event loop.
    ``close()`` it, use it in a ``with`` block, or drop it: its requests end, and its sessions are
    forgotten.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        timeout: float = 10.0,
        reconnect: float = 30.0,
        spin_us: int | None = None,
    ) -> None:
        options = c.ConnectOptions(struct_bytes=sizeof(c.ConnectOptions))
        options.timeout_ms = _milliseconds("timeout", timeout) or 1
        options.reconnect_ms = _milliseconds("reconnect", reconnect) or c.NEVER
        options.name = name.encode() if name is not None else None
        if spin_us is not None:
            options.spin_us = _asking.whole("spin_us", spin_us, 32) or c.NEVER
        path = os.fsencode(socket) if socket is not None else None
        self._connection = Connection(path, options)

    def session(self) -> Session:
        """A conversation that goes on over several answers."""
        return Session(self._connection)

    def tokenize(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids. Only with ``control`` can the text contain control tokens."""
        return _asking.tokenize(self._connection, text, control)

    def detokenize(self, tokens: Iterable[int], *, control: bool = False) -> str:
        """Text; with ``control``, control tokens are shown as text."""
        return _asking.detokenize(self._connection, tokens, control)

    def chat(self, messages: Iterable[Tuple[str, str]], *, think: bool = False) -> list[int]:
        """A conversation in the model's chat format, ending where the assistant is to speak."""
        return _asking.render_chat(self._connection, messages, think)

    def info(self) -> Info:
        raw = _asking.raw_info(self._connection)
        return Info(
            model=raw.model.decode(errors="replace"),
            route_state=lib.ds4_route_state_name(raw.route_state).decode(),
            vocabulary=raw.vocabulary,
            context=raw.context,
            max_requests=raw.max_requests,
            requests=raw.requests,
            has_text=bool(raw.has_text),
            bos=raw.bos if raw.bos >= 0 else None,
            eos=raw.eos if raw.eos >= 0 else None,
            protocol=(raw.protocol_major, raw.protocol_minor),
            fingerprint=raw.fingerprint,
            connected=bool(raw.connected),
            reconnects=raw.reconnects,
        )

    def close(self) -> None:
        self._connection.close()

    @property
    def closed(self) -> bool:
        return self._connection.closed

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
