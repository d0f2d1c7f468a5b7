"""What can go wrong, as exceptions: one class for each error status of ``ds4.h``.

Every one is an ``Error``, and every ``Error`` knows its status and whether the same call may
succeed later, unchanged. Where Python has a word for it (``ValueError``, ``TimeoutError``), the
class is that, too.
"""

from __future__ import annotations

import builtins
from typing import ClassVar

from ._library import lib


class Error(Exception):
    """Something that the agent or the library refused; ``str(error)`` is a sentence."""

    default_status: ClassVar[int] = 38

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        #: The number in ``ds4.h``.
        self.status = self.default_status if status is None else status

    @property
    def name(self) -> str:
        """Stable and in lower case: ``"route_not_ready"``."""
        return str(lib.ds4_status_name(self.status).decode())

    @property
    def retryable(self) -> bool:
        """The same call may succeed later, unchanged."""
        return bool(lib.ds4_is_retryable(self.status))


class InvalidError(Error, ValueError):
    """An argument breaks its bounds, or the connection is closed or busy in another thread."""

    default_status = 32


class OutOfRangeError(Error, ValueError):
    """A token outside the vocabulary, or a prompt beyond the context."""

    default_status = 33


class BusyError(Error):
    """A limit on requests, sessions, clients or memory has been reached; retryable."""

    default_status = 34


class RouteNotReadyError(Error):
    """No model is being served now; retryable."""

    default_status = 35


class PeerLostError(Error):
    """Another node of the route went away; retryable."""

    default_status = 36


class AgentShutdownError(Error, ConnectionError):
    """The agent is stopping or gone; retryable."""

    default_status = 37


class InternalError(Error):
    """The agent failed; its log says more."""

    default_status = 38


class UnknownSessionError(Error, LookupError):
    """This connection has no such session."""

    default_status = 39


class RefusedError(Error, PermissionError):
    """This user or program may not connect."""

    default_status = 40


class VersionError(Error):
    """Library and agent share no version of the protocol."""

    default_status = 41


class TimeoutError(Error, builtins.TimeoutError):
    """Nothing came within the time that the caller gave; retryable."""

    default_status = 256

    @property
    def retryable(self) -> bool:
        return True


class NoAgentError(Error, ConnectionError):
    """Nobody answers at the socket; retryable."""

    default_status = 259


class NoMemoryError(Error, MemoryError):
    """This process has no memory left."""

    default_status = 260


class NoTextError(Error):
    """The agent sent no tokenizer tables: no model is assigned yet."""

    default_status = 261


class ModelChangedError(Error):
    """The agent came back with another model: what the former one was asked is over."""

    default_status = 262


_BY_STATUS = {cls.default_status: cls for cls in Error.__subclasses__()}


def error_for(status: int, sentence: str) -> Error:
    """The exception for a status; ``Error`` itself for one that a later library has added."""
    return _BY_STATUS.get(status, Error)(sentence, status)
