"""Coroutines for programs without an event loop: each thread that asks gets a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class _OwnLoop(threading.local):
    """One loop per thread: a thread that served all others would cost two switches a call."""

    loop: asyncio.AbstractEventLoop | None = None


_own = _OwnLoop()


def run_now(work: Coroutine[object, object, T]) -> T:
    """The result of a coroutine; blocks this thread. RuntimeError inside a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if _own.loop is None or _own.loop.is_closed():
            _own.loop = asyncio.new_event_loop()
        return _own.loop.run_until_complete(work)
    work.close()
    raise RuntimeError("an event loop runs in this thread: await the call instead")


def may_block() -> bool:
    """Whether nobody else would be held up: the running loop is one of ``run_now``, with nothing in
    it but the one coroutine that a blocked thread waits for."""
    own = _own.loop
    return own is not None and own.is_running() and len(asyncio.all_tasks(own)) == 1
