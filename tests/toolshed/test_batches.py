"""Batches inside a replica: answers never depend on them; what breaks one call breaks no other."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolshed.chaos_tools import HERE, POISON, REFUSED, OutOfMemoryError, Squares, number
from tests.toolshed.threads import joined, later, started, until
from toolshed.backend import Answer, BackEnd, BackEndSpec, Request, Voice
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.serving.batches import Worker, is_out_of_memory
from toolshed.serving.turns import Turnstile
from toolshed.types import IndexedValue

VOICE = Voice(profile="compact", defects="fixed")


@pytest.fixture(autouse=True)
def _sizes() -> Iterator[None]:
    Squares.sizes.clear()
    yield


class Bench:
    """A worker, and calls that are made to arrive before the first of them runs."""

    def __init__(
        self,
        *,
        batch: int = 4,
        wait_s: float = 0.0,
        slots: int = 1,
        may_repeat: bool = True,
        location: str = f"{HERE}:Squares",
        **arguments: float,
    ) -> None:
        spec = BackEndSpec(
            name="squares",
            location=location,
            arguments=dict(arguments),
            methods=("square",),
            voice=VOICE,
        )
        self.turns = Turnstile(slots)
        self.worker = Worker(
            BackEnd(spec),
            self.turns,
            max_batch_size=batch,
            max_wait_s=wait_s,
            may_repeat=may_repeat,
        )

    def ask(self, x: float, seconds: float = 60.0) -> Answer | Exception:
        request = Request(family="squares", method="square", arguments={"x": x})
        try:
            return self.worker.run(request, later(seconds))
        except Exception as error:
            return error

    def together(self, *numbers: float) -> list[object]:
        """What each call brought: its number or its error; all wait before the first begins."""
        found: dict[int, object] = {}
        threads = []
        with self.turns.turn("rollout", later()):
            for index, x in enumerate(numbers):

                def work(index: int = index, x: float = x) -> None:
                    found[index] = shown(self.ask(x))

                threads.append(started(work))
                until(lambda index=index: self.num_queued() == index + 1)  # type: ignore[misc]
        joined(threads)
        return [found[index] for index in range(len(numbers))]

    def num_queued(self) -> int:
        """Calls that wait in batches or alone; a batch's leader waits in both."""
        batched = [each for pending in self.worker._pending.values() for each in pending]
        return len(batched) + self.turns.num_waiting - sum(each.leads for each in batched)


def shown(answer: Answer | Exception) -> object:
    if isinstance(answer, Exception):
        return answer
    assert isinstance(answer.value, IndexedValue)
    return answer.value.value


def reasons(outcomes: list[object]) -> list[object]:
    """Numbers as they are, typed errors by their reason, others by their kind."""
    return [
        each.reason
        if isinstance(each, ToolFailure | ToolRefusal)
        else type(each).__name__
        if isinstance(each, Exception)
        else each
        for each in outcomes
    ]


def test_calls_that_wait_are_answered_together_and_in_order() -> None:
    bench = Bench(batch=4)
    assert bench.together(1, 2, 3, 4) == [1, 4, 9, 16]
    assert Squares.sizes == [4] and bench.worker.num_executed == 4


def test_more_than_a_batch_leaves_a_new_leader() -> None:
    bench = Bench(batch=3)
    assert bench.together(*range(8)) == [each * each for each in range(8)]
    assert Squares.sizes == [3, 3, 2] and not bench.worker._pending


def test_a_call_without_a_key_goes_alone() -> None:
    bench = Bench(batch=8)
    assert bench.together(1, -2, 3, -4) == [1, 4, 9, 16]
    assert sorted(Squares.sizes) == [1, 1, 2]


def test_one_call_is_no_batch_for_its_back_end() -> None:
    assert shown(Bench(batch=8).ask(5)) == 25 and Squares.sizes == [1]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([-3.0, 0.0, 1.0, 2.5, POISON, REFUSED]), min_size=1, max_size=9),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_answers_do_not_depend_on_batch_size_or_room(
    numbers: list[float], batch: int, room: int
) -> None:
    alone = [reasons([shown(Bench(batch=1).ask(x))])[0] for x in numbers]
    Squares.sizes.clear()
    outcomes = Bench(batch=batch, room=room).together(*numbers)
    assert reasons(outcomes) == alone
    assert all(size <= batch for size in Squares.sizes)


def test_poison_fails_alone() -> None:
    outcomes = Bench(batch=4).together(1, POISON, 3, REFUSED)
    assert reasons(outcomes) == [1, "ValueError", 9, "odd"]
    assert Squares.sizes == [4, 1, 1, 1, 1]


def test_out_of_memory_halves_then_tries_alone_then_fails() -> None:
    assert Bench(batch=8, room=2).together(*range(8)) == [x * x for x in range(8)]
    assert Squares.sizes == [8, 4, 2, 2, 4, 2, 2]
    Squares.sizes.clear()
    outcomes = Bench(batch=2, room=0).together(1, 2)
    assert reasons(outcomes) == ["out_of_memory"] * 2
    # Both, then each: as half of the batch, and once more alone.
    assert Squares.sizes == [2, 1, 1, 1, 1]
    assert "tried to allocate 1 GiB" in str(outcomes[0])


