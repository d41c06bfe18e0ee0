"""What ``python -m sft.curate`` can be told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sft.config import check_choice, check_not_negative
from toolshed.errors import ConfigError

RULES = (
    "failed_call",
    "needless_call",
    "unused_variable",
    "guess",
    "leak",
    "override",
)
"""Why a row is no good to imitate, in the order in which rows are held against them."""
WAYS = ("same_picture", "near_picture", "same_text", "picture_and_text")
"""How a row meets an evaluation set, as ``eval.overlap`` has them."""


@dataclass
class CleanConfig:
    """Rows that teach something wrong."""

    rules: list[str] = field(default_factory=lambda: [*RULES])
    keep_recovered: bool = False
    """Keep rows in which an answered call of the same tool follows each failed or refused one, and
    whose last call was answered where one cannot be read."""
    tolerance: float = 0.05
    """Two points are the same where both coordinates differ by at most this, normalised."""
    grid: float = 0.05
    """An answer whose coordinates all are multiples of this is a guess."""

    def __post_init__(self) -> None:
        _check_words("clean.rules", self.rules, RULES)
        for name in ("tolerance", "grid"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(
                    f"clean.{name}={getattr(self, name)} must lie between 0 and 1, as normalised "
                    "coordinates do"
                )


@dataclass
class DuplicateConfig:
    """Rows that are there already."""

    by: str = "conversation"
    """Text that is compared beside the pictures: the whole ``conversation`` or the ``question``;
    ``none`` compares nothing."""
    near_bits: int = 0
    """Of 64, in which difference hashes of equal pictures may differ; 0 compares pixels."""

    def __post_init__(self) -> None:
        check_choice(self, by=("conversation", "question", "none"))
        _check_bits("duplicates.near_bits", self.near_bits)


@dataclass
class ContaminationConfig:
    """Rows that an evaluation set holds."""

    lists: list[str] = field(default_factory=list)
    """Files of ``python -m eval.overlap ... --export FILE``."""
    drop: list[str] = field(default_factory=lambda: ["same_picture", "picture_and_text"])

    def __post_init__(self) -> None:
        _check_words("contamination.drop", self.drop, WAYS)


@dataclass
class BalanceConfig:
    """How often answers and chains may come."""

    max_share: float = 0.6
    """Of one answer among the rows of a task and kind; 0 for any."""
    kinds: list[str] = field(default_factory=lambda: ["yesno", "choice"])
    """Answer kinds to which the share applies."""
    cap: int = 0
    """Most rows of one task, answer and chain; 0 for any number."""

    def __post_init__(self) -> None:
        check_not_negative(self, "cap")
        if not 0.0 <= self.max_share <= 1.0:
            raise ConfigError(
                f"balance.max_share={self.max_share} must lie in [0, 1], as shares do"
            )


@dataclass
class RewriteConfig:
    """Queries for an anchor alone that become queries for the place that was asked for."""

    phrase: str = ""
    """A regular expression for questions whose one group is the place; empty rewrites nothing."""

    def __post_init__(self) -> None:
        try:
            num_groups = re.compile(self.phrase).groups
        except re.error as error:
            raise ConfigError(
                f"rewrite.phrase={self.phrase!r} is no regular expression: {error}"
            ) from error
        if self.phrase and num_groups != 1:
            raise ConfigError(
                f"rewrite.phrase={self.phrase!r} has {num_groups} groups; put exactly the place in "
                "round brackets"
            )


@dataclass
class PageConfig:
    """The page of statistics."""

    samples: int = 24
    """Rows that are shown with their picture."""
    tokenizer: str = ""
    """Checkpoint folder whose tokens lengths are counted in; characters if empty."""

    def __post_init__(self) -> None:
        check_not_negative(self, "samples")


@dataclass
class CurateConfig:
    """How traces become a teaching set."""

    rewrite: RewriteConfig = field(default_factory=RewriteConfig)
    clean: CleanConfig = field(default_factory=CleanConfig)
    duplicates: DuplicateConfig = field(default_factory=DuplicateConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    mix: dict[str, int] = field(default_factory=dict)
    """Rows by their ``source`` mark, for example {teacher: 3, distilled: 1}; empty takes all."""
    repeat: bool = False
    """Repeat rows of scarce sources until the ratio holds, instead of leaving others out."""
    page: PageConfig = field(default_factory=PageConfig)
    seed: int = 1

    def __post_init__(self) -> None:
        check_not_negative(self, "seed")
        for source, part in self.mix.items():
            if part <= 0:
                raise ConfigError(
                    f"mix.{source}={part} must be above 0; leave {source} out instead"
                )


def _check_words(key: str, given: list[str], known: tuple[str, ...]) -> None:
    for word in given:
        if word not in known:
            raise ConfigError(f"{key} holds {word!r}, which is none of {', '.join(known)}")


def _check_bits(key: str, bits: int) -> None:
    if not 0 <= bits < 64:
        raise ConfigError(f"{key}={bits} is not between 0 and 63, of 64 bits")
