"""Talk to the ds4d agent of this machine.

    import ds4

    for token in ds4.connect().generate("What is the capital of France?"):
        print(token, end="", flush=True)

A ``Token`` is a string, the text that it completed, and knows its id, position and log-probability.
In an event loop, the same with ``async for``; ``await client.generate(...)`` is the whole text.
A ``Session`` keeps a conversation on the agents. What goes wrong is an ``Error`` with a sentence,
and ``error.retryable`` says whether to try again.

Pure Python over libds4client (``ds4.h``), which it finds by its soname; ``DS4_CLIENT_LIBRARY`` may
name another file.
"""

from ._asking import Message, Prompt
from ._pending import Final
from .answer import Answer, Token
from .client import Client, Info, connect
from .errors import (
    AgentShutdownError,
    BusyError,
    Error,
    InternalError,
    InvalidError,
    ModelChangedError,
    NoAgentError,
    NoMemoryError,
    NoTextError,
    OutOfRangeError,
    PeerLostError,
    RefusedError,
    RouteNotReadyError,
    TimeoutError,
    UnknownSessionError,
    VersionError,
)
from .session import Session

__all__ = [
    "AgentShutdownError",
    "Answer",
    "BusyError",
    "Client",
    "Error",
    "Final",
    "Info",
    "InternalError",
    "InvalidError",
    "Message",
    "ModelChangedError",
    "NoAgentError",
    "NoMemoryError",
    "NoTextError",
    "OutOfRangeError",
    "PeerLostError",
    "Prompt",
    "RefusedError",
    "RouteNotReadyError",
    "Session",
    "TimeoutError",
    "Token",
    "UnknownSessionError",
    "VersionError",
    "connect",
]
