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
from rl.ranks import Leader
from rl.rewards.query import query_rewards
from rl.seeds import seed_of
from rl.types import Trajectory
from sft.checkpoint import EXPORT
from sft.learner import Learner
from sft.model import load_model
from sft.ranks import num_ranks, own_device, shares
from sft.reference import FrozenReference
from sft.render import Renderer
from sft.sample import TrainingSample
from toolshed.types import Json


class RankUpdate:
    """What one rank does of every update; all ranks call the same methods in the same order."""

    def __init__(self, config: RLConfig, source: Path) -> None:
        self.config, self.source = config, source
        algorithm, options = config.chosen_algorithm, config.learner
        torch.set_num_threads(config.threads)
        # What adapters begin with is drawn.
        torch.manual_seed(config.seed)
        device = own_device(config.device)
        self.learner = Learner(
            load_model(source, dtype=getattr(torch, config.dtype), device=device),
            Renderer.load(source, max_pixels=config.rollout.max_pixels),
            options.optim,
            frozen=options.frozen,
            total_steps=config.steps,
            max_tokens=options.micro_tokens,
            temperature=config.rollout.temperature,
            shared_prefix=options.shared_prefix,
            shard=options.shard,
            lora=options.lora,
        )
        self._loss = PolicyLoss(
            algorithm=algorithm,
            max_tokens=config.rollout.max_tokens,
            reference=FrozenReference(self.learner, source) if algorithm.kl else None,
        )

    def logprobs(self, sample: TrainingSample) -> Tensor:
        """Of the sampled tokens of one sample, on the CPU; shape (N,)."""
        (batch,) = self.learner.micro_batches([sample])
        with torch.no_grad():
            return self.learner.logprobs(batch).float().cpu()

    def learn(self, samples: Sequence[TrainingSample], denominator: float) -> dict[str, Json]:
        """Take a step on this rank's samples; ``denominator`` is summed over ranks."""
        figures = self.learner.forward_backward(samples, self._loss, denominator)
        return {**figures, **self.learner.optim_step()}

    def skip(self) -> None:
        """Count a step in which nothing would move."""
        self.learner.step += 1

    def trained(self) -> dict[str, Tensor]:
        return self.learner.trained_weights()

    def save(self, folder: Path, schema: dict[str, str] | None) -> None:
        self.learner.save_state(folder / "state.pt")
        if self.config.save.hf:
            self.learner.export(self.source, folder / EXPORT, schema=schema)

    def load(self, folder: Path) -> None:
        self.learner.load_state(folder / "state.pt")

    def export(self, folder: Path, schema: dict[str, str] | None) -> None:
        self.learner.export(self.source, folder, schema=schema)

    def export_adapters(self, folder: Path) -> None:
        self.learner.export_adapters(folder)


class PolicyUpdate:
    """The learner of a run, with its algorithm's loss: rank 0's, which tells the other ranks.

    Which random numbers it draws follows from the config's seed and the step.
    """

    def __init__(
        self,
        config: RLConfig,
        folder: Path,
        *,
        leader: Leader | None = None,
        schema: dict[str, str] | None = None,
    ) -> None:
        """``folder`` holds the weights to begin with, which are those of a KL term as well;
        ``schema`` records in what is exported the tools that it was trained with."""
        self.config = config
        self.source = folder
        self.algorithm = config.chosen_algorithm
        self._schema = schema
        self._leader = leader or Leader(config)
        begin = [(folder,)] * num_ranks()
        self._own = self._leader.together("begin", begin, lambda it: RankUpdate(config, it))
        self.learner = self._own.learner

    @property
    def model(self) -> Any:
        return self.learner.model

    def trained(self) -> dict[str, Tensor]:
        """Trained tensors, or those of the adapters, whole; copies on the CPU where ZeRO has cut
        them, else the live ones."""
        # Ranks whose weights are whole need not be asked.
        found: dict[str, Tensor] = (
            self._all("trained") if self.learner.is_cut else self._own.trained()
        )
        return found

    def export(self, folder: Path) -> None:
        self._all("export", folder, self._schema)

    def export_adapters(self, folder: Path) -> None:
        self._all("export_adapters", folder)

    def save(self, folder: Path) -> None:
        """Fill the folder of a checkpoint with what ``load`` goes on from."""
        self._all("save", folder, self._schema)

    def load(self, folder: Path) -> None:
        self._all("load", folder)

    def logprobs(self, sample: TrainingSample) -> Tensor:
        """Of the sampled tokens of one sample under the weights of now, on the CPU; shape (N,)."""
        found: Tensor = self._all("logprobs", sample)
        return found

    def _all(self, verb: str, *words: Any) -> Any:
        return self._leader.together(verb, [words] * num_ranks(), getattr(self._own, verb))

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
            max_tokens=self.config.rollout.max_tokens,
            shuffle=shuffle,
            queries=queries,
        )

    def learn(self, made: StepSamples) -> dict[str, Json]:
        """Take the step; without samples it is counted and moves nothing."""
        if not made.samples:
            self._all("skip")
            return {}
        parts: list[list[TrainingSample]] = [made.samples]
        if num_ranks() > 1:
            whole = self.config.learner.shared_prefix
            parts = shares(made.samples, self.learner.renderer, whole_groups=whole)
        words = [(part, 0.0 if number else made.denominator) for number, part in enumerate(parts)]
        return self._leader.together("learn", words, self._own.learn)
