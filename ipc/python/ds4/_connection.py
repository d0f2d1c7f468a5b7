"""One connection of libds4client, made safe for Python.

The C library wants one thread at a time, an event descriptor that is only trusted right after a
look that found nothing, and a sentence that is read before the next call. Python brings garbage
collection at any moment, ``KeyboardInterrupt`` between any two instructions, and event loops. This
file is where the two meet; nothing else calls the library with a connection's handle.

- A call from a second thread, while the first is in one, raises instead of waiting or crashing.
- What a finaliser wants (a cancel, a session to forget) is a *chore*: done at once where possible,
  else before the next call.
- An event stays in ``_event`` until it has been handed over: an interrupt in between loses nothing.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from ctypes import byref, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any, Callable

from . import _library as c
from ._library import lib
from .errors import BusyError, Error, InvalidError, error_for

if TYPE_CHECKING:
    from types import TracebackType

    from ._pending import Pending

# A wait is cut into pieces of this length: a signal that arrives just before the library sleeps is
# not an interruption, and Python's handler would otherwise run when the next token comes.
_WAIT_MS = 500


def check(status: int) -> None:
    if status != c.OK:
        raise error_for(status, lib.ds4_last_error().decode(errors="replace"))


class Connection:
    def __init__(self, socket: bytes | None, options: c.ConnectOptions) -> None:
        handle = c_void_p()
        check(lib.ds4_connect(socket, byref(options), byref(handle)))
        self._handle = handle
        self._close = weakref.finalize(self, lib.ds4_close, handle)
        self._close.atexit = False  # a daemon thread may still be in a call then
        self._lock = threading.RLock()
        self._depth = 0
        self._draining = False
        self._event = c.Event()
        self._chores: deque[tuple[Callable[..., int], int]] = deque()
        self._pending: weakref.WeakValueDictionary[int, Pending] = weakref.WeakValueDictionary()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched_fd = -1
        self._waiters: set[asyncio.Future[None]] = set()

    # -- Calls ------------------------------------------------------------------------------------

    def __enter__(self) -> c_void_p:
        """The handle, for this thread alone."""
        if not self._lock.acquire(blocking=False):
            raise InvalidError("another thread is using this connection; give each its own")
        self._depth += 1
        try:
            if not self._close.alive:
                raise InvalidError("this connection is closed; connect again")
            self._hand_over()
            self._do_chores()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self._handle

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        self._lock.release()
        if not self._draining:
            self._rearm()

    def close(self) -> None:
        if not self._close.alive:
            return
        with self:
            self._release(InvalidError("this connection was closed while something waited for it"))
            self._close()

    @property
    def closed(self) -> bool:
        return not self._close.alive

    def submit(self, call: Callable[..., int], what: Any, pending: Pending) -> int:
        """``call(client, what, request_id)`` of the library; its events go to ``pending``."""
        request_id = c_uint64()
        with self as handle:
            status = c.INTERRUPTED
            while status == c.INTERRUPTED:  # it searches for an agent that went away
                status = call(handle, what, byref(request_id))
            check(status)
            self._pending[request_id.value] = pending
        return request_id.value

    def cancel(self, request_id: int) -> None:
        self._chores.append((_cancel, request_id))
        self._try_chores()

    def forget_session(self, session: int) -> None:
        self._chores.append((_close_session, session))
        self._try_chores()

    def _try_chores(self) -> None:
        """From finalisers too: in the middle of anything, in any thread."""
        if self.closed or not self._lock.acquire(blocking=False):
            return
        try:
            if self._depth > 0:
                return
            self._depth += 1
            try:
                self._hand_over()
                self._do_chores()
            finally:
                self._depth -= 1
        finally:
            self._lock.release()
        self._rearm()

    def _do_chores(self) -> None:
        """Those that find the connection at its limit are tried again later."""
        for _ in range(len(self._chores)):
            call, number = self._chores[0]
            if call(self._handle, number) == c.BUSY:
                self._chores.rotate(-1)
            else:
                self._chores.popleft()

    # -- Events -----------------------------------------------------------------------------------

    def take(self, timeout_ms: int | None) -> bool:
        """Hands over the next event. False: none has come, so look at the time and at signals.

        Without a timeout this still returns now and then.
        """
        wait_ms = _WAIT_MS if timeout_ms is None else min(timeout_ms, _WAIT_MS)
        with self as handle:
            status = lib.ds4_next(handle, byref(self._event), wait_ms)
            if status in (c.TIMEOUT, c.INTERRUPTED):
                return False
            check(status)
            self._hand_over()
        return True

    def _hand_over(self) -> None:
        """Gives the event in hand to whom it is for. If interrupted, it is done again later."""
        event = self._event
        if event.kind == 0:
            return
        pending = self._pending.get(event.request)
        if pending is not None:
            pending._on_event(event)
        if event.kind == c.EVENT_FINAL and event.session and not (pending and pending._is_kept):
            self._chores.append((_close_session, event.session))
        event.kind = 0

    # -- Event loops ------------------------------------------------------------------------------

    async def wait(self, pending: Pending, timeout: float | None) -> None:
        """Until something new has come for it. Raises the builtin TimeoutError."""
        loop = asyncio.get_running_loop()
        if self._waiters and loop is not self._loop:
            raise InvalidError("another event loop is using this connection; give each its own")
        if pending._waiter is not None:
            raise InvalidError("another task is waiting for this answer")
        waiter: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._waiters.add(waiter)
        pending._waiter = waiter
        try:
            self._drain()
            await asyncio.wait_for(waiter, timeout)
        finally:
            pending._waiter = None
            self._waiters.discard(waiter)
            if not self._waiters:
                self._unwatch()

    def _drain(self) -> None:
        """Takes all there is, which also arms the descriptor; called when it is readable."""
        if not self._waiters or self._loop is None:
            return
        self._draining = True
        try:
            self._watch()
            while self.take(0):
                pass
        except Error as why:
            self._release(why)
        finally:
            self._draining = False

    def _rearm(self) -> None:
        """A call was made, and the descriptor means nothing until the next look."""
        if self._waiters and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drain)

    def _watch(self) -> None:
        if self._watched_fd >= 0 or self._loop is None:
            return
        fd = lib.ds4_event_fd(self._handle)
        if fd < 0:
            raise BusyError("this process has no file descriptor left to wait with")
        self._loop.add_reader(fd, self._drain)
        self._watched_fd = fd

    def _unwatch(self) -> None:
        if self._watched_fd >= 0 and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._watched_fd)
        self._watched_fd = -1

    def _release(self, why: Error) -> None:
        """Nothing will come any more: everybody who waits learns why."""
        self._unwatch()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(type(why)(str(why), why.status))


def _cancel(handle: Any, request_id: int) -> int:
    return int(lib.ds4_cancel(handle, request_id))


def _close_session(handle: Any, session: int) -> int:
    return int(lib.ds4_close_session(handle, session, None))
