"""Replicas as a caller sees them: how busy, how fast and how healthy each one is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

_WEIGHT = 0.2
"""Of the newest duration in a running mean."""
_SICK_AFTER = 3
"""Failures in a row that open a breaker."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_SLOW = 5.0
"""Times slower than the fastest replica, measured call by call against the mean of the method."""
_SLOW_FROM_S = 0.02
"""Shorter calls are noise of the machine."""
_ENOUGH = 4


@dataclass(kw_only=True, slots=True, eq=False)
class Member:
    """One replica."""

    name: str
    """Unique, also among replicas that had this place before."""
    actor: Any
    call_small: Any
    """Bound once: binding a method of an actor costs as much as sending it."""
    call_large: Any
    num_running: int = 0
    """Calls of this program that are there."""
    gone: bool = False
    full_until_s: float = 0.0
    breaker: Breaker = field(default_factory=lambda: Breaker())


@dataclass(kw_only=True, slots=True)
class Breaker:
    """Keeps calls away from a replica that fails or crawls, and lets one through now and then."""

    num_failures: int = 0
    pause_s: float = _FIRST_PAUSE_S
    open_until_s: float = 0.0
    slowness: float = 1.0
    """Running mean of its durations over those of all replicas."""
    num_timed: int = 0

    def is_open(self, now_s: float) -> bool:
        """Whether to stay away. After the pause one call tells how it is now (half open)."""
        return now_s < self.open_until_s

    @property
    def half_open(self) -> bool:
        return self.open_until_s > 0.0

    # What ends during a pause began before it and tells nothing new.

    def failed(self, now_s: float) -> None:
        self.num_failures += 1
        if self.num_failures >= _SICK_AFTER or self.half_open:
            self.trip(now_s)

    def trip(self, now_s: float) -> None:
        """Stay away for a while, each time for longer."""
        if self.is_open(now_s):
            return
        self.open_until_s = now_s + self.pause_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)

    def recovered(self, now_s: float) -> None:
        """A call went well, and no slower than elsewhere."""
        if self.is_open(now_s):
            return
        self.num_failures = 0
        self.open_until_s, self.pause_s = 0.0, _FIRST_PAUSE_S


class Durations:
    """How long calls take, by method, and which replica is much slower than the others."""

    def __init__(self) -> None:
        self._means_s: dict[str, float] = {}
        self.recent_s = 1.0
        """Running mean over all methods; long until something is known."""
        self._num = 0

    def add(self, member: Member, method: str, run_s: float, others: list[Member]) -> None:
        now_s = time.monotonic()
        mean_s = self._means_s.get(method, run_s)
        self._means_s[method] = mean_s + _WEIGHT * (run_s - mean_s)
        self._num += 1
        weight = max(_WEIGHT, 1 / self._num)
        self.recent_s += weight * (run_s - self.recent_s)
        breaker = member.breaker
        breaker.num_timed += 1
        # After a pause one call alone tells how it is now.
        is_trial = breaker.half_open and not breaker.is_open(now_s)
        newest = 1.0 if is_trial else _WEIGHT
        breaker.slowness += newest * (run_s / max(mean_s, 1e-6) - breaker.slowness)
        rivals = [each.breaker.slowness for each in others if each is not member]
        is_slow = (
            run_s > _SLOW_FROM_S
            and (breaker.num_timed >= _ENOUGH or is_trial)
            and bool(rivals)
            and breaker.slowness > _SLOW * min(rivals)
        )
        if is_slow:
            breaker.trip(now_s)
        else:
            breaker.recovered(now_s)
