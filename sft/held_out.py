"""The loss on conversations that are not trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch

from sft.batch import Batch, empty_batch
from sft.learner import Learner
from sft.ranks import told_by_all
from sft.sample import TrainingSample

_AT_ONCE = 32
"""Samples whose pictures are held at a time."""


def held_out_loss(
    learner: Learner,
    samples: Iterable[TrainingSample],
    own: Callable[[list[TrainingSample]], list[TrainingSample]],
) -> float:
    """Mean negative log-likelihood of the trained tokens of all samples; no gradient, and nothing
    of the learner is changed. ``own`` is a rank's share of some; every rank calls this."""
    total, num_tokens, rest = 0.0, 0, iter(samples)
    while some := list(itertools.islice(rest, _AT_ONCE)):
        loss, tokens = _sums(learner, own(some))
        total, num_tokens = total + loss, num_tokens + tokens
    return total / max(num_tokens, 1)


@torch.no_grad()
def _sums(learner: Learner, samples: list[TrainingSample]) -> tuple[float, int]:
    """Loss and tokens over all ranks."""
    tokens, loss = sum(sample.num_trained for sample in samples), 0.0
    batches: list[Batch | None] = [*learner.micro_batches(samples)]
    if learner.is_sharded:
        # Ranks gather weights together, so none may have fewer micro-batches.
        most = max(told_by_all(len(batches)))
        batches += [None] * (most - len(batches))
    for batch in batches:
        logprobs = learner.logprobs(batch or empty_batch(learner.renderer))
        loss -= float(logprobs.sum()) if batch else 0.0
    if not learner.is_sharded:
        return loss, tokens
    told = told_by_all((loss, tokens))
    return sum(each[0] for each in told), sum(each[1] for each in told)
