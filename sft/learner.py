"""The one learner of SFT and RL: gradients over samples, an optimiser step, exact save and resume.

The loss of a step is a sum over all its trained tokens divided by one number known beforehand, that
of those tokens unless another is given, so neither micro-batching, packing nor padding changes the
gradient.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sft.batch import Batch, empty_batch, micro_batches
from sft.config import LoraConfig, OptimConfig, ShardConfig, check_learner
from sft.logprobs import token_logprobs
from sft.lora import add_adapters, merged_weights, plain_weights, save_adapters
from sft.model import (
    freeze,
    hidden_states,
    image_features,
    recompute_layers,
    save_checkpoint,
    save_tensors,
)
from sft.optimisers import make_optimisers, rate_factor
from sft.prefix import prefix_batches
from sft.prefix_attention import share_prefixes
from sft.ranks import rank, told_by_all
from sft.render import Renderer
from sft.sample import TrainingSample
from sft.zero import Zero
from toolshed.byte_lru import ByteLRU
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import ToolImage

CACHE_FIGURES = ("features_kept",)
"""Figures that depend on what came before, so that they are others after a resume."""
_BLANK = make_image(np.zeros((56, 56, 3), dtype=np.uint8))


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """A loss before its division by the denominator of the step."""

    loss_N: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Further figures, summed over tokens; reported per trained token."""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """Further figures, the largest of a micro-batch; reported as the largest of the step."""


Loss = Callable[[Tensor, Batch], LossTerms]
"""(log-probs of the trained tokens, micro-batch) -> terms."""


def cross_entropy(logprobs_N: Tensor, batch: Batch) -> LossTerms:
    """Negative log-likelihood of the trained tokens, weighted by the samples' advantages."""
    return LossTerms(loss_N=-logprobs_N * batch.advantages_N)


