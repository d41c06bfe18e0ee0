"""Rows that are held out: none of them shares a picture or a question with a row that is trained.

Rows that share a picture, or the text of a question, belong together, and with what belongs to
these; such a family is held out whole or not at all. One kind of question must not join everything:
a text that is asked about more than ``templates`` different sets of pictures is a *template*, which
says nothing of what is to be answered. It joins no rows that have pictures; rows without pictures
have nothing but their texts, which always join them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Links:
    """What a row shares with others."""

    texts: tuple[int, ...]
    pictures: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Rows by their number."""

    held_out: tuple[int, ...]
    """Ascending."""
    templates: int = 0
    """Texts that are asked about so many pictures that they join none."""
    template_rows: int = 0
    """Rows that ask one of them."""


def split(rows: Sequence[Links], wanted: int, *, templates: int, seed: int) -> Split:
    """Hold out at most ``wanted`` rows, as many as whole families come to.

    ``templates``: more sets of pictures than this make a text a template; 0 for none is one.
    """
    common = _templates(rows, templates) if templates else set()
    families = _families(rows, common)
    held_out: list[int] = []
    for place in np.random.default_rng(seed).permutation(len(families)):
        family = families[int(place)]
        if len(held_out) + len(family) <= wanted:
            held_out += family
    asking = sum(1 for row in rows if row.pictures and common.intersection(row.texts))
    return Split(held_out=tuple(sorted(held_out)), templates=len(common), template_rows=asking)


def _templates(rows: Sequence[Links], most: int) -> set[int]:
    shown: dict[int, set[int]] = {}
    for row in rows:
        if row.pictures:
            pictures = hash(frozenset(row.pictures))
            for text in row.texts:
                shown.setdefault(text, set()).add(pictures)
    return {text for text, sets in shown.items() if len(sets) > most}


def _families(rows: Sequence[Links], templates: set[int]) -> list[list[int]]:
    """Rows that belong together, in the order of their first."""
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first: dict[tuple[str, int], int] = {}
    for number, row in enumerate(rows):
        for key in _keys(row, templates):
            a, b = root(first.setdefault(key, number)), root(number)
            parents[max(a, b)] = min(a, b)
    families: dict[int, list[int]] = {}
    for number in range(len(rows)):
        families.setdefault(root(number), []).append(number)
    return list(families.values())


def _keys(row: Links, templates: set[int]) -> Iterable[tuple[str, int]]:
    for picture in row.pictures:
        yield "picture", picture
    for text in row.texts:
        if text not in templates:
            yield "text", text
        elif not row.pictures:
            yield "bare text", text
