"""Values by key, bounded by their bytes; and the same with single-flight: of callers that want one
key at the same time one brings the value, and the others wait for it, in whatever thread they are.

Used in replicas too, so it needs the standard library alone.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteLRU(Generic[V]):
    """Up to ``max_bytes`` of values, of which the least recently used goes first; the newest stays
    however large it is. Safe for threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[V, int]] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def num_bytes(self) -> int:
        """Of all values that are kept."""
        return self._num_bytes

    def get(self, key: str) -> V | None:
        """The value of a key, which counts as its use; None where there is none."""
        with self._lock:
            return self._got(key)

    def put(self, key: str, value: V, num_bytes: int) -> None:
        """Keep a value of this size in place of what was under its key."""
        with self._lock:
            self._put(key, value, num_bytes)

    def get_or_put(self, key: str, make: Callable[[], tuple[V, int]]) -> V:
        """The value of a key; ``make`` is asked for it and for its size, with all others locked
        out, where there is none."""
        with self._lock:
            found = self._got(key)
            if found is None:
                found, num_bytes = make()
                self._put(key, found, num_bytes)
            return found

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
            self._num_bytes = 0

    def _got(self, key: str) -> V | None:
        known = self._kept.get(key)
        if known is None:
            return None
        self._kept.move_to_end(key)
        return known[0]

    def _put(self, key: str, value: V, num_bytes: int) -> None:
        _, replaced = self._kept.pop(key, (None, 0))
        self._kept[key] = (value, num_bytes)
        self._num_bytes += num_bytes - replaced
        while self._num_bytes > self._max_bytes and len(self._kept) > 1:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._num_bytes -= dropped


class Abandoned(Exception):
    """Whoever was to bring a value gave up; who still wants it enters again."""


class SingleFlight(Generic[V]):
    """Values by key, each brought once and then kept in a ByteLRU. Safe for threads.

    Who ``enter``s first has to end its flight by ``land`` or ``drop``, whatever happens. The others
    wait for the flight: ``result(timeout)`` in a thread, ``asyncio.wrap_future`` in an event loop.
    """

    def __init__(self, max_bytes: int, make: Callable[[], Future[V]] = Future) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._landed: ByteLRU[Future[V]] = ByteLRU(max_bytes)
        self._flights: dict[str, Future[V]] = {}

    def __len__(self) -> int:
        return len(self._landed)

    @property
    def num_bytes(self) -> int:
        """Of all values that are kept."""
        return self._landed.num_bytes

    @property
    def num_flights(self) -> int:
        """How many values are being brought."""
        return len(self._flights)

    def enter(self, key: str) -> tuple[Future[V], bool]:
        """The flight of this key, and whether the caller is the one who brings its value."""
        with self._lock:
            known = self._landed.get(key) or self._flights.get(key)
            if known is not None:
                return known, False
            flight = self._flights[key] = self._make()
            # One who waits no longer must not end it for the others.
            flight.set_running_or_notify_cancel()
            return flight, True

    def land(self, key: str, flight: Future[V], value: V, num_bytes: int) -> None:
        """The value is there and is kept; nothing happens where the flight was dropped."""
        with self._lock:
            if not self._is_over(key, flight):
                self._landed.put(key, flight, num_bytes)
                flight.set_result(value)

    def drop(self, key: str, flight: Future[V], error: Exception | None = None) -> None:
        """Nothing is kept: who waits gets ``error``, or Abandoned. Harmless after ``land``."""
        with self._lock:
            if not self._is_over(key, flight):
                flight.set_exception(Abandoned() if error is None else error)

    def clear(self) -> None:
        """Forget the values that are kept."""
        self._landed.clear()

    def _is_over(self, key: str, flight: Future[V]) -> bool:
        return flight.done() or self._flights.pop(key) is not flight
