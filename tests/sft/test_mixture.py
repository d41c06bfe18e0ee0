"""Mixtures: their grammar, and an order that knows neither ranks nor interruptions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.mixture import MixtureOrder, Part, parse_mixture, write_mixture
from toolshed.errors import ConfigError

NAMES = st.text(alphabet="ab_/.-:7", min_size=1, max_size=6).filter(str.strip)
PARTS = st.lists(
    st.builds(
        Part,
        name=NAMES,
        repeats=st.integers(1, 9),
        share=st.integers(1, 1000).map(lambda n: n / 1000),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda part: part.name,
)


@given(PARTS)
def test_a_mixture_is_read_as_it_is_written(parts: list[Part]) -> None:
    assert parse_mixture(write_mixture(parts)) == tuple(sorted(parts, key=lambda p: p.name))


@given(st.text(alphabet="ab+*@.0123 ", max_size=12))
@settings(max_examples=200)
def test_any_text_is_a_mixture_or_told(text: str) -> None:
    try:
        parts = parse_mixture(text)
    except ConfigError as error:
        assert repr(text) in str(error)
    else:
        assert parse_mixture(write_mixture(parts)) == parts


def test_what_stands_behind_a_name() -> None:
    assert parse_mixture("b*3@0.5 + a@.2*2+hub:x/y@1a2b3c4") == (
        Part(name="a", repeats=2, share=0.2),
        Part(name="b", repeats=3, share=0.5),
        Part(name="hub:x/y@1a2b3c4"),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a+a*2", "'a' twice; write a\\*2"),
        ("a++b", "part '' that is no name"),
        ("a*0", "repeats a 0 times"),
        ("a@1.5", "share of 1.5"),
        ("a@0.0", "share of 0 of"),
        ("a*2*3", "no name"),
    ],
)
def test_a_wrong_mixture_is_told(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_mixture(text)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def order_of(sizes: list[int], batch: int, seed: int, repeats: int = 1) -> MixtureOrder:
    parts = [Part(name=f"p{i}", repeats=repeats if i == 0 else 1) for i in range(len(sizes))]
    return MixtureOrder(parts, [np.arange(size) for size in sizes], batch, seed)


@given(SIZES, st.integers(1, 12), st.integers(0, 9), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_every_epoch_has_each_row_as_often_as_the_mixture_says(
    sizes: list[int], batch: int, seed: int, repeats: int
) -> None:
    order = order_of(sizes, batch, seed, repeats)
    num = len(order)
    assert num == sum(sizes) + (repeats - 1) * sizes[0]
    drawn = [row for step in range(-(-3 * num // batch)) for row in order.batch_at(step)]
    for epoch in range(3):
        counts = Counter(drawn[epoch * num : (epoch + 1) * num])
        assert counts == {
            (part, row): repeats if part == 0 else 1
            for part, size in enumerate(sizes)
            for row in range(size)
        }


@given(SIZES, st.integers(1, 12), st.integers(0, 9), st.lists(st.integers(0, 30), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_step_is_the_same_whenever_it_is_asked_for(
    sizes: list[int], batch: int, seed: int, steps: list[int]
) -> None:
    order = order_of(sizes, batch, seed)
    for step in steps:
        assert order.batch_at(step) == order_of(sizes, batch, seed).batch_at(step)


def test_another_batch_size_cuts_the_same_order_elsewhere() -> None:
    small, large = order_of([7, 5], 2, 1), order_of([7, 5], 6, 1)
    first = [row for step in range(9) for row in small.batch_at(step)]
    assert first == [row for step in range(3) for row in large.batch_at(step)]


def test_a_share_is_the_same_rows_in_every_mixture() -> None:
    rows = np.arange(100)
    part, other = Part(name="a", share=0.2), Part(name="b")
    alone = MixtureOrder([part], [rows], 20, 1)
    beside = MixtureOrder([part, other], [rows, rows], 120, 1)
    chosen = {row for _, row in alone.batch_at(0)}
    assert len(alone) == len(chosen) == 20
    assert {row for source, row in beside.batch_at(0) if source == 0} == chosen
    assert {row for _, row in MixtureOrder([part], [rows], 20, 2).batch_at(0)} != chosen
    with pytest.raises(ConfigError, match=r"share of 0\.2 of the 2 rows of a is none"):
        MixtureOrder([part], [rows[:2]], 1, 1)
