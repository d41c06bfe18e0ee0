"""DeepSpeed's ZeRO under the learner: gradients, optimiser and (stage 3) weights cut over ranks.

What is trained is sharded; a frozen vision tower stays whole on every rank, so that ranks may run
it as often as their pictures need. Weights below float32 get a float32 master in the optimiser.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft.batch import Batch
from sft.config import OptimConfig
from sft.model import save_tensors
from sft.ranks import join_ranks, num_ranks, told_by_all
from toolshed.errors import ConfigError

_TAG = "state"


class Zero:
    """Owns the engine of one learner. All ranks must call every method, in the same order."""

    def __init__(
        self,
        stage: int,
        model: Any,
        optimiser: torch.optim.Optimizer,
        optim: OptimConfig,
        forward: Callable[[Batch], Tensor],
        *,
        frozen: str,
    ) -> None:
        deepspeed = _import_deepspeed(model)
        self.stage = stage
        self._model = model
        parts = {"language_model": model.model.language_model, "lm_head": model.lm_head}
        if frozen != "vision":
            parts["visual"] = model.model.visual
        self._engine, *_ = deepspeed.initialize(
            model=_Root(parts, forward),
            optimizer=optimiser,
            config=_settings(stage, optim, model.dtype),
        )
        self._engine.checkpoint_engine.save = _save

    def logprobs(self, batch: Batch) -> Tensor:
        """The learner's forward pass, run where the weights that it needs are gathered."""
        out: Tensor = self._engine(batch)
        return out

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of the loss; ranks are summed, not averaged."""
        self._engine.backward(loss * num_ranks(), scale_wrt_gas=False)

    def step(self) -> float:
        """Clip, move the weights, clear gradients; returns the gradient norm over all ranks."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def save(self, folder: Path, record: dict[str, Any]) -> None:
        """Every rank writes its shard into ``folder``, which then lies whole."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, client_state=record)

    def load(self, folder: Path) -> dict[str, Any]:
        """What ``save`` was given; raises ConfigError for shards of another number of ranks."""
        there = len(list((folder / _TAG).glob("*zero_pp_rank_*_optim_states.pt")))
        if there != num_ranks():
            raise ConfigError(
                f"{folder} holds the shards of {there} ranks and this run has {num_ranks()}; "
                "resume with as many as it was saved by"
            )
        path, record = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if path is None:
            raise ConfigError(f"{folder} holds no state that ZeRO can resume")
        told: dict[str, Any] = record
        return told

    def whole_weights(self, *, trained: bool = False) -> dict[str, Tensor]:
        """Every weight, or every ``trained`` one, by its name in the model, gathered on the CPU of
        rank 0; else empty."""
        import deepspeed

        whole: dict[str, Tensor] = {}
        for name, parameter in self._model.named_parameters():
            if trained and not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                if self._engine.global_rank == 0:
                    whole[name] = parameter.detach().to("cpu", copy=True)
        told_by_all(None)
        return whole


def _save(state_dict: dict[str, Any], path: str) -> None:
    """In place of DeepSpeed's own, which does not say why a disk takes no more."""
    save_tensors(state_dict, Path(path))


class _Root(nn.Module):
    """What is sharded; its forward pass is the learner's own."""

    def __init__(self, parts: dict[str, nn.Module], forward: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self._run = forward

    def forward(self, batch: Batch) -> Tensor:
        return self._run(batch)


def _import_deepspeed(model: Any) -> Any:
    """Ranks meet before, so that DeepSpeed joins them instead of looking for MPI."""
    if find_spec("deepspeed") is None:
        raise ConfigError("zero= needs DeepSpeed; install the extra: pip install -e '.[train]'")
    if model.dtype == torch.float16:
        raise ConfigError("zero= with dtype=float16 would need loss scaling; use bfloat16")
    device = next(model.parameters()).device
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    join_ranks(str(device))
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Else DeepSpeed compiles shared-memory collectives for CPUs, for minutes; gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(stage: int, optim: OptimConfig, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        # The learner says when a step is due: ranks agree on the number of micro-batches.
        "managed_gradient_accumulation": False,
        "gradient_clipping": optim.clip_norm,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        # torch's AdamW, also on CPUs, where DeepSpeed would compile its own.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
