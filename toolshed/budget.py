"""What one call of a family beside the caller may still spend, and its wait for a place to run.

The host opens the budget, the back-end reads it: queue and run share its seconds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from toolshed.backend import Priority
from toolshed.errors import ToolFailure
from toolshed.serving.turns import TwoClasses


@dataclass(kw_only=True, slots=True)
class Budget:
    """Of one call."""

    seconds: float = 60.0
    """Of queue and run together."""
    until_s: float
    """When it is spent, of ``time.monotonic``."""
    max_queue: int = 4096
    """Calls of this program that may wait for a place."""
    priority: Priority = "rollout"
    queue_s: float = 0.0
    """Spent on waiting so far."""

    @classmethod
    def of(cls, seconds: float, max_queue: int, priority: Priority) -> Budget:
        """A whole one, from now on."""
        until_s = time.monotonic() + seconds
        return cls(seconds=seconds, until_s=until_s, max_queue=max_queue, priority=priority)

    @property
    def left_s(self) -> float:
        return max(0.0, self.until_s - time.monotonic())


_current: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def spending(budget: Budget) -> Iterator[None]:
    """For the time of one call, let ``current_budget`` be this one."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def current_budget() -> Budget:
    """That of the call at work; where nobody opened one, what a family has by default."""
    found = _current.get(None)
    return Budget(until_s=time.monotonic() + 60.0) if found is None else found


class Places:
    """Lets ``num`` calls run at a time, whichever threads and event loops they come from."""

    def __init__(self, num: int) -> None:
        self._lock = threading.Lock()
        self._num_free = num
        self._waiting = TwoClasses()

    async def take(self, budget: Budget) -> None:
        """Wait for a place, which ``give_back`` frees. ToolFailure ``busy`` where too many wait
        already, or the budget is spent first."""
        with self._lock:
            if self._num_free:
                self._num_free -= 1
                return
            if len(self._waiting) >= budget.max_queue:
                raise ToolFailure("busy", f"{len(self._waiting)} calls wait already")
            place: Future[None] = Future()
            self._waiting.append(place, budget.priority)
        began_s, has_place = time.monotonic(), False
        try:
            async with asyncio.timeout(budget.left_s):
                await asyncio.wrap_future(place)
            has_place = True
        except TimeoutError:
            text = f"no place was free within the budget of {budget.seconds:g} s"
            raise ToolFailure("busy", text) from None
        finally:
            budget.queue_s += time.monotonic() - began_s
            if not has_place:
                self._leave(place)

    def give_back(self) -> None:
        """A call that had a place has ended."""
        with self._lock:
            while len(self._waiting):
                place = self._waiting.pop()
                assert isinstance(place, Future)
                # Not one whose caller has just given up.
                if place.set_running_or_notify_cancel():
                    place.set_result(None)
                    return
            self._num_free += 1

    def _leave(self, place: Future[None]) -> None:
        with self._lock:
            self._waiting.remove(place)
            was_given = not place.cancel()
        if was_given:
            self.give_back()
