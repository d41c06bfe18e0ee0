"""The clock of simulations: timers fire in order and on time, and nothing is waited for."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.scheduling.virtual_time import run_virtual


@given(st.lists(st.floats(0, 1e5), max_size=30))
def test_sleepers_wake_in_order_and_at_their_time(seconds: list[float]) -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        woken: list[tuple[float, float]] = []

        async def sleeper(delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            woken.append((delay_s, loop.time()))

        await asyncio.gather(*(sleeper(each) for each in seconds))
        return woken

    woken = run_virtual(main())
    assert [delay for delay, _ in woken] == sorted(seconds)
    assert all(at == pytest.approx(delay, abs=1e-6) for delay, at in woken)


def test_a_day_takes_no_time_and_timeouts_are_met() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(86400)
        await asyncio.sleep(86400)
        return asyncio.get_running_loop().time()

    began_s = time.perf_counter()
    assert run_virtual(main()) == pytest.approx(90000)
    assert time.perf_counter() - began_s < 5


def test_tasks_that_wait_for_each_other_for_ever_are_told_so() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="every task waits"):
        run_virtual(main())
