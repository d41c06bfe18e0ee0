"""Sessions of a stateful family: each keeps its replica, and waits for that one alone."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.toolshed.pools import pool, run, settled, take
from toolshed.backend import Priority
from toolshed.serving.pool import Pool


def test_a_session_of_a_stateful_family_keeps_its_replica() -> None:
    async def owners(tools: Pool) -> dict[str, str]:
        return {f"s{i}": (await take(tools, session=f"s{i}")).name for i in range(200)}

    async def work() -> None:
        tools = pool(4, width=1000, stateful=True)
        before = await owners(tools)
        assert before == await owners(tools)
        assert min(Counter(before.values()).values()) > 20, "sessions are spread"
        gone = tools.members[0]
        tools.down(gone)
        after = await owners(tools)
        moved = {session for session in before if before[session] != after[session]}
        assert moved == {each for each, name in before.items() if name == gone.name}

    run(work())


def test_a_full_replica_of_one_session_holds_up_no_other() -> None:
    async def work() -> None:
        tools = pool(2, width=100, stateful=True)
        own = {(await take(tools, session=f"s{i}")).name: f"s{i}" for i in range(20)}
        busy, other = tools.members
        tools.full(busy)
        blocked = asyncio.create_task(take(tools, session=own[busy.name]))
        free = asyncio.create_task(take(tools, session=own[other.name]))
        await settled()
        assert (blocked.done(), free.done()) == (False, True)
        assert await blocked is busy, "it is asked again soon"

    run(work())


def test_calls_of_sessions_wait_for_their_own_replica_and_urgent_ones_go_first() -> None:
    async def work() -> None:
        tools, order = pool(2, stateful=True), list[str]()
        first, other = tools.members
        owners = {}
        for name in map("s{}".format, range(20)):
            owners[name] = await take(tools, session=name)
            tools.release(owners[name])
        mine = [name for name, owner in owners.items() if owner is first]
        await take(tools, session=mine[0])

        async def call(session: str, priority: Priority) -> None:
            member = await take(tools, session=session, priority=priority)
            order.append(priority[0])
            tools.release(member)

        waiting = [asyncio.create_task(call(name, "rollout")) for name in mine[1:3]]
        waiting.append(asyncio.create_task(call(mine[3], "interactive")))
        await settled()
        assert (first.num_running, tools.num_waiting) == (1, 3)
        assert await take(tools, session=next(n for n in owners if owners[n] is other)) is other
        tools.release(first)
        await asyncio.gather(*waiting)
        assert order == ["i", "r", "r"]

    run(work())
