"""The LRU bounded by bytes, against a model of it, and single-flight between threads."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.toolshed.threads import joined, started
from toolshed.byte_lru import Abandoned, ByteLRU, SingleFlight

MOST = 10
KEYS = st.sampled_from("abcdef")
SIZES = st.integers(0, 14)


class Model(RuleBasedStateMachine):
    """A list from the least to the most recently used."""

    def __init__(self) -> None:
        super().__init__()
        self.lru: ByteLRU[int] = ByteLRU(MOST)
        self.kept: list[tuple[str, int, int]] = []
        self.count = 0

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        found = [each for each in self.kept if each[0] == key]
        assert self.lru.get(key) == (found[0][1] if found else None)
        self.kept = [each for each in self.kept if each[0] != key] + found

    @rule(key=KEYS, size=SIZES)
    def put(self, key: str, size: int) -> None:
        self.count += 1
        self.lru.put(key, self.count, size)
        self.newest(key, self.count, size)

    @rule(key=KEYS, size=SIZES)
    def get_or_put(self, key: str, size: int) -> None:
        self.count += 1
        (known,) = [each for each in self.kept if each[0] == key] or [(key, self.count, size)]
        assert self.lru.get_or_put(key, lambda: (self.count, size)) == known[1]
        self.newest(*known)

    @rule()
    def clear(self) -> None:
        self.lru.clear()
        self.kept = []

    def newest(self, key: str, value: int, size: int) -> None:
        self.kept = [each for each in self.kept if each[0] != key] + [(key, value, size)]
        while len(self.kept) > 1 and sum(each[2] for each in self.kept) > MOST:
            del self.kept[0]

    @invariant()
    def equal(self) -> None:
        assert len(self.lru) == len(self.kept)
        assert self.lru.num_bytes == sum(each[2] for each in self.kept)


TestModel = Model.TestCase
TestModel.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


def test_threads_do_not_spoil_the_count() -> None:
    lru: ByteLRU[int] = ByteLRU(50)

    def work(seed: int) -> None:
        for turn in range(3000):
            key = (turn * seed) % 17
            if lru.get(str(key)) is None:
                lru.put(str(key), key, key)

    joined([started(lambda seed=seed: work(seed)) for seed in range(1, 9)])  # type: ignore[misc]
    assert lru.num_bytes == sum(key for key in range(17) if lru.get(str(key)) is not None) <= 50


def test_what_is_wanted_at_once_is_brought_once() -> None:
    flights: SingleFlight[str] = SingleFlight(100)
    brought, got = Counter[str](), Counter[str]()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(60)
        for key in "abcabc":
            flight, is_first = flights.enter(key)
            if is_first:
                brought[key] += 1
                time.sleep(0.02)
                flights.land(key, flight, key * 2, 1)
            got[flight.result(60)] += 1

    joined([started(work) for _ in range(8)])
    assert brought == {"a": 1, "b": 1, "c": 1} and got == {"aa": 16, "bb": 16, "cc": 16}
    assert (len(flights), flights.num_bytes, flights.num_flights) == (3, 3, 0)


def test_a_dropped_flight_keeps_nothing_and_tells_why() -> None:
    flights: SingleFlight[str] = SingleFlight(100)
    first, is_first = flights.enter("a")
    waiting, is_second = flights.enter("a")
    assert is_first and not is_second and waiting is first
    assert not waiting.cancel(), "one who gives up ends nothing"
    flights.drop("a", first)
    with pytest.raises(Abandoned):
        waiting.result(0)
    second, is_first = flights.enter("a")
    assert is_first and second is not first
    flights.land("a", first, "too late", 1)
    assert len(flights) == 0 and not second.done()
    flights.drop("a", second, ValueError("why"))
    with pytest.raises(ValueError, match="why"):
        second.result(0)
    third, _ = flights.enter("a")
    flights.land("a", third, "there", 1)
    flights.drop("a", third)
    assert flights.enter("a") == (third, False) and third.result(0) == "there"
