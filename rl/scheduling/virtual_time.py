"""An event loop whose clock is moved and never waited for: hours of a rollout in seconds.

The clock jumps to the next timer as soon as nothing is left to do before it. Whatever a program
computes takes no virtual time. Only timers and tasks of the loop count: input from sockets or
threads would come at no time at all, so a program that waits for nothing else is told so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Clock(selectors.SelectSelector):
    """Stands where a loop sleeps: asked to wait, it moves the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits, and no timer is set that could wake one of them")
        self.now_s += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time()`` begins at 0 and is the sum of what the loop would have slept, in seconds."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, in virtual time; RuntimeError where all tasks wait for ever."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
