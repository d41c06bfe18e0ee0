"""Group-relative policy optimisation: advantages within a group, a clipped token-level loss.

GRPO: arXiv 2402.03300, equation 3; clip-higher and the token-level mean: DAPO, arXiv 2503.14476,
equations 8 to 10. One update per batch needs no second forward pass for old log-probs: the
engine's are the policy that sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl.types import Trajectory
from sft.batch import Batch
from sft.learner import LossTerms
from sft.sample import TrainingSample

DEAD_SPREAD = 1e-3
"""A group whose rewards spread less carries no signal; rounding noise must not be scaled up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCounts:
    """What became of the groups and trajectories of one step."""

    num_groups: int
    num_dead: int
    """Groups without spread, dropped before any forward pass."""
    num_untrainable: int
    """Trajectories that our machinery broke."""


def group_advantages(rewards_G: Sequence[float]) -> npt.NDArray[np.float64] | None:
    """(reward - mean) / standard deviation, shape (G,); None for a group without spread."""
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if len(rewards) < 2 or rewards.std() < DEAD_SPREAD:
        return None
    advantages: npt.NDArray[np.float64] = (rewards - rewards.mean()) / rewards.std()
    return advantages


def to_samples(
    groups: Sequence[Sequence[Trajectory]], *, shuffle: np.random.Generator | None = None
) -> tuple[list[TrainingSample], GroupCounts]:
    """Scored groups -> samples. ``shuffle`` permutes rewards within each group: the control."""
    samples: list[TrainingSample] = []
    num_dead = num_untrainable = 0
    for group in groups:
        usable = [t for t in group if t.stop_reason.is_trainable]
        num_untrainable += len(group) - len(usable)
        rewards = np.array([_value(trajectory) for trajectory in usable])
        if shuffle is not None:
            shuffle.shuffle(rewards)
        advantages = group_advantages(rewards.tolist())
        if advantages is None:
            num_dead += 1
            continue
        samples += [to_sample(t, float(a)) for t, a in zip(usable, advantages, strict=True)]
    counts = GroupCounts(num_groups=len(groups), num_dead=num_dead, num_untrainable=num_untrainable)
    return samples, counts


def to_sample(trajectory: Trajectory, advantage: float) -> TrainingSample:
    return TrainingSample(
        token_ids=trajectory.token_ids,
        spans=trajectory.spans,
        images=trajectory.images,
        advantage=advantage,
        logprobs=trajectory.logprobs,
        source=trajectory.question.source,
    )


def _value(trajectory: Trajectory) -> float:
    assert trajectory.reward is not None, "a trainable trajectory was not scored"
    return trajectory.reward.value


@dataclass(frozen=True, slots=True)
class GrpoLoss:
    """The clipped surrogate; ``clip_high`` > ``clip_low`` lets rare tokens grow (clip-higher)."""

    clip_low: float = 0.2
    clip_high: float = 0.28

    def __call__(self, logprobs_N: Tensor, batch: Batch) -> LossTerms:
        old_N = batch.logprobs_N.to(logprobs_N.device)
        advantages_N = batch.advantages_N.to(logprobs_N.device)
        ratio_N = torch.exp(logprobs_N - old_N)
        clipped_N = ratio_N.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_N = -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
        with torch.no_grad():
            sums = {
                "mismatch": (logprobs_N - old_N).abs().sum(),
                "clip_share": (ratio_N != clipped_N).float().sum(),
                "neg_logprob": -logprobs_N.sum(),
            }
        return LossTerms(loss_N=loss_N, sums=sums)
