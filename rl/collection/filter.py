"""Which trajectories are worth imitating, and how each question ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rl.collection.config import CollectConfig
from rl.collection.played import Played
from rl.policy.prices import Prices, TokenUsage
from rl.rewards.grasp import WORST_NCE
from rl.types import Question, Reward

_EPSILON = 1e-9
"""1 - NCE / 10 of an NCE of exactly 2 is 0.8 but for the last bit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What became of one question; every question ends once."""

    question: Question
    end: Literal["kept", "filtered", "failed"]
    reason: str
    """Why nothing of it was kept; empty where something was."""
    kept: tuple[Played, ...]
    """In the order of their samples."""
    played: tuple[Played, ...]
    """The last try of every sample that counts."""
    reasons: tuple[str, ...]
    """Why each scored one that was not kept was not."""
    stopped: str = ""
    """Why there are fewer samples than asked for."""

    @property
    def usage(self) -> TokenUsage:
        return sum((each.usage for each in self.played), TokenUsage())


def score_of(kind: str, reward: Reward) -> float:
    """What ``min_score`` is compared with, in [0, 1]: the accuracy; of a grasp 1 - NCE / 10."""
    return 1.0 - reward.parts["nce"] / WORST_NCE if kind == "grasp" else reward.accuracy


def is_enough(score: float, least: float) -> bool:
    """Whether a score is above a threshold; a whole one always is, and 0 asks for nothing."""
    return score > least + _EPSILON or score >= 1.0 or least == 0.0


def rejection(played: Played, kind: str, config: CollectConfig) -> str:
    """Why a trajectory is not worth imitating; empty if it is."""
    reward = played.reward
    if reward is None:
        return "broken"
    if config.need_call and not any(call["status"] == "ok" for call in played.calls):
        return "no answered call (need_call)"
    score, least = score_of(kind, reward), config.min_score_of(kind)
    if not is_enough(score, least):
        words = "wrong" if reward.answer is not None else f"no answer, {played.stop_reason}"
        return f"{words} (not above min_score={least:g})"
    if config.need_form and not reward.well_formed:
        return "badly formed (need_form)"
    return ""


def stopped(
    question: Question, played: Sequence[Played], config: CollectConfig, prices: Prices | None
) -> str:
    """Why a question gets no further sample after ``played``; empty if it does."""
    budget, usage = config.budget, sum((each.usage for each in played), TokenUsage())
    tokens = usage.input + usage.cached + usage.cache_written + usage.output
    if budget.stop_early:
        num_good = sum(not rejection(each, question.kind, config) for each in played)
        if num_good >= config.keep:
            return f"keep={config.keep} are found (budget.stop_early)"
    if budget.tokens and tokens >= budget.tokens:
        return f"{tokens} tokens are used (budget.tokens={budget.tokens})"
    if budget.usd and prices is not None and prices.cost_usd(usage) >= budget.usd:
        return f"{prices.cost_usd(usage):.4f} USD are spent (budget.usd={budget.usd:g})"
    return ""


def ended(
    question: Question,
    samples: Mapping[int, Played],
    config: CollectConfig,
    prices: Prices | None,
) -> Ended:
    """How a question ends, by the last try of each sample; those that came after it had enough do
    not count, so that the same settings keep the same whatever was played before."""
    played: list[Played] = []
    why = ""
    for number in range(config.samples):
        why = stopped(question, played, config, prices) if played else ""
        if why:
            break
        played.append(samples[number])
    rejected = [rejection(each, question.kind, config) for each in played]
    good = [each for each, reason in zip(played, rejected, strict=True) if not reason]
    kept = sorted(good, key=lambda each: _rank(each, question.kind))[: config.keep or None]
    reasons = [
        reason or "keep is reached"
        for each, reason in zip(played, rejected, strict=True)
        if each.reward is not None and each not in kept
    ]
    failed = [each for each in played if each.reward is None]
    end: Literal["kept", "filtered", "failed"] = "kept" if kept else "filtered"
    reason = "" if kept else (reasons or [""])[0]
    if not kept and len(failed) == len(played):
        end, reason = "failed", failed[-1].failure
    return Ended(
        question=question,
        end=end,
        reason=reason,
        kept=tuple(sorted(kept, key=lambda each: each.sample)),
        played=tuple(played),
        reasons=tuple(reasons),
        stopped=why,
    )


def _rank(played: Played, kind: str) -> tuple[float, int, int, int]:
    """Best first: score, then fewest calls, then shortest."""
    assert played.reward is not None, "only scored trajectories are good"
    score = score_of(kind, played.reward)
    return -score, len(played.calls), played.num_chars, played.sample


def counted_reasons(every: Sequence[Ended]) -> dict[str, int]:
    """Why scored trajectories were not kept, counted by kind of question; the commonest first."""
    found = Counter(
        f"{each.question.source}: {reason}" for each in every for reason in each.reasons
    )
    return dict(found.most_common())