def test_a_refusal_that_speaks_of_memory_is_still_a_refusal() -> None:
    assert isinstance(shown(Bench().ask(REFUSED)), ToolRefusal)
    assert Squares.sizes == [1], "it was not tried again"
    assert not is_out_of_memory(ToolRefusal("not_found", "not found: CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(OutOfMemoryError()) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(KeyError("a bug"))


@pytest.mark.parametrize(("room", "word"), [(0, "out_of_memory"), (9, "ValueError")])
def test_calls_with_effects_are_executed_once_whatever_breaks(room: int, word: str) -> None:
    bench = Bench(batch=4, may_repeat=False, room=room)
    assert reasons(bench.together(1, POISON, 3)) == [word] * 3
    assert Squares.sizes == [3]


class Hoarder(Squares):
    """Holds a large array in the frame that runs out of memory, as a forward pass does."""

    held: weakref.ref[np.ndarray] | None = None

    def square(self, x: float) -> IndexedValue:
        if Hoarder.held is None:
            activations = np.zeros(1000)
            Hoarder.held = weakref.ref(activations)
            raise OutOfMemoryError(f"with {activations.size} held")
        return number(0 if Hoarder.held() is None else 1)


def test_memory_of_the_failed_try_is_free_before_the_next() -> None:
    Hoarder.held = None
    assert shown(Bench(location=f"{__name__}:Hoarder").ask(-1)) == 0


class Sticky(Squares):
    def square(self, x: float) -> IndexedValue:
        Squares.sizes.append(1)
        if len(Squares.sizes) == 1:
            raise OutOfMemoryError
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_lost_device_is_named_also_when_memory_ran_out_before() -> None:
    bench = Bench(location=f"{__name__}:Sticky")
    assert reasons([shown(bench.ask(-1)), shown(bench.ask(-1))]) == ["device_lost"] * 2
    assert len(Squares.sizes) == 3


def test_a_batch_waits_for_others_but_not_for_long() -> None:
    bench = Bench(batch=2, wait_s=30.0)
    found: list[object] = []
    first = started(lambda: found.append(shown(bench.ask(2))))
    until(lambda: bench.turns.longest_s() > 0)
    second = started(lambda: found.append(shown(bench.ask(3))))
    joined([first, second])
    assert sorted(map(str, found)) == ["4.0", "9.0"] and Squares.sizes == [2]
    bench = Bench(batch=2, wait_s=0.1)
    began_s = time.perf_counter()
    assert shown(bench.ask(4)) == 16
    assert 0.1 <= time.perf_counter() - began_s < 20


def test_a_followers_deadline_is_its_own() -> None:
    bench = Bench(batch=4, takes_s=0.5)
    found: dict[str, object] = {}
    with bench.turns.turn("rollout", later()):
        leader = started(lambda: found.update(leader=shown(bench.ask(2))))
        until(lambda: bench.num_queued() == 1)
        waits = started(lambda: found.update(waits=shown(bench.ask(3, seconds=0.05))))
        joined([waits])
        assert bench.num_queued() == 1, "it left the batch before that ran"
    joined([leader])
    assert reasons([found["leader"], found["waits"]]) == [4, "deadline"]
    assert Squares.sizes == [1]


def test_a_followers_deadline_passes_while_its_batch_runs() -> None:
    bench = Bench(batch=2, wait_s=30.0, takes_s=1.0)
    found: dict[str, object] = {}
    leader = started(lambda: found.update(leader=shown(bench.ask(2))))
    until(lambda: bench.turns.longest_s() > 0)
    began_s = time.perf_counter()
    found["follower"] = shown(bench.ask(3, seconds=0.1))
    assert time.perf_counter() - began_s < 0.9, "it was told in time"
    joined([leader])
    assert reasons([found["leader"], found["follower"]]) == [4, "deadline"]


def test_a_leaders_deadline_leaves_the_rest_a_new_leader() -> None:
    bench = Bench(batch=4)
    found: dict[str, object] = {}
    with bench.turns.turn("rollout", later()):
        leader = started(lambda: found.update(leader=shown(bench.ask(2, seconds=0.3))))
        until(lambda: bench.num_queued() == 1)
        threads = [started(lambda x=x: found.update({str(x): shown(bench.ask(x))})) for x in (3, 4)]  # type: ignore[misc]
        until(lambda: bench.num_queued() == 3)
        joined([leader])
    joined(threads)
    assert reasons([found["leader"], found["3"], found["4"]]) == ["deadline", 9, 16]
    assert Squares.sizes == [2] and not bench.worker._pending


def test_executions_are_counted_exactly_with_many_slots() -> None:
    bench = Bench(batch=1, slots=8)
    joined([started(lambda: [bench.ask(1) for _ in range(200)] and None) for _ in range(8)])
    assert bench.worker.num_executed == 1600 == len(Squares.sizes)


def test_queue_time_is_what_was_not_run() -> None:
    bench = Bench(batch=1, takes_s=0.2)
    answers: list[Answer | Exception] = []
    lock = threading.Lock()

    def work() -> None:
        answer = bench.ask(1)
        with lock:
            answers.append(answer)

    joined([started(work) for _ in range(3)])
    queued = sorted(each.queue_s for each in answers if isinstance(each, Answer))
    assert len(queued) == 3 and queued[0] < queued[1] < queued[2] and queued[2] >= 0.35
