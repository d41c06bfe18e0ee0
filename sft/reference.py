"""The weights that a learner began with: the reference of a KL term."""

from __future__ import annotations

from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft.batch import Batch
from sft.learner import Learner
from sft.model import load_model
from sft.prefix_attention import share_prefixes


class FrozenReference:
    """Log-probs under the weights that a learner has now; made before it takes or loads a step.

    One forward pass per call. A learner of adapters is asked with its adapters disabled; else this
    costs the memory of the trained weights once more, whole on every rank. What the learner does
    not train, a frozen vision tower and the features it made, is shared.
    """

    def __init__(self, learner: Learner, source: str | Path | None = None) -> None:
        """``source`` is the checkpoint that the learner has loaded, needed where ranks have cut it
        up."""
        self._learner = learner
        if learner.lora:
            return
        self._learner = copy(learner)
        self._learner.model = _loaded(learner, source) if learner.is_sharded else _copied(learner)
        self._learner.model.requires_grad_(False)
        self._learner.leave_ranks()

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Log-probs of the trained tokens of a micro-batch, shape (N,), without gradient."""
        if not self._learner.lora:
            return self._learner.logprobs(batch)
        with self._learner.without_adapters():
            return self._learner.logprobs(batch)


def _copied(learner: Learner) -> Any:
    still = [p for p in learner.model.parameters() if not p.requires_grad]
    return deepcopy(learner.model, {id(p): p for p in still})


def _loaded(learner: Learner, source: str | Path | None) -> Any:
    assert source is not None, "where weights are cut, a reference has to be loaded"
    model: Any = load_model(source, dtype=learner.model.dtype, device=str(learner.device))
    if learner.shared_prefix:
        share_prefixes(model)
    if learner.frozen == "vision":
        model.model.visual = learner.model.model.visual
    return model
