"""What callers tell the control actor once a second, and what it makes of it for a dashboard.

Counts are told as totals since a caller's start, so that a report that is lost or told twice
changes nothing, and they stay when a caller ends.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from toolshed.metrics import Key, Second, Tally, merged
from toolshed.serving.registry import Registry
from toolshed.types import Status, Timings

NUM_KEPT = 100
"""Recent calls that the control actor keeps."""
HISTORY_S = 300
_WATCHED_S = 5.0
"""After somebody looked, callers send pictures for so long."""
_SILENT_S = 5.0
"""A caller that has said nothing for so long is no longer counted as waiting."""
_MOST_CALLERS = 256


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


@dataclass(kw_only=True, slots=True)
class _Caller:
    report: Report
    heard_s: float


class Ledger:
    """The counts of all callers."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._gone: dict[Key, Tally] = {}
        """Of callers that have ended."""
        self._history: dict[int, Second] = {}
        self._recent: deque[Recent] = deque(maxlen=NUM_KEPT)
        # Never one that a dashboard knows from before a restart of the control actor.
        self._number = time.time_ns()
        self._watched_s = 0.0

    def push(self, report: Report) -> bool:
        """Take a report; whether somebody watches."""
        self._callers.pop(report.caller, None)
        self._remember(report.seconds)
        for each in report.recent:
            self._number += 1
            self._recent.append(each._replace(number=self._number))
        if report.closing:
            self._retire(report)
        else:
            kept = replace(report, recent=())
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
            tallies=self._totals(),
            loads=loads,
            history=tuple(sorted(self._history.values())),
            programs=tuple(each.program for each in there),
            recent=tuple(each for each in self._recent if each.number > since),
        )

    def _totals(self) -> dict[Key, Tally]:
        all_of = [self._gone, *(each.report.tallies for each in self._callers.values())]
        keys = sorted({key for tallies in all_of for key in tallies})
        return {key: merged(each[key] for each in all_of if key in each) for key in keys}

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

    def _retire(self, report: Report) -> None:
        for key, tally in report.tallies.items():
            self._gone.setdefault(key, Tally()).merge(tally)

    def _forget_oldest(self) -> None:
        """Callers that were killed never close; of too many the longest silent one is retired."""
        if len(self._callers) > _MOST_CALLERS:
            # Who reports goes to the end, so the first has been silent for longest.
            oldest = self._callers.pop(next(iter(self._callers)))
            self._retire(oldest.report)


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


def _is_there(caller: _Caller) -> bool:
    return time.monotonic() - caller.heard_s < _SILENT_S
