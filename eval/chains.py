"""Which tools an episode used, in the words of published evaluations: ``roboreferx2+sam2x1@3t``.

The signature and the count of turns are as in the reproducer's records (qyYue1389/
Spacetools-RL-Improvement) and in verl, so that ours can be laid beside theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rl.show.episode import Episode


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """The tools of one episode."""

    turns: int
    """Of the assistant."""
    verl_turns: int
    """verl's ``num_turns``: the assistant's turns, those of tool replies, and the question."""
    families: dict[str, int] = field(default_factory=dict)
    """Well-formed calls by family, in alphabetical order."""
    methods: dict[str, int] = field(default_factory=dict)
    """The same by ``family.method``."""

    @property
    def num_calls(self) -> int:
        return sum(self.families.values())

    @property
    def signature(self) -> str:
        """``depth_estimatorx1+roboreferx2@3t``; without any call ``@1t``."""
        tools = "+".join(f"{name}x{count}" for name, count in self.families.items())
        return f"{tools}@{self.turns}t"


def chain_of(episode: Episode) -> Chain:
    """The tools of an episode, refused and failed calls included; malformed calls count as turns
    of replies, but as no tool's."""
    names = [call.name for turn in episode.turns for call in turn.calls]
    replied = sum(bool(turn.calls or turn.errors) for turn in episode.turns)
    return Chain(
        turns=len(episode.turns),
        verl_turns=len(episode.turns) + replied + 1,
        families=_counted(name.partition(".")[0] for name in names),
        methods=_counted(names),
    )


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
