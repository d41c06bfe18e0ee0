"""What calls cost, counted where they are made: by tool, outcome and reason, with their latency in
fixed buckets. Counting one call takes a lock and a few additions.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toolshed.types import Status, Stored, Timings, ToolCall, ToolImage, ToolResult, ToolValue

UNKNOWN_TOOL = "(unknown tool)"
"""Stands for names that no config knows, which a model may invent without end."""
OTHER_REASONS = "(other)"
NUM_RECENT = 50
_MOST_REASONS = 32
"""Of one tool and outcome; more are counted together."""
_SHORT = 240
_MOST_SECONDS = 60
_PER_DECADE = 10
_FIRST_S = 1e-4
NUM_BUCKETS = 72
"""Ten per decade from 0.1 ms to 1000 s, and one at each end for what lies beyond."""


class Key(NamedTuple):
    """What is counted apart."""

    tool: str
    outcome: Status
    reason: str


def bucket_of(seconds: float) -> int:
    """The bucket in which a duration is counted; it is at most 26 % wide."""
    if seconds <= _FIRST_S:
        return 0
    return min(NUM_BUCKETS - 1, 1 + int(_PER_DECADE * math.log10(seconds / _FIRST_S)))


def bucket_end_s(bucket: int) -> float:
    """Where a bucket ends; the last one has no end and is given that of the one before."""
    return _FIRST_S * 10 ** (min(bucket, NUM_BUCKETS - 2) / _PER_DECADE)


@dataclass(kw_only=True, slots=True)
class Tally:
    """Calls of one kind: how many, where their time went, and how long they took."""

    num: int = 0
    stages_s: list[float] = field(default_factory=lambda: [0.0] * 5)
    """Sums of queue, transfer, run, encode and total."""
    buckets: list[int] = field(default_factory=lambda: [0] * NUM_BUCKETS)
    """Calls by their total time."""

    def add(self, timings: Timings) -> None:
        self.num += 1
        stages = self.stages_s
        stages[0] += timings.queue_s
        stages[1] += timings.transfer_s
        stages[2] += timings.run_s
        stages[3] += timings.encode_s
        stages[4] += timings.total_s
        self.buckets[bucket_of(timings.total_s)] += 1

    def copy(self) -> Tally:
        return Tally(num=self.num, stages_s=list(self.stages_s), buckets=list(self.buckets))

    def merge(self, other: Tally) -> None:
        self.num += other.num
        for index, seconds in enumerate(other.stages_s):
            self.stages_s[index] += seconds
        for index, num in enumerate(other.buckets):
            self.buckets[index] += num


def merged(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for each in tallies:
        total.merge(each)
    return total


def quantile_s(buckets: Sequence[int], share: float) -> float | None:
    """The duration that this share of the calls did not exceed, as well as buckets can tell it:
    within a bucket calls are taken to be spread evenly on the logarithmic scale. None for none."""
    num = sum(buckets)
    if num == 0:
        return None
    rank = max(share * num, 1e-9)
    below = 0
    for bucket, here in enumerate(buckets):
        if below + here >= rank:
            if bucket in (0, NUM_BUCKETS - 1):
                return bucket_end_s(bucket)
            inside = (rank - below) / here
            return bucket_end_s(bucket - 1) * 10 ** (inside / _PER_DECADE)
        below += here
    raise AssertionError("the last bucket holds the last call")


class Seen(NamedTuple):
    """One call that ended lately, for people to look at. A named tuple, because one is made for
    every call and a frozen dataclass takes ten times as long."""

    at_s: float
    """Seconds since 1970."""
    tool: str
    outcome: Status
    reason: str
    timings: Timings
    text: str
    """Beginning of the reply."""
    image: ToolImage | None = None
    """What the call looked at; only while somebody watches."""
    held: ToolValue | Stored[ToolValue] | None = None
    kept_bytes: int = 0
    """Size of the arrays of ``held``."""


class Second(NamedTuple):
    """Calls that ended in one second since 1970."""

    second: int
    ok: int
    refused: int
    failed: int


class Meter:
    """Counts the calls of one program. Safe for threads."""

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)
        self._lock = threading.Lock()
        self._tallies: dict[Key, Tally] = {}
        self._recent: deque[Seen] = deque(maxlen=NUM_RECENT)
        self._seconds: dict[int, dict[Status, int]] = {}
        self.watched = False
        """Whether somebody looks at recent calls; only then are their pictures kept."""

    def add(self, call: ToolCall, result: ToolResult, images: Sequence[ToolImage]) -> None:
        """Count a call that has ended."""
        tool = call.name if call.name in self._tools else UNKNOWN_TOOL
        timings = result.timings
        text = result.text[:_SHORT]
        seen = Seen(time.time(), tool, result.status, result.reason, timings, text)
        if self.watched:
            seen = _with_picture(seen, call, result, images)
        key = Key(tool, result.status, result.reason)
        with self._lock:
            tally = self._tallies.get(key)
            if tally is None:
                tally = self._first(key)
            tally.add(timings)
            self._recent.append(seen)
            second = self._seconds.get(int(seen.at_s))
            if second is None:
                second = self._next_second(int(seen.at_s))
            second[result.status] += 1

    def tallies(self) -> dict[Key, Tally]:
        """All counts since the start, as they are now."""
        with self._lock:
            return {key: tally.copy() for key, tally in self._tallies.items()}

    def take_recent(self) -> list[Seen]:
        """The last calls that were not taken yet, oldest first."""
        with self._lock:
            taken = list(self._recent)
            self._recent.clear()
        return taken

    def take_seconds(self) -> tuple[Second, ...]:
        """How many calls ended in each second, where that was not taken yet."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return tuple(Second(second, **nums) for second, nums in taken.items())

    def _next_second(self, second: int) -> dict[Status, int]:
        while len(self._seconds) >= _MOST_SECONDS:
            # Nobody takes them, as in a program without replicas.
            del self._seconds[next(iter(self._seconds))]
        return self._seconds.setdefault(second, {"ok": 0, "refused": 0, "failed": 0})

    def _first(self, key: Key) -> Tally:
        alike = sum(key[:2] == other[:2] for other in self._tallies)
        if alike >= _MOST_REASONS:
            key = key._replace(reason=OTHER_REASONS)
        return self._tallies.setdefault(key, Tally())


def _with_picture(
    seen: Seen, call: ToolCall, result: ToolResult, images: Sequence[ToolImage]
) -> Seen:
    """The same with what is needed to draw it: the picture that the call named, else the one that
    it brought, else the last."""
    named = call.arguments.get("image_index")
    image = images[-1] if images else None
    if isinstance(named, int) and 0 <= named < len(images):
        image = images[named]
    elif result.images:
        image = result.images[0]
    kept = sum(getattr(each.value, "nbytes", 0) for each in result.variables)
    held = result.held if result.status == "ok" else None
    return seen._replace(image=image, held=held, kept_bytes=kept)
