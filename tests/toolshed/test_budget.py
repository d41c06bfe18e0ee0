"""Places to run in: never more at a time than there are, whichever loops ask, and none is lost."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import pytest

from tests.toolshed.threads import joined, started
from toolshed.budget import Budget, Places, current_budget, spending
from toolshed.errors import ToolFailure


def budget(seconds: float = 60.0, max_queue: int = 4096) -> Budget:
    return Budget.of(seconds, max_queue, "rollout")


def test_loops_of_several_threads_share_the_places() -> None:
    places, lock = Places(3), threading.Lock()
    running: set[object] = set()
    seen = Counter[str]()

    async def one(chance: random.Random) -> None:
        await places.take(budget(0.001 if chance.random() < 0.3 else 60.0))
        me = object()
        with lock:
            running.add(me)
            seen["too many"] += len(running) > 3
        try:
            await asyncio.sleep(0.004 * chance.random())
        finally:
            with lock:
                running.remove(me)
            places.give_back()

    async def all_of(seed: int) -> None:
        chance = random.Random(seed)
        tasks = [asyncio.create_task(one(chance)) for _ in range(40)]
        await asyncio.sleep(0.02)
        for each in tasks[::7]:
            each.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        with lock:
            seen.update("ok" if each is None else type(each).__name__ for each in ends)

    joined([started(lambda seed=seed: asyncio.run(all_of(seed))) for seed in range(6)])  # type: ignore[misc]
    assert set(seen) <= {"ok", "ToolFailure", "CancelledError", "too many"} and not seen["too many"]
    assert seen["ok"] and seen["ToolFailure"]

    async def three() -> None:
        for _ in range(3):
            await places.take(budget(0.0))
        with pytest.raises(ToolFailure, match="budget"):
            await places.take(budget(0.0))
        with pytest.raises(ToolFailure, match="0 calls wait already"):
            await places.take(budget(max_queue=0))

    asyncio.run(three())


def test_a_budget_is_that_of_the_call_at_work() -> None:
    assert current_budget().seconds == 60.0
    with spending(budget(3.0)):
        assert current_budget().seconds == 3.0 and 2.0 < current_budget().left_s <= 3.0
    assert current_budget().seconds == 60.0
