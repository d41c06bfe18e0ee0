"""Cutting samples into micro-batches: everything once, within the limit, little padding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sft.batch import cut_by_length

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=40).map(
    lambda lengths: sorted(lengths, reverse=True)
)


@given(LENGTHS, st.integers(1, 4000))
def test_slices_cover_everything_in_order_within_the_limit(
    lengths: list[int], max_tokens: int
) -> None:
    slices = cut_by_length(lengths, max_tokens)
    assert [i for start, end in slices for i in range(start, end)] == list(range(len(lengths)))
    for start, end in slices:
        assert end - start == 1 or (end - start) * lengths[start] <= max_tokens


def test_unlike_lengths_are_kept_apart_and_like_ones_together() -> None:
    assert cut_by_length([1000, 20, 20, 20], 8192) == [(0, 1), (1, 4)]
    assert cut_by_length([21, 20, 20, 20], 8192) == [(0, 4)]
    assert cut_by_length([], 8192) == []
