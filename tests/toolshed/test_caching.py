"""Remembered answers: one execution per distinct call, bounded memory, failures never kept."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolshed.threads import joined, started
from toolshed.arrays import ByIdentity, num_bytes
from toolshed.backend import Answer, Request
from toolshed.caching import RememberingHost
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.types import TextReply

T = TypeVar("T")


class CountingHost:
    """Answers every request with its first argument, after a moment; counts executions."""

    def __init__(self, *, fails: int = 0, seconds: float = 0.001) -> None:
        self.executed: Counter[str] = Counter()
        self.fails, self.seconds = fails, seconds

    async def call(self, request: Request) -> Answer:
        text = str(request.arguments["x"])
        self.executed[text] += 1
        await asyncio.sleep(self.seconds)
        if self.fails:
            self.fails -= 1
            raise ToolFailure("replica_died", "gone")
        if text == "refused":
            raise ToolRefusal("not_found", "nothing there")
        return Answer(text=text, value=TextReply(text=text), run_s=1.0, queue_s=1.0)

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def asked(x: object, family: str = "f") -> Request:
    return Request(family=family, method="m", arguments={"x": x})


def make(
    *, fails: int = 0, seconds: float = 0.001, max_bytes: int = 64 << 20
) -> tuple[CountingHost, RememberingHost]:
    inner = CountingHost(fails=fails, seconds=seconds)
    return inner, RememberingHost(inner, ["f"], max_bytes=max_bytes)


def many(host: RememberingHost, requests: Sequence[Request]) -> list[Answer | BaseException]:
    async def together() -> list[Answer | BaseException]:
        calls = (host.call(each) for each in requests)
        return list(await asyncio.gather(*calls, return_exceptions=True))

    return asyncio.run(together())


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.integers(0, 5), st.sampled_from(["refused", 0.5, (1, 2)]))))
def test_equal_calls_are_executed_once_however_they_arrive(values: list[object]) -> None:
    inner, host = make()
    for half in (values, values):
        outcomes = many(host, [asked(each) for each in half])
        for value, outcome in zip(half, outcomes, strict=True):
            if value == "refused":
                assert isinstance(outcome, ToolRefusal)
            else:
                assert isinstance(outcome, Answer) and outcome.text == str(value)
    assert inner.executed == Counter({str(each): 1 for each in values})


def test_other_families_are_always_executed() -> None:
    inner, host = make()
    many(host, [asked(1, "effects")] * 3)
    assert inner.executed["1"] == 3


def test_a_remembered_answer_took_no_time() -> None:
    _, host = make()
    many(host, [asked(1)])
    (again,) = many(host, [asked(1)])
    assert isinstance(again, Answer) and (again.run_s, again.queue_s) == (0, 0)


def test_failures_are_not_remembered_and_shared_only_by_those_who_waited() -> None:
    inner, host = make(fails=1)
    first = many(host, [asked(1)] * 3)
    assert all(isinstance(each, ToolFailure) for each in first) and inner.executed["1"] == 1
    (again,) = many(host, [asked(1)])
    assert isinstance(again, Answer)


def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    inner, host = make()

    async def work() -> Answer:
        first, second = [asyncio.create_task(host.call(asked(1))) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(work()).text == "1" and inner.executed["1"] == 1


def test_memory_is_bounded_and_the_least_used_goes_first() -> None:
    inner, host = make(max_bytes=3 * 1024)
    for value in (1, 2, 3, 1, 4, 1, 2):
        many(host, [asked(value)])
    assert inner.executed == {"1": 1, "2": 2, "3": 1, "4": 1}
    assert host._answers.num_bytes == 1024 * len(host._answers) <= 3 * 1024


def test_loops_of_several_threads_do_not_spoil_the_count_of_bytes() -> None:
    _, host = make(max_bytes=5 * 1024)
    outcomes: list[Answer | BaseException] = []

    def work(seed: int) -> None:
        for turn in range(30):
            outcomes.extend(many(host, [asked((value * seed + turn) % 8) for value in range(8)]))

    joined([started(lambda seed=seed: work(seed)) for seed in (1, 3, 5, 7, 1, 3, 5, 7)])  # type: ignore[misc]
    assert len(outcomes) == 8 * 30 * 8 and all(isinstance(each, Answer) for each in outcomes)
    assert host._answers.num_bytes == 1024 * len(host._answers) == 5 * 1024
    assert host._answers.num_flights == 0


@contextmanager
def standing_loop() -> Iterator[Callable[[Coroutine[object, object, T]], T]]:
    """A loop that stands still between calls, as those of ``run_now`` do."""
    with asyncio.Runner() as runner:
        yield runner.get_loop().run_until_complete


def test_equal_calls_of_several_threads_are_executed_once() -> None:
    inner, host = make(seconds=0.2)
    outcomes: list[Answer] = []

    def work() -> None:
        with standing_loop() as run:
            outcomes.extend(run(host.call(asked(value))) for value in range(3))

    joined([started(work) for _ in range(8)])
    assert len(outcomes) == 24
    assert inner.executed == {"0": 1, "1": 1, "2": 1}


def test_those_of_other_loops_share_a_failure_and_a_refusal() -> None:
    inner, host = make(fails=1, seconds=0.5)
    outcomes: list[Answer | BaseException] = []
    start = threading.Barrier(4)

    def work(value: object) -> None:
        start.wait(60)
        outcomes.extend(many(host, [asked(value)]))

    for value, kind in ((1, ToolFailure), ("refused", ToolRefusal)):
        threads = [started(lambda value=value: work(value)) for _ in range(4)]  # type: ignore[misc]
        joined(threads)
        assert len(outcomes) == 4 and all(isinstance(each, kind) for each in outcomes)
        assert inner.executed[str(value)] == 1
        outcomes.clear()


@pytest.mark.parametrize("loop_goes_on", [False, True])
def test_a_loop_that_gives_up_leaves_its_call_to_the_others(loop_goes_on: bool) -> None:
    inner, host = make(seconds=1.0)
    asking = threading.Event()
    outcomes: list[Answer] = []

    async def impatient() -> None:
        call = asyncio.create_task(host.call(asked(1)))
        await asyncio.sleep(0.1)
        asking.set()
        await asyncio.sleep(0.5)
        call.cancel()
        if loop_goes_on:
            await asyncio.sleep(2)

    def first() -> None:
        with standing_loop() as run:
            run(impatient())
            # The loop stands still, with the call in it.
            joined(others)

    def patient() -> None:
        asking.wait(60)
        with standing_loop() as run:
            outcomes.append(run(host.call(asked(1))))

    others = [started(patient), started(patient)]
    joined([started(first)])
    assert [each.text for each in outcomes] == ["1", "1"] and inner.executed["1"] == 2


def test_arrays_are_told_apart_by_content_type_and_shape() -> None:
    inner, host = make()
    base = np.arange(6, dtype=np.float64)
    variants = [base, base.copy(), base.reshape(2, 3), base.astype(np.float32), base[::-1]]
    keys = [host._key(asked(each)) for each in variants]
    assert keys[0] == keys[1] and len(set(keys)) == 4
    assert host._key(asked(True)) != host._key(asked(1)) != host._key(asked(1.0))
    assert inner.executed == {}


def test_a_fact_about_an_array_goes_with_it() -> None:
    facts = ByIdentity[str]()
    array = np.zeros(3)
    facts.put(array, "zeros")
    assert facts.get(array) == "zeros" and facts.get(array.copy()) is None
    del array
    assert not facts._facts


@pytest.mark.parametrize(("value", "size"), [(np.zeros((2, 3)), 48), ((np.zeros(1),) * 2, 16)])
def test_bytes_of_values(value: object, size: int) -> None:
    assert num_bytes(value) == size and num_bytes(TextReply(text="x")) == 0
