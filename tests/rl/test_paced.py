"""Simulated tools and engine: how long they take, whose turn it is, and what is run at all."""

from __future__ import annotations

import asyncio

import pytest

from rl.scheduling.virtual_time import run_virtual
from scripts.bench.rollout_simulation import Setting, play
from scripts.bench.rollout_trace import Call, Trace, Traced, calibrated, many_turns
from toolshed.backend import Answer, Request
from toolshed.caching import RememberingHost
from toolshed.pacing import PacedHost
from toolshed.types import IndexedValue


class Prompt:
    """Answers at once."""

    async def call(self, request: Request) -> Answer:
        return Answer(text=request.method, value=IndexedValue(u=0.0, v=0.0, value=0.0, kind=""))

    async def aclose(self) -> None:
        pass

    def close(self) -> None:
        pass


def request(what: str, rank: int = 0) -> Request:
    return Request(family="f", method="m", arguments={"what": what}, rank=rank)


def test_calls_share_the_replicas_and_the_smaller_rank_goes_first() -> None:
    async def main() -> None:
        host = PacedHost(Prompt(), replicas={"f": 2}, service_s=lambda request: 3.0)
        loop = asyncio.get_running_loop()
        ended: list[tuple[int, float, float]] = []

        async def ask(rank: int) -> None:
            answer = await host.call(request(str(rank), rank))
            assert answer.run_s == pytest.approx(3.0)
            ended.append((rank, loop.time(), answer.queue_s))

        await asyncio.gather(*(ask(rank) for rank in (9, 8, 3, 1, 2)))
        assert ended == [(9, 3, 0), (8, 3, 0), (1, 6, 3), (2, 6, 3), (3, 9, 6)]
        assert host.busy_s == {"f": 15.0}

    run_virtual(main())


def test_a_call_that_is_given_up_frees_its_replica() -> None:
    async def main() -> None:
        host = PacedHost(Prompt(), replicas={"f": 1}, service_s=lambda request: 100.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await host.call(request("a"))
        await host.call(request("b"))
        assert asyncio.get_running_loop().time() == 105

    run_virtual(main())


def test_equal_calls_of_siblings_are_run_once_and_cost_one_service() -> None:
    async def main() -> None:
        host = PacedHost(Prompt(), replicas={"f": 4}, service_s=lambda request: 3.0)
        remembering = RememberingHost(host, ["f"])
        await asyncio.gather(*(remembering.call(request("ab"[i % 2])) for i in range(10)))
        assert sorted(host.executed.values()) == [1, 1]
        assert asyncio.get_running_loop().time() == 3

    run_virtual(main())


def two_trajectories() -> Trace:
    """One calls twice and thinks for a second before each turn, the other once and thinks long."""
    quick = (Call(family="index", what="a", seconds=4.0),)
    again = (Call(family="index", what="b", seconds=1.0),)
    slow = (Call(family="index", what="c", seconds=2.0),)
    first = Traced(task="t", decode_s=(1.0, 1.0, 1.0), rounds=(quick, again))
    second = Traced(task="t", decode_s=(6.5, 3.0), rounds=(slow,))
    return Trace(trajectories=(first, second), num_siblings=2, replicas={"index": 1})


def test_a_trace_takes_what_it_says_with_and_without_a_barrier() -> None:
    trace = two_trajectories()
    # The first's second call runs from 6 to 7, so that the other's, made at 6.5, waits for it.
    assert trace.bound_s() == 11.5
    assert play([trace], Setting()).makespan_s == pytest.approx(12)
    # All decode until 6.5, call until 12.5 (4 and 2 s), decode until 15.5; one calls and ends.
    assert play([trace], Setting(per_turn_barrier=True)).makespan_s == pytest.approx(17.5)
    steps = [trace, trace, trace]
    assert play(steps, Setting(update_s=20.0)).makespan_s == pytest.approx(3 * 32)
    ahead = play(steps, Setting(update_s=20.0, max_staleness=1))
    assert ahead.makespan_s < 3 * 32 - 20 and 0 < ahead.staleness <= 1


def test_the_benchmarks_bars_hold_on_one_seed() -> None:
    trace = calibrated(0)
    assert len(trace.trajectories) == 320
    ours = play([trace], Setting()).makespan_s
    assert trace.bound_s() <= ours <= 1.12 * trace.bound_s()
    assert play([trace], Setting(per_turn_barrier=True)).makespan_s >= 1.35 * ours
    distinct = len({call.what for call in trace.calls})
    assert play([trace], Setting(remember=True)).num_executions == distinct
    many = many_turns(0)
    ours = play([many], Setting()).makespan_s
    assert many.bound_s() <= ours
    assert play([many], Setting(per_turn_barrier=True)).makespan_s >= 2 * ours
