"""Tells once a second what this program's calls cost: to Ray's metrics, and to the control actor.

In a thread of its own, because a program's event loop may stand still for minutes. Nothing of it is
on the way of a call.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolshed.errors import ToolFailure
from toolshed.metrics import Key, Meter, Seen, Tally, bucket_end_s
from toolshed.serving.pool import Pool
from toolshed.serving.reports import Load, Recent, Report
from toolshed.types import Stored, ToolValue

_PERIOD_S = 1.0
_ANSWER_S = 5.0
_DRAW_S = 0.2
"""Of each second goes into pictures at most, and only while somebody watches."""
_MOST_TOLD, _MOST_FAILED = 16, 6
"""Calls of one second that are told; all are counted."""
_LARGEST_FETCHED = 16 << 20
"""Larger values are not brought here to be drawn."""
_BOUNDARIES_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Reporter:
    """Reports for one program until it is closed."""

    def __init__(
        self, control: Any, meter: Meter, pools: Mapping[str, Pool], group_of: Mapping[str, str]
    ) -> None:
        self._control, self._meter, self._pools = control, meter, pools
        self._caller = uuid.uuid4().hex
        self._measures = RayMeasures(group_of)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="toolshed reports", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the last counts."""
        self._closed.set()
        self._thread.join(2 * _ANSWER_S)

    def _run(self) -> None:
        is_closing = False
        while not is_closing:
            is_closing = self._closed.wait(_PERIOD_S)
            report = self._report(is_closing)
            self._measures.tell(report.tallies, report.loads)
            if not self._push(report):
                return

    def _report(self, is_closing: bool) -> Report:
        # First what ended lately, so that it is among what is counted.
        recent = tuple(_recent(self._meter.take_recent()))
        return Report(
            caller=self._caller,
            program=_PROGRAM,
            tallies=self._meter.tallies(),
            seconds=self._meter.take_seconds(),
            loads={key: pool.load() for key, pool in self._pools.items()},
            recent=recent,
            closing=is_closing,
        )

    def _push(self, report: Report) -> bool:
        """Whether there may be a next report."""
        import ray

        try:
            told = self._control.push.remote(report)
            self._meter.watched = bool(ray.get(told, timeout=_ANSWER_S))
        except ray.exceptions.RayError:
            # Ray is starting the control actor again; the counts are told with the next report.
            self._meter.watched = False
        except (ValueError, RuntimeError, SystemError):
            # Ray is shut down.
            return False
        return True


class RayMeasures:
    """Ray's metrics of this program's calls; exported where the nodes run Ray's dashboard agent."""

    def __init__(self, group_of: Mapping[str, str]) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = ("tool", "outcome", "group")
        self._group_of = group_of
        self._told: dict[Key, Tally] = {}
        self._calls = Counter("toolshed_calls", "Calls of tools that have ended.", tags)
        self._seconds = Histogram(
            "toolshed_call_seconds", "How long calls took.", _BOUNDARIES_S, tags
        )
        self._load = Gauge(
            "toolshed_load", "Calls that wait for replicas or are with them.", ("group", "what")
        )

    def tell(self, tallies: Mapping[Key, Tally], loads: Mapping[str, Load]) -> None:
        """Add what has come since the last time."""
        for key, tally in tallies.items():
            told = self._told.get(key, Tally())
            if tally.num > told.num:
                word = self._group_of.get(key.tool.partition(".")[0], "none")
                tags = {"tool": key.tool, "outcome": key.outcome, "group": word}
                self._calls.inc(tally.num - told.num, tags)
                for bucket, num in enumerate(tally.buckets):
                    for _ in range(num - told.buckets[bucket]):
                        self._seconds.observe(bucket_end_s(bucket), tags)
        self._told = dict(tallies)
        for group, load in loads.items():
            for what, num in load._asdict().items():
                self._load.set(num, {"group": group, "what": what})


def _recent(seen: Sequence[Seen]) -> list[Recent]:
    """What is told of the last calls, oldest first, drawn as long as there is time."""
    until_s = time.perf_counter() + _DRAW_S
    told = []
    for each in _chosen(seen):
        picture = _picture(each) if time.perf_counter() < until_s else b""
        told.append(
            Recent(
                each.at_s, each.tool, each.outcome, each.reason, each.timings, each.text, _PROGRAM,
                picture,
            )
        )  # fmt: skip
    return sorted(told, key=lambda each: each.at_s)


def _chosen(seen: Sequence[Seen]) -> list[Seen]:
    """The calls of a busy second that people get to see: failures, one of each kind, the newest."""
    newest = list(reversed(seen))
    failed = [each for each in newest if each.outcome == "failed"][:_MOST_FAILED]
    kinds = {(each.tool, each.outcome): each for each in seen}
    chosen = {id(each): each for each in (*failed, *kinds.values(), *newest)}
    return list(chosen.values())[:_MOST_TOLD]


def _picture(seen: Seen) -> bytes:
    if seen.image is None and seen.held is None:
        return b""
    from toolshed.thumbnails import thumbnail

    try:
        return thumbnail(seen.image, _fetched(seen))
    except (ValueError, OverflowError, ToolFailure):
        # A value that cannot be drawn, or is gone: the call is shown without a picture.
        return b""


def _fetched(seen: Seen) -> ToolValue | None:
    if isinstance(seen.held, Stored):
        return seen.held.fetch() if seen.kept_bytes <= _LARGEST_FETCHED else None
    return seen.held


_PROGRAM = f"{os.uname().nodename}:{os.getpid()} {Path(sys.argv[0] or 'python').name}"
