"""The recipes of step 3 hold what was published: every value of the paper's table 6 and of the
released script that we can express."""

from __future__ import annotations

import itertools

import pytest
import yaml

from sft.config import load_config, to_yaml
from sft.mixture import parse_mixture
from sft.optimisers import rate_factor
from sft.train import SFTConfig
from toolshed.toolset import ToolSet

VARIANTS = ("", "_paper", "_code")
NAMES = [version + variant for version, variant in itertools.product(("v1", "v2"), VARIANTS)]
NUM_TOOLS = {"v1": 11, "v2": 17}
NUM_ROWS = {"v1": 7907 - 887, "v2": 7907}


def recipe(name: str, *words: str) -> SFTConfig:
    return load_config(SFTConfig, "sft", name, words)


@pytest.mark.parametrize("name", NAMES)
def test_what_all_share(name: str) -> None:
    config, version = recipe(name), name.partition("_")[0]
    assert yaml.safe_load(to_yaml(config))["steps"] == config.steps == 3000
    assert len(ToolSet.named(config.tools.config, None).specs) == NUM_TOOLS[version]
    assert (config.model, config.out) == ("models/Qwen2.5-VL-3B-Instruct", "")
    data, learner, optim = config.data, config.learner, config.learner.optim
    (part,) = parse_mixture(data.mixture)
    assert part.name == "hub:siyich/spacetools-sft" and not config.sources
    assert list(data.leave_out) == (["robot"] if version == "v1" else [])
    assert (data.batch, data.eval_rows, data.max_pixels) == (8, 20, 512 * 512)
    assert (learner.frozen, learner.lora.rank, learner.micro_tokens) == ("vision", 0, 8192)
    assert learner.shard.checkpointing
    assert (optim.schedule, optim.weight_decay, optim.clip_norm) == ("cosine", 0.0, 1.0)
    assert (tuple(optim.betas), optim.muon_lr) == ((0.9, 0.999), 0.0)
    assert (config.device, config.dtype) == ("cuda", "bfloat16")
    # The system turn of RL has the same tools.
    trained = ToolSet.named("v1" if version == "v1" else "v2_mock", None)
    assert ToolSet.named(config.tools.config, None).schema_hash == trained.schema_hash


@pytest.mark.parametrize("name", NAMES)
def test_rates_lengths_and_saves(name: str) -> None:
    config, (version, _, variant) = recipe(name), name.partition("_")
    if variant == "paper":
        expected = (1e-5, 2.0)
        steps = -(-2 * (NUM_ROWS[version] - config.data.eval_rows) // config.data.batch)
    else:
        expected, steps = (2e-5, 0.0), config.steps
    optim = config.learner.optim
    assert (optim.lr, config.data.epochs) == expected
    assert optim.warmup_steps == steps // 10
    peak = max(range(steps), key=lambda step: rate_factor(optim, step, steps))
    assert peak == optim.warmup_steps - 1
    assert rate_factor(optim, steps, steps) == 0.0
    assert rate_factor(optim, (steps + optim.warmup_steps) // 2, steps) == pytest.approx(
        0.5, abs=1e-3
    )
    if variant:
        assert (config.data.eval_every, config.save_every) == (5, 500)
        assert config.learner.shard.zero == 3


def test_a_word_replaces_the_data() -> None:
    config = recipe("v1", "data.mixture=mine.json*2", "device=cpu", "model=here")
    assert (config.data.mixture, config.device, config.model) == ("mine.json*2", "cpu", "here")
