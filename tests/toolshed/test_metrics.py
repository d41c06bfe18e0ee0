"""Counts lose nothing and stay small; quantiles are as good as their buckets."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolshed.fake_tools import picture
from toolshed.metrics import (
    NUM_BUCKETS,
    NUM_RECENT,
    UNKNOWN_TOOL,
    Key,
    Meter,
    Tally,
    bucket_end_s,
    bucket_of,
    merged,
    quantile_s,
)
from toolshed.types import Json, Timings, ToolCall, ToolResult

WIDTH = 10**0.1


def ended(
    name: str = "a.b", reason: str = "", total_s: float = 0.01, **arguments: Json
) -> tuple[ToolCall, ToolResult]:
    call = ToolCall(id="1", name=name, arguments=arguments)
    result = ToolResult(
        call_id="1",
        name=name,
        status="refused" if reason else "ok",
        reason=reason,
        timings=Timings(run_s=total_s / 2, total_s=total_s),
    )
    return call, result


@given(st.floats(1.001e-4, 999.0))
def test_a_duration_is_in_the_bucket_that_holds_it(seconds: float) -> None:
    bucket = bucket_of(seconds)
    assert bucket_end_s(bucket - 1) <= seconds * 1.000001
    assert seconds <= bucket_end_s(bucket) * 1.000001


def test_what_lies_beyond_has_a_bucket() -> None:
    assert bucket_of(0.0) == bucket_of(1e-9) == 0
    assert bucket_of(1e9) == bucket_of(1001.0) == NUM_BUCKETS - 1


@given(st.lists(st.floats(2e-4, 900.0), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_quantiles_are_within_a_bucket_of_the_truth(durations: list[float], share: float) -> None:
    buckets = [0] * NUM_BUCKETS
    for each in durations:
        buckets[bucket_of(each)] += 1
    found = quantile_s(buckets, share)
    true = float(np.quantile(durations, share, method="inverted_cdf"))
    assert found is not None
    assert true / WIDTH * 0.9999 <= found <= true * WIDTH * 1.0001


def test_nothing_has_no_quantile() -> None:
    assert quantile_s([0] * NUM_BUCKETS, 0.5) is None


def test_threads_lose_no_call() -> None:
    meter = Meter(["a.b"])

    def add() -> None:
        for _ in range(2000):
            meter.add(*ended(), ())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (tally,) = meter.tallies().values()
    assert tally.num == sum(tally.buckets) == 8000
    assert tally.stages_s[2] == pytest.approx(8000 * 0.005)
    assert sum(each.ok for each in meter.take_seconds()) == 8000
    assert len(meter.take_recent()) == NUM_RECENT
    assert meter.take_recent() == [] and meter.take_seconds() == ()


def test_invented_names_and_endless_reasons_are_counted_together() -> None:
    meter = Meter(["a.b"])
    for number in range(500):
        meter.add(*ended(f"made.up_{number}", "unknown_tool"), ())
        meter.add(*ended("a.b", f"reason {number}"), ())
    tallies = meter.tallies()
    assert tallies[Key(UNKNOWN_TOOL, "refused", "unknown_tool")].num == 500
    assert len(tallies) < 40
    assert merged(tallies.values()).num == 1000


def test_pictures_are_kept_only_while_somebody_watches() -> None:
    meter = Meter(["a.b"])
    images = [picture(1), picture(2)]
    meter.add(*ended(image_index=0), images)
    meter.watched = True
    meter.add(*ended(image_index=0), images)
    meter.add(*ended(image_index=7), images)
    meter.add(*ended(), ())
    unseen, first, last, none = meter.take_recent()
    assert unseen.image is None
    assert first.image is images[0] and last.image is images[1] and none.image is None


def test_a_copy_does_not_change() -> None:
    meter = Meter(["a.b"])
    meter.add(*ended(), ())
    before = meter.tallies()
    meter.add(*ended(), ())
    assert merged(before.values()).num == 1
    assert Tally().copy() == Tally()
