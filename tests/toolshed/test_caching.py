"""Remembered answers: one execution per distinct call, bounded memory, failures never kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

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


class CountingHost:
    """Answers every request with its first argument, after a moment; counts executions."""

    def __init__(self, *, fails: int = 0) -> None:
        self.executed: Counter[str] = Counter()
        self.fails = fails

    async def call(self, request: Request) -> Answer:
        text = str(request.arguments["x"])
        self.executed[text] += 1
        await asyncio.sleep(0.001)
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


def make(**settings_: int) -> tuple[CountingHost, RememberingHost]:
    inner = CountingHost(fails=settings_.pop("fails", 0))
    return inner, RememberingHost(inner, ["f"], **settings_)


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
    assert host._num_bytes == 1024 * len(host._kept) <= 3 * 1024


def test_loops_of_several_threads_do_not_spoil_the_count_of_bytes() -> None:
    _, host = make(max_bytes=5 * 1024)

    def work() -> None:
        for _ in range(20):
            many(host, [asked(value) for value in range(8)])

    joined([started(work) for _ in range(3)])
    assert host._num_bytes == 1024 * len(host._kept) == 5 * 1024


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
