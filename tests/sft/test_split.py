"""Held-out rows share no picture and no question with trained ones; templates join nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sft.split import Links, split

ROWS = st.lists(
    st.builds(
        Links,
        texts=st.lists(st.integers(0, 12), max_size=2, unique=True).map(tuple),
        pictures=st.lists(st.integers(0, 15), max_size=2, unique=True).map(tuple),
    ),
    max_size=40,
)


@given(ROWS, st.integers(0, 40), st.integers(0, 4), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_no_held_out_row_shares_picture_or_question_with_a_trained_one(
    rows: list[Links], wanted: int, templates: int, seed: int
) -> None:
    found = split(rows, wanted, templates=templates, seed=seed)
    assert found == split(rows, wanted, templates=templates, seed=seed)
    assert len(found.held_out) <= wanted
    out = set(found.held_out)
    inside = [rows[i] for i in found.held_out]
    trained = [row for i, row in enumerate(rows) if i not in out]
    for a in inside:
        for b in trained:
            assert not set(a.pictures) & set(b.pictures)
            for text in set(a.texts) & set(b.texts):
                # A template, by its definition; rows without pictures have nothing but texts.
                shown = {r.pictures and frozenset(r.pictures) for r in rows if text in r.texts}
                assert templates and len(shown - {()}) > templates
                assert a.pictures or b.pictures


def test_a_template_does_not_join_everything_and_is_counted() -> None:
    rows = [Links(texts=(1,), pictures=(i,)) for i in range(100)]
    loose = split(rows, 10, templates=20, seed=1)
    assert len(loose.held_out) == 10
    assert (loose.templates, loose.template_rows) == (1, 100)
    strict = split(rows, 10, templates=0, seed=1)
    assert strict.held_out == () and strict.templates == 0


def test_trajectories_of_one_question_stay_together() -> None:
    rows = [Links(texts=(i // 4,), pictures=(i // 4,)) for i in range(40)]
    held_out = split(rows, 10, templates=20, seed=1).held_out
    assert len(held_out) == 8
    assert all(row // 4 * 4 + k in held_out for row in held_out for k in range(4))


def test_other_rows_are_held_out_by_another_seed() -> None:
    rows = [Links(texts=(i,), pictures=(i,)) for i in range(100)]
    chosen = {split(rows, 5, templates=0, seed=seed).held_out for seed in range(4)}
    assert len(chosen) == 4
