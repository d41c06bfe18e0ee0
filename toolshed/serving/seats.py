"""One place for a replica: who fills it, how that one is, and how often it was lost."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from toolshed.serving.registry import GroupSpec, SeatReport, State
from toolshed.serving.replica import Health

_BUDGET_WINDOW_S = 600.0
_PAUSES_S = (0.0, 0.5, 2.0, 5.0, 10.0)
"""Before each refill of a place that was lost again and again."""
_STAYING: tuple[State, ...] = ("ready", "suspect", "draining", "starting", "down", "dead")
"""Who is kept first where there are to be fewer."""


class Seat:
    """One place for a replica."""

    def __init__(self, group: GroupSpec, index: int) -> None:
        self.group, self.index = group, index
        # Never one from before a restart of this actor: callers know replicas by their names.
        self.generation = time.time_ns() // 1_000_000
        self.actor: Any = None
        self.state: State = "down"
        self.reason = ""
        self.user_error = False
        self.health: Health | None = None
        self.was_ready = False
        """Once; so what its back-ends were given is right, and a later failure is the machine's."""
        self.leaving = False
        """Drained, or to be drained: it is not filled again."""
        self.looked_at = asyncio.Event()
        """Set to have its health asked for at once."""
        self.lost_at_s: deque[float] = deque()
        self._since_s = time.monotonic()
        self.keeper: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return f"toolshed/{self.group.key}/{self.index}/{self.generation}"

    def worth(self) -> tuple[int, int]:
        """Of those that might leave the smallest stay."""
        return _STAYING.index(self.state), self.index

    def enter(self, state: State, reason: str = "", *, user_error: bool = False) -> None:
        self.state, self.reason, self.user_error = state, reason, user_error
        self.was_ready |= state == "ready"
        self._since_s = time.monotonic()

    def report(self) -> SeatReport:
        return SeatReport(
            group=self.group.key,
            index=self.index,
            name=self.name,
            state=self.state,
            since_s=time.monotonic() - self._since_s,
            num_restarts=len(self.lost_at_s),
            reason=self.reason,
            user_error=self.user_error,
            actor=self.actor if self.state in ("ready", "suspect") else None,
            health=self.health,
        )

    def pause_s(self) -> float | None:
        """Before it is filled again; None where the budget is spent."""
        now_s = time.monotonic()
        while self.lost_at_s and now_s - self.lost_at_s[0] > _BUDGET_WINDOW_S:
            self.lost_at_s.popleft()
        self.lost_at_s.append(now_s)
        num = len(self.lost_at_s)
        return None if num > self.group.restarts else _PAUSES_S[min(num, len(_PAUSES_S)) - 1]
