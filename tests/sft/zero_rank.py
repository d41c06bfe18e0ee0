"""One rank of a small training run: ``python zero_rank.py CHECKPOINT OUT STAGE [WORD ...]``.

Five steps; rank 0 writes figures and final weights to ``OUT/told.pt``. Words: ``tower`` trains
the vision tower too, ``shared`` shares prompts, ``bf16``, ``recompute``, ``kl`` adds a KL term,
``lora`` trains adapters, ``stop`` saves and ends after three steps, ``resume`` goes on from there.
Stage 0 is one process without DeepSpeed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from rl.algorithms.losses import PolicyLoss
from rl.algorithms.table import Overrides, algorithm_named
from sft.config import LoraConfig, OptimConfig, ShardConfig
from sft.learner import Learner
from sft.model import load_model
from sft.ranks import join_ranks, own_share, rank
from sft.reference import FrozenReference
from sft.render import Renderer
from sft.sample import TrainingSample
from tests.sft.groups import Shape, group

STEPS = 5
SHAPES = (
    Shape(prompt=40, prompt_images=1, answers=((9, 4), (3,), (20, 1, 1))),
    Shape(prompt=12, answers=((12,), (2,), (30,))),
    Shape(prompt=25, prompt_images=1, answers=((5,),)),
)


def step_samples(renderer: Renderer, step: int) -> list[TrainingSample]:
    """Ragged groups; the last step has one sample, so one of two ranks has none."""
    shapes = SHAPES[2:] if step == STEPS - 1 else SHAPES
    return [s for i, shape in enumerate(shapes) for s in group(renderer, shape, 10 * step + i)]


def main(checkpoint: Path, out: Path, stage: int, words: list[str]) -> None:
    torch.set_num_threads(1)
    if stage:
        join_ranks("cpu")
    renderer = Renderer.load(checkpoint)
    torch.manual_seed(0)
    learner = Learner(
        load_model(checkpoint, dtype=torch.bfloat16 if "bf16" in words else torch.float32),
        renderer,
        OptimConfig(lr=1e-3, clip_norm=0.5, weight_decay=0.01, warmup_steps=2),
        frozen="none" if "tower" in words else "vision",
        total_steps=STEPS,
        max_tokens=150,
        shared_prefix="shared" in words,
        shard=ShardConfig(zero=stage, checkpointing="recompute" in words),
        lora=LoraConfig(rank=4 if "lora" in words else 0),
    )
    state = out / "state"
    loss = PolicyLoss(algorithm=algorithm_named("grpo"), max_tokens=64)
    if "kl" in words:
        algorithm = algorithm_named("grpo", Overrides(kl=0.5, kl_estimator="k3"))
        reference = FrozenReference(learner, checkpoint)
        loss = PolicyLoss(algorithm=algorithm, max_tokens=64, reference=reference)
    if "resume" in words:
        learner.load_state(state)
    told: list[dict[str, float]] = []
    for step in range(learner.step, 3 if "stop" in words else STEPS):
        samples = step_samples(renderer, step)
        mine = own_share(samples, renderer, whole_groups="shared" in words) if stage else samples
        share = sum(sample.num_trained for sample in mine)
        told.append(learner.forward_backward(mine, loss, share) | learner.optim_step())
    if "stop" in words:
        learner.save_state(state)
    learner.export(checkpoint, out / "final")
    if rank() == 0:
        weights: dict[str, Any] = dict(load_model(out / "final").named_parameters())
        torch.save({"told": told, "weights": weights}, out / "told.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
