"""Admission by staleness and memory: the bounds hold whatever ends when."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from rl.scheduling.admission import Admission


@given(
    batch=st.integers(1, 4),
    staleness=st.integers(0, 3),
    kv_tokens=st.sampled_from([0, 10, 25]),
    last_version=st.sampled_from([0, 5]),
    seed=st.integers(0, 1 << 30),
)
def test_nothing_grows_too_old_and_the_learner_always_gets_its_batch(
    batch: int, staleness: int, kv_tokens: int, last_version: int, seed: int
) -> None:
    chance = random.Random(seed)
    admission = Admission(
        batch=batch, max_staleness=staleness, kv_tokens=kv_tokens, last_version=last_version
    )
    since: dict[int, int] = {}
    tokens: dict[int, int] = {}
    number = 0
    for version in range(5):
        left = batch
        while left:
            while admission.may_begin(size := chance.randint(1, 12)):
                admission.begin(number, size)
                since[number], tokens[number] = version, size
                number += 1
            assert admission.num_open <= (staleness + 1) * batch
            held = sum(tokens.values())
            assert held == admission.held_tokens
            assert not kv_tokens or held <= kv_tokens or len(tokens) == 1
            chosen = admission.choose(left)
            if chosen is None or (tokens and chance.random() < 0.5):
                # With nothing under way and nothing to take the learner would wait for ever.
                ended = chance.choice(sorted(tokens))
                del tokens[ended]
                admission.complete(ended)
                continue
            assert version - since[chosen] <= staleness
            admission.take(chosen)
            left -= 1
        admission.advance()
    assert admission.num_open == 0 or not last_version


@given(batch=st.integers(1, 3), staleness=st.integers(0, 2), seed=st.integers(0, 1 << 30))
def test_groups_beyond_the_batch_and_groups_given_back_leave_the_bound_as_it_is(
    batch: int, staleness: int, seed: int
) -> None:
    chance = random.Random(seed)
    admission = Admission(batch=batch, max_staleness=staleness, version=7)
    assert admission.room == (staleness + 1) * batch
    since: dict[int, int] = {}
    number, running = 0, set[int]()
    for version in range(7, 12):
        left, extra = batch, 2
        while left:
            while admission.may_begin(0):
                admission.begin(number, 0)
                since[number] = version
                running.add(number)
                number += 1
            chosen = admission.choose(left)
            if chosen is None:
                ended = chance.choice(sorted(running))
                running.remove(ended)
                admission.complete(ended)
            elif chance.random() < 0.2:
                admission.give_back(chosen)
            else:
                assert version - since[chosen] <= staleness
                admission.take(chosen)
                left -= 1
            if not left and extra and chance.random() < 0.5:
                left, extra = 1, extra - 1
                admission.spare(1)
        admission.advance()


def test_one_group_may_always_be_under_way() -> None:
    admission = Admission(batch=2, max_staleness=0, kv_tokens=10)
    assert admission.may_begin(50)
    admission.begin(0, 50)
    assert not admission.may_begin(1)
    admission.hold(0, 9)
    assert admission.may_begin(1) and not admission.may_begin(2)
