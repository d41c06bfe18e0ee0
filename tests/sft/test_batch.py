"""Cutting samples into micro-batches: everything once, within the limit, little padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sft.batch import fewest_places

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40).map(
    lambda lengths: sorted(lengths, reverse=True)
)


@given(LENGTHS, st.integers(1, 4000))
def test_batches_hold_everything_once_within_the_limit(lengths: list[int], max_tokens: int) -> None:
    batches = fewest_places(lengths, max_tokens)
    held = [index for rows in batches for row in rows for index in row]
    assert sorted(held) == list(range(len(lengths)))
    for rows in batches:
        longest = lengths[rows[0][0]]
        assert len(rows) == 1 or len(rows) * longest <= max_tokens
        assert all(sum(lengths[i] for i in row) <= longest for row in rows)


def test_unlike_lengths_are_kept_apart_or_fill_rows_up() -> None:
    assert fewest_places([1000, 600, 600], 8192) == [[[0]], [[1], [2]]]
    assert fewest_places([1000, 500, 500], 8192) == [[[0], [1, 2]]]
    assert fewest_places([21, 20, 20, 20], 8192) == [[[0], [1], [2], [3]]]
    assert fewest_places([], 8192) == []
