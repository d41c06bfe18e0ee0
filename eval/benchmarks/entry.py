"""What a benchmark is: the carriers of ``eval.benchmarks.table``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from toolshed.types import Json

if TYPE_CHECKING:
    from rl.rewards.rule import Measured

Row: TypeAlias = Mapping[str, Any]
"""One question in the released layout (``rl.questions.data``): ``prompt``, ``images``,
``reward_model``, and ``extra_info`` if there is more. Pictures are paths, data URIs or encoded
bytes."""

Metric: TypeAlias = "Callable[[Json, str | None], Measured]"
"""Ground truth and text of the answer (None if none was given) to what it is worth. An answer that
is missing or unreadable is ``UNREADABLE``: it scores 0 and counts. No answer makes it raise."""

TypeRule: TypeAlias = Callable[[str, Json], str | None]
"""Question and ground truth to the question's type; None where it fits no type or several."""


def released_rows(path: Path) -> Iterator[Row]:
    """Rows of a parquet in the released layout, batch by batch."""
    from rl.questions.data import read_rows

    return read_rows(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the rows of a set lie, and how they are read."""

    files: tuple[str, ...] = ("{key}.parquet", "data/{key}.parquet")
    """Patterns below ``data=FOLDER``, tried in this order; ``{key}`` is the benchmark's."""
    rows: Callable[[Path], Iterator[Row]] = released_rows
    """The rows of one such file, in order and one at a time; the row's number is the sample id.
    ConfigError where it cannot be read; a KeyError or TypeError is told as a row out of layout."""
    repository: str = ""
    """Data set on the Hugging Face hub; empty for sets that only a folder holds, and for the
    tabletop's, which are made on demand."""
    revision: str = "main"
    """Commit of it, or how the commit begins; or a branch."""
    hub_file: str = "data/{key}.parquet"
    """Pattern of the one file there."""

    @property
    def is_pinned(self) -> bool:
        """Whether the revision can never mean other data."""
        return all(digit in "0123456789abcdef" for digit in self.revision)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number that is reported of a benchmark, computed from its rows."""

    name: str
    """Column title, for example ``VQA`` or ``SR``."""
    types: tuple[str, ...] = ()
    """Question types whose rows count (``EvalRow.question_type``); empty for all."""
    part: str = ""
    """Which measured part of a row counts (``episode.parts``); empty for the row's score."""
    unreadable: float | None = None
    """What an unreadable answer counts where the metric measures no such part of it, as
    ``UNREADABLE`` has none. None: the part is always measured, and a row without it is an error."""
    statistic: Literal["mean", "median"] = "mean"
    percent: bool = True
    """Shown times 100."""
    lower_is_better: bool = False
    headline: bool = False
    """Whether it stands in the run's main table; others are details."""
    paper: float | None = None
    """As printed in arXiv 2512.04069, table 2, for SpaceTools-3B; in the unit that is shown."""
    reproduced: tuple[float, ...] = ()
    """Independent runs of the released weights; in the unit that is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """One number over several benchmarks: shown twice, as simple and as weighted mean."""

    name: str
    of: tuple[str, ...]
    """Keys of benchmarks; the mean of the first figure of each."""
    paper: float | None = None
    reproduced_simple: tuple[float, ...] = ()
    reproduced_weighted: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One line of ``eval.run``'s table."""

    title: str
    """For people and tables."""
    size: int
    """Questions of the whole set; for the tabletop, how many are made."""
    kinds: tuple[str, ...]
    """Answer kinds that its rows may have, keys of ``rl.rewards.KINDS``; of two the first is chosen
    whose form the ground truth has."""
    scored: str
    """What one score is, for people."""
    figures: tuple[Figure, ...] = (Figure(name="Accuracy", headline=True),)
    data: Data = Data()
    prompt: str | None = None
    """System turn that replaces the data's own; None: what the data bring."""
    metric: Metric | None = None
    """None: the measure of the answer kind, the same as in training."""
    question_type: TypeRule | None = None
    """None: all questions are of one type, called like the benchmark."""

    @property
    def repository(self) -> str:
        """Where the published set lies; empty for our own."""
        return self.data.repository

    def kind_of(self, ground_truth: Json) -> str:
        """Answer kind of a row, a key of ``rl.rewards.KINDS``."""
        from rl.rewards import KINDS

        fitting = (kind for kind in self.kinds[:-1] if KINDS[kind].is_target(ground_truth))
        return next(fitting, self.kinds[-1])
