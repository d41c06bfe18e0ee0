"""One update of the policy: scored groups in, an optimiser step and its figures out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.algorithms.losses import PolicyLoss
from rl.algorithms.samples import Queries, StepSamples, to_samples
from rl.config import RLConfig
from rl.rewards.query import query_rewards
from rl.seeds import seed_of
from rl.types import Trajectory
from sft.learner import Learner
from sft.model import load_model
from sft.reference import FrozenReference
from sft.render import Renderer
from toolshed.types import Json


class PolicyUpdate:
    """The learner of a run, with its algorithm's loss.

    Which random numbers it draws follows from the config's seed and the step.
    """

    def __init__(self, config: RLConfig, folder: Path, renderer: Renderer) -> None:
        """``folder`` holds the weights to begin with, which are those of a KL term as well."""
        self.config = config
        self.source = folder
        self.algorithm = config.chosen_algorithm
        torch.set_num_threads(config.threads)
        model = load_model(folder, dtype=getattr(torch, config.dtype), device=config.device)
        self.learner = Learner(
            model,
            renderer,
            config.optim,
            frozen=config.frozen,
            total_steps=config.steps,
            max_tokens=config.micro_tokens,
            temperature=config.temperature,
            shared_prefix=config.shared_prefix,
            shard=config.shard,
        )
        self._loss = PolicyLoss(
            algorithm=self.algorithm,
            max_tokens=config.max_tokens,
            reference=FrozenReference(self.learner) if self.algorithm.kl else None,
        )

    @property
    def model(self) -> Any:
        return self.learner.model

    def trained(self) -> dict[str, Tensor]:
        return {
            name: parameter.detach()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def export(self, folder: Path) -> None:
        self.learner.export(self.source, folder)

    def samples(
        self, groups: Sequence[Sequence[Trajectory]], queries: Queries = query_rewards
    ) -> StepSamples:
        """What the next step learns from the scored groups."""
        shuffle = None
        if self.config.shuffle_rewards:
            seed = seed_of(self.config.seed, "shuffle", self.learner.step)
            shuffle = np.random.default_rng(seed)
        return to_samples(
            groups,
            self.algorithm,
            max_tokens=self.config.max_tokens,
            shuffle=shuffle,
            queries=queries,
        )

    def learn(self, made: StepSamples) -> dict[str, Json]:
        """Take the step; without samples it is counted and moves nothing."""
        if not made.samples:
            self.learner.step += 1
            return {}
        figures = self.learner.forward_backward(made.samples, self._loss, made.denominator)
        return {**figures, **self.learner.optim_step()}
