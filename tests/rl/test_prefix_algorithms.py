"""Every algorithm reads the same loss, figures and gradient from groups that share their prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rl.algorithms.losses import PolicyLoss
from rl.algorithms.table import ALGORITHMS, Overrides, algorithm_named
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.reference import FrozenReference
from sft.render import Renderer
from tests.sft.groups import Shape, group

CASES = {**ALGORITHMS, "grpo k3": algorithm_named("grpo", Overrides(kl=0.5, kl_estimator="k3"))}


@pytest.mark.parametrize("name", CASES)
def test_loss_figures_and_gradient_equal_those_of_the_plain_path(name: str, tiny: Path) -> None:
    def step(shared: bool) -> tuple[dict[str, float], torch.Tensor]:
        one = Learner(
            load_model(tiny), Renderer.load(tiny), OptimConfig(), total_steps=1, max_tokens=200,
            shared_prefix=shared,
        )  # fmt: skip
        samples = [
            *group(one.renderer, Shape(prompt=50, prompt_images=1, answers=((3, 4), (9,), (1,)))),
            *group(one.renderer, Shape(prompt=20, answers=((30,), (5, 5))), seed=1)[1:],
        ]
        with torch.no_grad():
            reference = FrozenReference(one)
            for parameter in one.model.parameters():
                parameter += 0.01 * torch.sin(torch.arange(parameter.numel())).view_as(parameter)
        loss = PolicyLoss(algorithm=CASES[name], max_tokens=64, reference=reference)
        told = one.forward_backward(samples, loss, 10.0)
        # Micro-batches are others, and so is how often a picture is looked up.
        told = {name: told[name] for name in told if not name.startswith("features_")}
        return told, torch.cat([p.grad.flatten() for p in one.model.parameters()
                                if p.grad is not None])  # fmt: skip

    (plain, expected), (told, got) = step(False), step(True)
    assert float((got - expected).abs().max() / expected.abs().max()) <= 1e-5
    assert told == pytest.approx(plain, rel=1e-4, abs=1e-5)
    assert told["loss"] == pytest.approx(plain["loss"], rel=1e-5)
