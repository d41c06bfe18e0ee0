"""Routing in the caller: who gets a call, who waits, who is left alone; from several threads."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter

import pytest

from tests.toolshed.pools import idle, members, pool, run, settled, take
from tests.toolshed.threads import joined, started
from toolshed.backend import Priority
from toolshed.errors import ToolFailure
from toolshed.serving.members import Member
from toolshed.serving.pool import Pool


def test_the_replica_with_the_fewest_calls_gets_the_next() -> None:
    async def work() -> None:
        tools = pool(3, width=3)
        first = [await take(tools) for _ in range(9)]
        assert Counter(each.name for each in first[:3]) == {"m0": 1, "m1": 1, "m2": 1}
        assert Counter(each.name for each in first) == {"m0": 3, "m1": 3, "m2": 3}
        tools.release(first[4])
        assert await take(tools) is first[4]

    run(work())


def test_a_full_pool_makes_calls_wait_in_order_and_short_work_is_sent_ahead() -> None:
    async def work() -> None:
        tools = pool(1, width=1, most_ahead=4)
        (only,) = tools.members
        await take(tools)
        waiting = [asyncio.create_task(take(tools)) for _ in range(3)]
        await settled()
        assert tools.num_waiting == 3, "nothing is known of how long a call takes"
        for _ in range(20):
            tools.went_well(only, "m", 0.001)
        tools.release(only)
        await settled()
        assert [each.done() for each in waiting] == [True, True, True] and only.num_running == 3
        for _ in range(20):
            tools.went_well(only, "m", 1.0)
        late = asyncio.create_task(take(tools))
        await settled()
        assert not late.done(), "long work waits here"
        for _ in range(4):
            tools.release(only)
            await settled()
        assert late.done() and idle(tools)

    run(work())


def test_neither_class_starves() -> None:
    async def work() -> list[str]:
        tools, order = pool(1), list[str]()
        (only,) = tools.members
        await take(tools)

        async def call(priority: Priority) -> None:
            await take(tools, priority=priority)
            order.append(priority[0])
            tools.release(only)

        calls = [asyncio.create_task(call("rollout")) for _ in range(3)]
        calls += [asyncio.create_task(call("interactive")) for _ in range(9)]
        await settled()
        tools.release(only)
        await asyncio.gather(*calls)
        assert idle(tools)
        return order

    assert "".join(run(work())) == "iiiriiiriiir"


def test_a_full_queue_is_busy_at_once() -> None:
    async def work() -> None:
        tools = pool(1, max_queue=2)
        held = await take(tools)
        waiting = [asyncio.create_task(take(tools)) for _ in range(2)]
        await settled()
        began_s = time.perf_counter()
        with pytest.raises(ToolFailure, match="busy: tools: 2 calls wait already"):
            await take(tools)
        assert time.perf_counter() - began_s < 5
        for _ in range(3):
            tools.release(held)
            await settled()
        await asyncio.gather(*waiting)
        assert idle(tools)

    run(work())


def test_no_replica_by_the_deadline_is_busy_and_says_what_was_missing() -> None:
    async def work() -> None:
        tools = pool(1)
        held = await take(tools)
        with pytest.raises(ToolFailure, match="every replica is busy"):
            await take(tools, seconds=0.05)
        tools.down(held)
        with pytest.raises(ToolFailure, match="no replica is ready"):
            await take(tools, seconds=0.05)
        assert tools.num_waiting == 0
        waiting = asyncio.create_task(take(tools))
        await settled()
        (fresh,) = members(1)
        tools.update([fresh], None)
        assert await waiting is fresh, "its replacement is used as soon as it is there"

    run(work())


def test_when_none_will_come_back_everybody_is_told_at_once_and_nothing_piles_up() -> None:
    async def work() -> None:
        tools = pool(1)
        await take(tools)
        waiting = [asyncio.create_task(take(tools)) for _ in range(3)]
        await settled()
        lost = ToolFailure("replica_died", "given up")
        tools.update([], lost)
        told = await asyncio.gather(*waiting, return_exceptions=True)
        for _ in range(3):
            with pytest.raises(ToolFailure, match="replica_died: given up"):
                await take(tools)
        assert [str(each) for each in told] == ["replica_died: given up"] * 3
        assert lost.__traceback__ is None, "an error that is kept must not keep frames"

    run(work())


@pytest.mark.parametrize("when", ["waiting", "given"])
def test_a_cancelled_call_gives_its_replica_back(when: str) -> None:
    async def work() -> None:
        tools = pool(1)
        held = await take(tools)
        waiting = asyncio.create_task(take(tools))
        await settled()
        if when == "given":
            tools.release(held)
        waiting.cancel()
        if when == "waiting":
            tools.release(held)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert idle(tools)
        assert await take(tools) is held

    run(work())


def test_a_call_cancelled_in_the_moment_of_its_failure_is_cancelled() -> None:
    async def work() -> None:
        tools = pool(1)
        await take(tools)
        waiting = asyncio.create_task(take(tools))
        await settled()
        tools.update([], ToolFailure("replica_died", "given up"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work())


def test_a_retry_avoids_the_replica_that_failed_unless_it_is_the_only_one() -> None:
    async def work() -> None:
        tools = pool(2, width=10)
        first, second = tools.members
        assert {await take(tools, avoid=first) for _ in range(5)} == {second}
        tools.down(second)
        assert await take(tools, avoid=first) is first

    run(work())


def test_a_retry_that_waits_for_another_replica_holds_up_nobody() -> None:
    async def work() -> None:
        tools = pool(2)
        first, second = await take(tools), await take(tools)
        retry = asyncio.create_task(take(tools, avoid=first))
        await settled()
        others = [asyncio.create_task(take(tools)) for _ in range(2)]
        await settled()
        tools.release(first)
        await settled()
        assert [retry.done(), others[0].done(), others[1].done()] == [False, True, False]
        tools.release(second)
        await settled()
        assert retry.done() and await retry is second, "it kept its place"
        tools.release(first)
        assert await others[1] is first

    run(work())


def test_replicas_that_said_full_are_asked_again_soon() -> None:
    async def work() -> None:
        tools = pool(1)
        (only,) = tools.members
        tools.full(only)
        waiting = asyncio.create_task(take(tools))
        await settled()
        assert not waiting.done()
        assert await waiting is only

    run(work())


def test_a_lingering_call_occupies_its_replica_until_it_ends() -> None:
    async def work() -> None:
        tools = pool(2)
        hung = await take(tools)
        tools.occupied(hung)
        tools.release(hung)
        assert {await take(tools)} == set(tools.members) - {hung}
        late = asyncio.create_task(take(tools))
        await settled()
        assert not late.done()
        # Ray tells of it in a thread of its own.
        joined([started(lambda: tools.release(hung))])
        assert await late is hung

    run(work())


def test_two_loops_and_their_threads_share_a_pool() -> None:
    """Every call gets a replica, none has more than its width, all are given back."""
    tools, lock = pool(3, width=2, max_queue=1000), threading.Lock()
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()

    async def call(chance: random.Random) -> None:
        try:
            seconds = chance.choice([60.0, 60.0, 0.01])
            member = await take(tools, priority="interactive", seconds=seconds)
        except ToolFailure as failure:
            outcomes[failure.reason] += 1
            return
        with lock:
            running[member.name] += 1
            most[member.name] = max(most[member.name], running[member.name])
        try:
            await asyncio.sleep(chance.random() * 0.004)
            outcomes["ok"] += 1
        finally:
            with lock:
                running[member.name] -= 1
            tools.release(member)

    async def many(seed: int) -> None:
        chance = random.Random(seed)
        calls = [asyncio.create_task(call(chance)) for _ in range(150)]
        for each in chance.sample(calls, 30):
            await asyncio.sleep(0.001)
            outcomes["cancelled"] += each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    joined([started(lambda seed=seed: asyncio.run(many(seed))) for seed in range(3)])  # type: ignore[misc]
    assert sum(outcomes.values()) == 450 and outcomes["ok"] > 200
    assert max(most.values()) == 2 and idle(tools)


def test_a_loop_that_ended_takes_no_replica_with_it() -> None:
    tools = pool(1)
    held = run(take(tools))

    async def impatient() -> None:
        calls = [asyncio.create_task(take(tools)) for _ in range(3)]
        await settled()
        assert tools.num_waiting == 3 and not any(each.done() for each in calls)

    asyncio.run(impatient())
    assert tools.num_waiting == 0
    tools.release(held)
    assert idle(tools) and run(take(tools)) is held


class _Call:
    """A call of the random walk below."""

    def __init__(self, task: asyncio.Task[Member]) -> None:
        self.task = task
        self.is_over = False


@pytest.mark.parametrize("stateful", [False, True])
def test_whatever_happens_every_call_ends_once_and_no_slot_is_lost(stateful: bool) -> None:
    for seed in range(40):
        run(_random_walk(random.Random(seed), stateful))


async def _random_walk(chance: random.Random, stateful: bool) -> None:
    tools = pool(3, width=2, max_queue=5, stateful=stateful)
    everyone = list(tools.members)
    calls: list[_Call] = []
    for _ in range(60):
        step = chance.choice(["take"] * 4 + ["end"] * 3 + ["cancel", "down", "update", "wrong"])
        member = chance.choice(everyone)
        open_calls = [each for each in calls if not each.is_over]
        if step == "take":
            priority: Priority = chance.choice(["interactive", "rollout"])
            avoid = chance.choice([None, None, member])
            session = chance.choice(["", "a", "b"])
            work = take(tools, priority=priority, session=session, avoid=avoid)
            calls.append(_Call(asyncio.create_task(work)))
        elif step == "end" and open_calls:
            _end(tools, chance.choice(open_calls))
        elif step == "cancel" and open_calls:
            chance.choice(open_calls).task.cancel()
        elif step == "down":
            tools.down(member)
        elif step == "update":
            tools.update(chance.sample(everyone, chance.randint(1, 3)), None)
        elif step == "wrong":
            tools.went_wrong(member)
        await asyncio.sleep(0)
    tools.update(everyone, None)
    for _ in range(400):
        await asyncio.sleep(0.01 if any(not each.task.done() for each in calls) else 0)
        for each in calls:
            if not each.is_over:
                _end(tools, each)
        if all(each.is_over for each in calls):
            break
    assert all(each.is_over for each in calls), "a call waits for ever"
    assert idle(tools)


def _end(tools: Pool, call: _Call) -> None:
    if call.task.done():
        call.is_over = True
        if not call.task.cancelled() and call.task.exception() is None:
            tools.release(call.task.result())
