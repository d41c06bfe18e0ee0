"""Mixtures: ``a+b*3+c@0.2`` as parts, and the order in which their rows are trained.

The order depends on the mixture and the seed alone. Every step is a fixed list of rows, which can
be asked for by its number: ranks divide it among themselves, and a resume needs the step only.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolshed.errors import ConfigError

_SUFFIX = re.compile(r"(.+?)(\*\d{1,9}|@\d*\.\d+)")
_MOST_REPEATS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One source of a mixture."""

    name: str
    repeats: int = 1
    """How often an epoch has each of its rows."""
    share: float = 1.0
    """Of its rows that are used at all, drawn by the seed."""


def parse_mixture(text: str) -> tuple[Part, ...]:
    """The parts in alphabetical order, so that it is no matter how they are written; ConfigError
    where the text is no mixture."""
    parts = [_part(word.strip(), text) for word in text.split("+")]
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"mixture {text!r} has {name!r} twice; write {name}*2 to repeat it")
    return tuple(sorted(parts, key=lambda part: part.name))


def write_mixture(parts: Sequence[Part]) -> str:
    """The text of which ``parse_mixture`` makes these parts."""
    return "+".join(
        part.name
        + (f"*{part.repeats}" if part.repeats != 1 else "")
        + (f"@{np.format_float_positional(part.share, trim='0')}" if part.share != 1 else "")
        for part in parts
    )


def _part(word: str, text: str) -> Part:
    """``NAME``, ``NAME*3``, ``NAME@0.2``, or both in any order."""
    given: dict[str, float] = {}
    while (found := _SUFFIX.fullmatch(word)) and (mark := found[2][0]) not in given:
        word, given[mark] = found[1].rstrip(), float(found[2][1:])
    repeats, share = int(given.get("*", 1)), given.get("@", 1.0)
    if not word or "*" in word:
        raise ConfigError(
            f"mixture {text!r} has a part {word!r} that is no name; write NAME, NAME*3 or "
            "NAME@0.2, joined by +, and give files with such letters a name in sources"
        )
    if not 1 <= repeats <= _MOST_REPEATS:
        raise ConfigError(f"mixture {text!r} repeats {word} {repeats} times; 1 to {_MOST_REPEATS}")
    if not 0 < share <= 1:
        raise ConfigError(f"mixture {text!r} takes a share of {share:g} of {word}; above 0, to 1")
    return Part(name=word, repeats=repeats, share=share)


class MixtureOrder:
    """Which rows each step trains: epochs one after another, each in an order of its own."""

    def __init__(
        self, parts: Sequence[Part], rows: Sequence[npt.NDArray[np.int64]], batch: int, seed: int
    ) -> None:
        """``rows``: of each part, the numbers of the rows that may be trained."""
        self._batch, self._seed = batch, seed
        used = [_taken(part, own, seed) for part, own in zip(parts, rows, strict=True)]
        copies = [np.tile(own, part.repeats) for part, own in zip(parts, used, strict=True)]
        self._rows = np.concatenate(copies)
        self._parts = np.repeat(np.arange(len(copies)), [len(each) for each in copies])
        self._epochs: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        """Rows of an epoch, repeated ones counted as often as they come."""
        return len(self._rows)

    def batch_at(self, step: int) -> list[tuple[int, int]]:
        """(part, row) of each conversation of a step, counted from 0."""
        found: list[tuple[int, int]] = []
        for position in range(step * self._batch, (step + 1) * self._batch):
            epoch, place = divmod(position, len(self))
            index = self._epoch(epoch)[place]
            found.append((int(self._parts[index]), int(self._rows[index])))
        return found

    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch not in self._epochs:
            # A step may begin in one epoch and end in the next.
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1}
            self._epochs[epoch] = np.random.default_rng([self._seed, epoch]).permutation(len(self))
        return self._epochs[epoch]


def _taken(part: Part, rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """The share of a part: the same rows whatever the rest of the mixture is."""
    num = round(part.share * len(rows))
    if not num:
        raise ConfigError(
            f"a share of {part.share:g} of the {len(rows)} rows of {part.name} is none; take more"
        )
    if num == len(rows):
        return rows
    rng = np.random.default_rng([seed, zlib.crc32(part.name.encode())])
    return np.sort(rng.permutation(rows)[:num])
