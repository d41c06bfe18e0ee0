"""Coroutines for programs without an event loop: one loop in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run_now(work: Coroutine[object, object, T]) -> T:
    """The result of a coroutine; blocks this thread. Not for use inside an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run_coroutine_threadsafe(work, _running_loop()).result()
    work.close()
    raise RuntimeError("an event loop runs in this thread: await the call instead")


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="toolshed calls", daemon=True).start()
        return _loop
