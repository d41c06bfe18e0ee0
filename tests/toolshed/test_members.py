"""Breakers: a replica that fails or crawls is left alone, and tried again after a pause."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.toolshed.pools import members, pool, run, take
from toolshed.serving.members import Breaker, Durations, Member
from toolshed.serving.pool import Pool


def opened(tools: Pool, member: Member) -> None:
    for _ in range(3):
        tools.went_wrong(member)


def test_a_sick_replica_is_left_alone_and_tried_again_after_a_pause() -> None:
    async def work() -> None:
        tools = pool(2, width=2)
        sick, sound = tools.members
        opened(tools, sick)
        assert {await take(tools) for _ in range(2)} == {sound}
        began_s = time.monotonic()
        third, fourth = [asyncio.create_task(take(tools)) for _ in range(2)]
        # The sound one stays busy: the end of the pause alone can help.
        assert await third is sick and time.monotonic() - began_s > 0.8
        await asyncio.sleep(0.1)
        assert not fourth.done(), "half open: one call at a time"
        tools.went_well(sick, "m", 0.001)
        tools.release(sick)
        assert await fourth is sick and await take(tools) is sick, "closed again"

    run(work())


def test_where_all_are_sick_they_are_used_all_the_same() -> None:
    async def work() -> None:
        tools = pool(2)
        for each in tools.members:
            opened(tools, each)
        assert {await take(tools), await take(tools)} == set(tools.members)

    run(work())


def test_breaker_opens_half_opens_and_pauses_longer_each_time() -> None:
    breaker, now_s = Breaker(), 100.0
    breaker.failed(now_s)
    breaker.failed(now_s)
    assert not breaker.is_open(now_s)
    for pause_s in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        breaker.failed(now_s)
        assert breaker.open_until_s == now_s + pause_s
        for _ in range(4):
            breaker.failed(now_s + pause_s / 2)
        assert breaker.open_until_s == now_s + pause_s, "what began before tells nothing new"
        breaker.recovered(now_s + pause_s / 2)
        now_s += pause_s
        assert not breaker.is_open(now_s) and breaker.half_open
    breaker.recovered(now_s)
    assert not breaker.half_open and breaker.num_failures == 0
    breaker.failed(now_s)
    assert not breaker.is_open(now_s), "it begins anew"


def test_a_slow_replica_is_left_alone_and_comes_back_when_it_is_fast_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("toolshed.serving.members.time.monotonic", lambda: clock[0])
    everyone = members(3)
    durations, (slow, *fast) = Durations(), everyone
    for _ in range(12):
        for each in everyone:
            durations.add(each, "m", 0.5 if each is slow else 0.05, everyone)
    assert slow.breaker.is_open(clock[0])
    assert not any(each.breaker.half_open for each in fast)
    durations.add(slow, "m", 0.5, everyone)
    assert slow.breaker.open_until_s == clock[0] + 1.0, "in flight when the pause began"
    clock[0] += 1.5
    durations.add(slow, "m", 0.5, everyone)
    assert slow.breaker.open_until_s == clock[0] + 2.0, "still slow: a longer pause"
    clock[0] += 2.5
    durations.add(slow, "m", 0.05, everyone)
    assert not slow.breaker.half_open, "one fast call tells that it recovered"


def test_different_methods_are_no_slowness_and_remembered_answers_no_speed() -> None:
    async def work() -> None:
        tools = pool(2)
        first, second = tools.members
        for _ in range(30):
            tools.went_well(first, "long", 1.0)
            tools.went_well(second, "short", 0.03)
        for _ in range(30):
            tools.went_well(first, "short", 0.0)
            tools.went_well(second, "short", 0.03)
        assert not first.breaker.half_open and not second.breaker.half_open
        assert tools.durations.recent_s > 0.01

    run(work())
