"""Adapters: they alone learn, are saved alone, and merge into an ordinary folder."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from sft.config import LoraConfig, OptimConfig, ShardConfig
from sft.learner import Learner
from sft.lora import merged_weights, plain_weights
from sft.model import load_model
from sft.reference import FrozenReference
from sft.render import Renderer
from tests.sft.groups import Shape, group
from toolshed.errors import ConfigError

needs_peft = pytest.mark.skipif(
    find_spec("peft") is None, reason="PEFT is not installed (extra: train)"
)
SHAPE = Shape(prompt=20, prompt_images=1, answers=((5,), (3, 4), (9,)))
RANK = 4


def learner(tiny: Path, **words: Any) -> Learner:
    options: dict[str, Any] = {
        "lora": LoraConfig(rank=RANK, alpha=16),
        "shared_prefix": True,
    } | words
    return Learner(
        load_model(tiny), Renderer.load(tiny), OptimConfig(lr=1e-2), total_steps=9, **options
    )


def taught(one: Learner, steps: int = 3) -> Learner:
    for step in range(steps):
        one.forward_backward(group(one.renderer, SHAPE, step))
        one.optim_step()
    return one


@torch.no_grad()
def logprobs(one: Learner) -> torch.Tensor:
    (batch,) = one.micro_batches(group(one.renderer, SHAPE, 77))
    return one.logprobs(batch)


@needs_peft
def test_adapters_begin_as_nothing_and_alone_learn(tiny: Path) -> None:
    one, plain = learner(tiny), learner(tiny, lora=None)
    assert torch.allclose(logprobs(one), logprobs(plain), atol=1e-6)
    before = {name: w.clone() for name, w in plain_weights(one.model).items()}
    taught(one)
    moved = {n for n, w in plain_weights(one.model).items() if not torch.equal(w, before[n])}
    assert moved and all(".lora_" in name and "language_model" in name for name in moved)
    assert len(moved) == 4 * 7 * 2
    assert float((logprobs(one) - logprobs(plain)).abs().max()) > 1e-2


@needs_peft
@pytest.mark.parametrize("recompute", [False, True])
def test_the_merged_export_is_an_ordinary_folder_that_says_the_same(
    recompute: bool, tiny: Path, tmp_path: Path
) -> None:
    one = taught(learner(tiny, shard=ShardConfig(checkpointing=recompute)))
    one.export(tiny, tmp_path / "final")
    with safe_open(tmp_path / "final" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    with safe_open(tiny / "model.safetensors", "pt") as file:
        assert names == set(file.keys())
    merged = learner(tmp_path / "final", lora=None)
    assert float((logprobs(merged) - logprobs(one)).abs().max()) <= 1e-4


@needs_peft
def test_merging_equals_pefts_own(tiny: Path) -> None:
    one = taught(learner(tiny))
    ours = merged_weights(plain_weights(one.model), LoraConfig(rank=RANK, alpha=16))
    theirs = dict(one._adapted.merge_and_unload().named_parameters())
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - w).detach().abs().max()) for n, w in theirs.items()) <= 1e-6


@needs_peft
def test_adapters_saved_alone_are_what_peft_loads(tiny: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    one = taught(learner(tiny))
    one.export_adapters(tmp_path / "adapters")
    size = (tmp_path / "adapters" / "adapter_model.safetensors").stat().st_size
    assert size < 0.15 * (tiny / "model.safetensors").stat().st_size
    fresh = learner(tiny, lora=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        PeftModel.from_pretrained(fresh.model, tmp_path / "adapters")
    assert torch.allclose(logprobs(fresh), logprobs(one), atol=1e-6)


@needs_peft
def test_training_resumes_and_the_reference_stays(tiny: Path, tmp_path: Path) -> None:
    one = learner(tiny)
    reference, before = FrozenReference(one), logprobs(one)
    taught(one, 2).save_state(tmp_path / "state.pt")
    samples = group(one.renderer, SHAPE, 5)
    (batch,) = one.micro_batches(group(one.renderer, SHAPE, 77))
    assert torch.equal(reference(batch), before)
    other = learner(tiny)
    other.load_state(tmp_path / "state.pt")
    told = [each.forward_backward(samples) | each.optim_step() for each in (one, other)]
    assert told[0] == told[1] and torch.equal(logprobs(one), logprobs(other))


def test_a_trained_tower_with_adapters_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"set learner\.frozen=vision"):
        learner(tiny, frozen="none")
