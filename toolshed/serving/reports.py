"""What callers tell the control actor once a second, and what it makes of it for a dashboard.

Counts are told as totals since a caller's start, so that a report that is lost or told twice
changes nothing, and they stay when a caller ends. What each caller was credited is remembered, and
its next report counts for the difference alone.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from toolshed.metrics import Key, Second, Tally
from toolshed.serving.registry import Registry
from toolshed.types import Status, Timings

NUM_KEPT = 100
"""Recent calls that the control actor keeps."""
HISTORY_S = 300
_WATCHED_S = 5.0
"""After somebody looked, callers send pictures for so long."""
_SILENT_S = 5.0
"""A caller that has said nothing for so long is no longer counted as waiting."""
_MOST_CALLERS = 1024
_FORGOTTEN_S = 60.0
"""Of more callers those are forgotten that have closed, or said nothing for so long; one of them
that speaks again all the same is taken for a new one."""


class Load(NamedTuple):
    """Calls of one program that wait for, or are with, the replicas of one process word."""

    interactive: int = 0
    rollout: int = 0
    running: int = 0

    def plus(self, other: Load) -> Load:
        return Load(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Recent(NamedTuple):
    """One call that ended lately."""

    at_s: float
    """Seconds since 1970."""
    tool: str
    outcome: Status
    reason: str
    timings: Timings
    text: str
    """Beginning of the reply."""
    program: str
    """Who made the call."""
    picture: bytes
    """A small JPEG with the answer drawn on it; empty where there is none."""
    number: int = 0
    """Given by the control actor, larger for later arrivals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one caller tells."""

    caller: str
    """Unique among all callers."""
    program: str
    """For people: machine, process and name."""
    tallies: dict[Key, Tally]
    """Since the caller's start."""
    seconds: tuple[Second, ...]
    """When calls ended that were not told before."""
    loads: dict[str, Load]
    """By process word."""
    recent: tuple[Recent, ...]
    """Some of those calls."""
    closing: bool = False
    """Whether this is its last report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """Everything that a dashboard shows."""

    now_s: float
    """Seconds since 1970, as the control actor has it."""
    registry: Registry
    names: dict[str, str]
    """Families of each process word, for people."""
    tallies: dict[Key, Tally]
    """Of all callers, those that have ended included."""
    loads: dict[str, Load]
    history: tuple[Second, ...]
    """Seconds with calls, oldest first."""
    programs: tuple[str, ...]
    """Callers that are there now."""
    recent: tuple[Recent, ...]
    """In the order of arrival."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Caller:
    report: Report
    """The last one, with the counts that the totals have of this caller."""
    heard_s: float


class Ledger:
    """The counts of all callers."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        """In the order in which they were last heard."""
        self._totals: dict[Key, Tally] = {}
        self._history: dict[int, Second] = {}
        self._recent: deque[Recent] = deque(maxlen=NUM_KEPT)
        # Never one that a dashboard knows from before a restart of the control actor.
        self._number = time.time_ns()
        self._watched_s = 0.0

    def push(self, report: Report) -> bool:
        """Take a report; whether somebody watches."""
        before = self._callers.pop(report.caller, None)
        self._credit(report.tallies, {} if before is None else before.report.tallies)
        self._remember(report.seconds)
        for each in report.recent:
            self._number += 1
            self._recent.append(each._replace(number=self._number))
        kept = replace(report, recent=(), seconds=())
        self._callers[report.caller] = _Caller(report=kept, heard_s=time.monotonic())
        self._forget_oldest()
        return time.monotonic() - self._watched_s < _WATCHED_S

    def overview(self, registry: Registry, names: dict[str, str], since: int) -> Overview:
        """What a dashboard shows, with the recent calls after number ``since``."""
        self._watched_s = time.monotonic()
        there = [each.report for each in self._callers.values() if _is_there(each)]
        loads = {key: Load() for key in names}
        for report in there:
            for key, load in report.loads.items():
                loads[key] = loads.get(key, Load()).plus(load)
        return Overview(
            now_s=time.time(),
            registry=replace(registry, seats=tuple(replace(s, actor=None) for s in registry.seats)),
            names=names,
            tallies={key: self._totals[key].copy() for key in sorted(self._totals)},
            loads=loads,
            history=tuple(sorted(self._history.values())),
            programs=tuple(each.program for each in there),
            recent=tuple(each for each in self._recent if each.number > since),
        )

    def _credit(self, now: dict[Key, Tally], before: dict[Key, Tally]) -> None:
        """Count what has come since the caller's report before this one."""
        for key, tally in now.items():
            total = self._totals.setdefault(key, Tally())
            total.merge(tally)
            if key in before:
                _take_away(total, before[key])

    def _remember(self, seconds: Sequence[Second]) -> None:
        now = int(time.time())
        for each in seconds:
            # The clocks of machines differ a little; nothing ends in the future.
            second = min(each.second, now)
            _, ok, refused, failed = self._history.get(second, Second(second, 0, 0, 0))
            self._history[second] = Second(
                second, ok + each.ok, refused + each.refused, failed + each.failed
            )
        for second in [each for each in self._history if each < now - HISTORY_S]:
            del self._history[second]

    def _forget_oldest(self) -> None:
        """Callers that were killed never close; a living one is never forgotten, however many there
        are."""
        while len(self._callers) > _MOST_CALLERS:
            oldest = next(iter(self._callers))
            caller = self._callers[oldest]
            is_silent = time.monotonic() - caller.heard_s >= _FORGOTTEN_S
            if not is_silent and not caller.report.closing:
                return
            del self._callers[oldest]


class ReportDesk(ABC):
    """The part of the control actor that keeps the ledger."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names
        self._ledger = Ledger()

    @abstractmethod
    async def registry(self) -> Registry: ...

    async def push(self, report: Report) -> bool:
        """What a caller has counted; answers whether somebody watches."""
        return self._ledger.push(report)

    async def overview(self, since: int = 0) -> Overview:
        """Everything that a dashboard shows; who asks is taken to watch for a few seconds."""
        return self._ledger.overview(await self.registry(), self._names, since)


def _take_away(total: Tally, part: Tally) -> None:
    total.num -= part.num
    for index, seconds in enumerate(part.stages_s):
        total.stages_s[index] -= seconds
    for index, num in enumerate(part.buckets):
        total.buckets[index] -= num


def _is_there(caller: _Caller) -> bool:
    return not caller.report.closing and time.monotonic() - caller.heard_s < _SILENT_S