class Learner:
    """Owns a model and its optimisers: on one device, or with ZeRO one rank's share of them.

    With ranks, each calls every method in the same order, ``forward_backward`` with its own share
    of a step's samples; what a method returns is the same on all of them.
    """

    def __init__(
        self,
        model: Any,
        renderer: Renderer,
        optim: OptimConfig,
        *,
        frozen: str = "vision",
        total_steps: int,
        max_tokens: int = 4096,
        temperature: float = 1.0,
        shared_prefix: bool = False,
        shard: ShardConfig | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        shard, lora = shard or ShardConfig(), lora or LoraConfig()
        check_learner(optim, frozen, shard, lora)
        freeze(model, frozen)
        self.lora = lora if lora.rank else None
        if self.lora:
            self._adapted = add_adapters(model, self.lora)
        if shard.checkpointing:
            recompute_layers(model)
        if shared_prefix:
            share_prefixes(model)
        self.model = model
        self.renderer = renderer
        self.optim = optim
        self.frozen = frozen
        self.total_steps = total_steps
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.shared_prefix = shared_prefix
        self.step = 0
        self.schedule_begin = 0
        self._has_told = False
        self.device = next(model.parameters()).device
        self._features: ByteLRU[Tensor] = ByteLRU(shard.features_mb << 20)
        self._num_used = self._num_kept = 0
        self._optimisers = make_optimisers(model, optim)
        self._zero: Zero | None = None
        if shard.zero:
            self._zero = Zero(
                shard.zero, model, self._optimisers[0], optim, self._logprobs, frozen=frozen
            )

    @property
    def is_sharded(self) -> bool:
        """Whether other ranks hold part of what this one trains."""
        return self._zero is not None

    @property
    def is_cut(self) -> bool:
        """Whether this rank's weights are parts, which all ranks gather together."""
        return self._zero is not None and self._zero.stage == 3

    def leave_ranks(self) -> None:
        """Compute alone from here on, with a model that is whole here."""
        self._zero = None

    def forward_backward(
        self,
        samples: Sequence[TrainingSample],
        loss: Loss = cross_entropy,
        denominator: float | None = None,
    ) -> dict[str, float]:
        """Add the gradient of one step's samples; returns the loss and sums per trained token.

        ``denominator`` divides the sum of the losses; None for the number of trained tokens. Both
        are summed over ranks.
        """
        self._num_used = self._num_kept = 0
        batches: list[Batch | None] = [*self.micro_batches(samples)]
        num_trained = sum(sample.num_trained for sample in samples)
        counts = self._told_by_all((len(batches), num_trained, denominator or 0.0))
        num_tokens = sum(count[1] for count in counts)
        if not num_tokens:
            raise ConfigError("no token of these samples is trained; check the transcripts")
        divisor = num_tokens if denominator is None else sum(count[2] for count in counts)
        sums: dict[str, float] = {"loss": 0.0}
        maxima: dict[str, float] = {}
        # Ranks gather weights and sum gradients together, so none may have fewer micro-batches.
        for batch in batches + [None] * (max(count[0] for count in counts) - len(batches)):
            if batch is None:
                batch = empty_batch(self.renderer)
                logprobs = self.logprobs(batch)
                # A loss may ask a reference, which may be cut over ranks as well.
                loss(logprobs.detach(), batch)
                self._backward(logprobs.sum() * 0.0)
                continue
            self._tell_if_long(batch)
            terms = loss(self.logprobs(batch), batch)
            total = terms.loss_N.sum() / divisor
            self._backward(total)
            sums["loss"] += float(total.detach())
            for name, value in terms.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / num_tokens
            for name, value in terms.maxima.items():
                maxima[name] = max(maxima.get(name, -math.inf), float(value.detach()))
        if self._num_used:
            sums |= {"features_used": self._num_used, "features_kept": self._num_kept}
        told = self._told_by_all((sums, maxima))
        return _merged(told) | {"tokens": float(num_tokens)}

    def _told_by_all(self, word: Any) -> list[Any]:
        return told_by_all(word) if self._zero else [word]

    def _backward(self, loss: Tensor) -> None:
        if self._zero:
            self._zero.backward(loss)
        else:
            loss.backward()

    def micro_batches(self, samples: Sequence[TrainingSample]) -> list[Batch]:
        """Samples cut and packed, each prompt once per group if prefixes are shared."""
        if not samples:
            return []
        cut = prefix_batches if self.shared_prefix else micro_batches
        return cut(samples, self.renderer, max_tokens=self.max_tokens)

    def _tell_if_long(self, batch: Batch) -> None:
        """Warn once of a sample longer than a micro-batch may be; it is trained all the same."""
        num_places = batch.token_ids_BT.numel()
        if num_places <= self.max_tokens or self._has_told:
            return
        self._has_told = True
        tqdm.write(
            f"warning: a sample fills {num_places} places, more than the {self.max_tokens} of a "
            "micro-batch (learner.micro_tokens); such samples are trained alone",
            file=sys.stderr,
        )

    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probs of the trained tokens of a micro-batch, with gradient; shape (N,)."""
        return self._zero.logprobs(batch) if self._zero else self._logprobs(batch)

    def _logprobs(self, batch: Batch) -> Tensor:
        # Ranks run every sharded part in the same order, so none may pass over the tower: where
        # there is no picture, it looks at one of no weight.
        is_blank = self._zero is not None and self.frozen != "vision" and not batch.images
        features = self.features((_BLANK,) if is_blank else batch.images)
        hidden = hidden_states(
            self.model,
            batch.token_ids_BT.to(self.device),
            batch.positions_4BT.to(self.device),
            None if is_blank else features,
            batch.groups,
        )
        if is_blank and features is not None:
            hidden = hidden + 0.0 * features.sum().to(hidden.dtype)
        chosen = hidden.flatten(0, 1)[batch.predict_N.to(self.device)]
        targets = batch.targets_N.to(self.device)
        return token_logprobs(
            self.model, chosen, targets, self.renderer.banned_tokens, self.temperature
        )

    def features(self, images: Sequence[ToolImage]) -> Tensor | None:
        """Features of pictures in order; a frozen tower sees no picture whose features are kept."""
        if not images:
            return None
        distinct = {image.sha256: image for image in images}
        if self.frozen == "vision":
            found = {key: self._features.get(key) for key in distinct}
            known = {key: feature for key, feature in found.items() if feature is not None}
            self._num_used += len(distinct)
            self._num_kept += len(known)
            missing = [image for key, image in distinct.items() if key not in known]
            if missing:
                with torch.no_grad():
                    made = self._compute_features(missing)
                for key, feature in made.items():
                    # A part of what was made together would hold the whole.
                    self._features.put(key, feature.clone(), feature.nbytes)
                known |= made
        else:
            known = self._compute_features(list(distinct.values()))
        return torch.cat([known[image.sha256] for image in images])

    def _compute_features(self, images: Sequence[ToolImage]) -> dict[str, Tensor]:
        inputs = [self.renderer.vision(image) for image in images]
        patches = torch.cat([torch.from_numpy(v.patches) for v in inputs]).to(self.device)
        grids = torch.tensor([v.grid for v in inputs], device=self.device)
        features = image_features(self.model, patches, grids)
        parts = torch.split(features, [v.num_tokens for v in inputs])
        return {image.sha256: part for image, part in zip(images, parts, strict=True)}

    def optim_step(self) -> dict[str, float]:
        """Clip, move the weights, clear gradients; returns the gradient norm and the rate."""
        factor = self._rate_factor()
        if self._zero:
            self._set_rates(factor)
            norm = self._zero.step()
            fate = "the last checkpoint is whole"
        else:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            norm = float(torch.nn.utils.clip_grad_norm_(trained, self.optim.clip_norm))
            fate = "the weights were not moved and the last checkpoint is whole"
        if not math.isfinite(norm):
            raise ConfigError(
                f"the gradient of step {self.step + 1} is {norm}; {fate}: "
                "lower learner.optim.lr, or train in float32"
            )
        if not self._zero:
            self._set_rates(factor)
            for optimiser in self._optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return {"grad_norm": norm, "lr": self.optim.lr * factor}

    def _set_rates(self, factor: float) -> None:
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * factor

    def restart_schedule(self, steps: int) -> None:
        """Run the schedule once more over ``steps`` further steps, without its warm-up."""
        self.schedule_begin, self.total_steps = self.step, steps

    def _rate_factor(self) -> float:
        optim = replace(self.optim, warmup_steps=0) if self.schedule_begin else self.optim
        return rate_factor(optim, self.step - self.schedule_begin, self.total_steps)

    def save_state(self, path: Path) -> None:
        """Weights, optimiser and step, for an exact resume; with ZeRO ``path`` is a folder, in
        which every rank keeps its shard."""
        record = {"step": self.step, "schedule": (self.schedule_begin, self.total_steps)}
        if self._zero:
            self._zero.save(path, record)
            return
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            **record,
        }
        save_tensors(state, path)

    def load_state(self, path: Path) -> None:
        if self._zero:
            state = self._zero.load(path)
        else:
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
        self.step = int(state["step"])
        self.schedule_begin, self.total_steps = state["schedule"]
        self._features.clear()

    def export(
        self, source: str | Path, folder: str | Path, *, schema: dict[str, str] | None = None
    ) -> None:
        """Write a Hugging Face folder, as ``sft.model.save_checkpoint`` does, adapters merged into
        the weights; rank 0 writes."""
        weights = self._weights() if self._zero or self.lora else None
        if rank() == 0:
            if weights is not None and self.lora:
                weights = merged_weights(weights, self.lora)
            save_checkpoint(self.model, source, folder, schema=schema, weights=weights)
        self._told_by_all(None)

    def export_adapters(self, folder: str | Path) -> None:
        """Write the adapters alone, a folder that PEFT loads; rank 0 writes."""
        assert self.lora, "this learner trains no adapters"
        weights = self.trained_weights()
        if rank() == 0:
            save_adapters(self._adapted, folder, weights)
        self._told_by_all(None)

    def trained_weights(self) -> dict[str, Tensor]:
        """What is trained, by name; where weights are cut, on the CPU of rank 0, else empty."""
        if self._zero and self.is_cut:
            return self._zero.whole_weights(trained=True)
        return plain_weights(self.model, trained=True)

    def _weights(self) -> dict[str, Tensor]:
        """All weights by name; with ZeRO gathered on rank 0, and none on the others."""
        return self._zero.whole_weights() if self._zero else plain_weights(self.model)

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Inside, the model says what it said before its adapters learned anything."""
        assert self.lora, "this learner trains no adapters"
        with self._adapted.disable_adapter():
            yield


def _merged(told: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, float]:
    """(sums, maxima) of every rank -> figures of all."""
    sums: dict[str, float] = {}
    maxima: dict[str, float] = {}
    for own_sums, own_maxima in told:
        for name, value in own_sums.items():
            sums[name] = sums.get(name, 0.0) + value
        for name, value in own_maxima.items():
            maxima[name] = max(maxima.get(name, -math.inf), value)
    return sums | maxima
