"""Replies on their way from Ray's thread into an event loop: one wake-up for all that come in the
meantime, where Ray's own futures cost a lock, a pipe's byte and several objects each.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from typing import Any


class Arrivals(threading.local):
    """Futures of references, in the event loop that this thread runs."""

    _inlet: _Inlet | None = None

    def future(self, reference: Any) -> asyncio.Future[Any]:
        """The reply, or Ray's error. The caller keeps the reference until then."""
        loop = asyncio.get_running_loop()
        inlet = self._inlet
        if inlet is None or inlet.loop is not loop:
            inlet = self._inlet = _Inlet(loop)
        future = loop.create_future()
        # What `ObjectRef.future` itself calls; its argument may be an error, which is not raised.
        reference._on_completed(functools.partial(inlet.put, future))
        return future


class _Inlet:
    """Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._is_called = False

    def put(self, future: asyncio.Future[Any], reply: Any) -> None:
        """Called by Ray, in a thread of its own."""
        self._arrived.append((future, reply))
        if self._is_called:
            return
        self._is_called = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        # First: what arrives from here on calls again.
        self._is_called = False
        while self._arrived:
            future, reply = self._arrived.popleft()
            if future.done():
                continue
            error = _error_of(reply)
            if error is None:
                future.set_result(reply)
            else:
                future.set_exception(error)


def _error_of(reply: Any) -> BaseException | None:
    if not isinstance(reply, BaseException):
        return None
    from ray import exceptions

    if isinstance(reply, exceptions.RayTaskError):
        cause: BaseException = reply.as_instanceof_cause()
        return cause
    return reply if isinstance(reply, exceptions.RayError) else None
