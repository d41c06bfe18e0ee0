"""The recipes hold what was published: every value of the paper's table 6 and of the released
scripts that we can express."""

from __future__ import annotations

import itertools

import pytest
import yaml

from rl.config import RLConfig
from sft.config import load_config, to_yaml
from toolshed.toolset import ToolSet

RECIPES = ("point", "v1", "v2")
VARIANTS = ("", "_paper", "_code")
NAMES = [recipe + variant for recipe, variant in itertools.product(RECIPES, VARIANTS)]
NUM_TOOLS = {"point": 1, "v1": 11, "v2": 17}
NUM_ROWS = {"point": 4000, "v1": 5500, "v2": 5500}


def recipe(name: str, *words: str) -> RLConfig:
    return load_config(RLConfig, "rl", name, words)


@pytest.mark.parametrize("name", NAMES)
def test_each_composes_and_names_its_data_and_tools(name: str) -> None:
    config, kind = recipe(name), name.partition("_")[0]
    assert load_config(RLConfig, "rl", name, []) == config
    assert yaml.safe_load(to_yaml(config))["steps"] == config.steps
    assert len(ToolSet.named(config.tools.config, None).specs) == NUM_TOOLS[kind]
    (part,) = config.data
    full = "point" if kind == "point" else "full"
    assert part.path == f"hub:siyich/spacetools-rl{full}tools" and part.rows == NUM_ROWS[kind]
    assert config.val.data.endswith("eval-benchmarks@1d539ac9/data/robospatial.parquet")
    assert config.model == config.out == ""


@pytest.mark.parametrize("name", [name for name in NAMES if "_" in name])
def test_what_paper_and_code_share(name: str) -> None:
    config = recipe(name)
    limits = config.rollout
    algorithm, optim, engine = config.chosen_algorithm, config.learner.optim, config.engine
    assert (config.num_prompts, config.group_size, limits.temperature) == (64, 5, 1.0)
    # A step is one update on the batch that was just played, all 320 at a time.
    assert (config.max_staleness, limits.width, config.selection.order) == (0, 320, "uniform")
    assert (optim.lr, optim.weight_decay, optim.clip_norm) == (1e-6, 0.01, 1.0)
    assert (optim.schedule, optim.warmup_steps, tuple(optim.betas)) == ("constant", 0, (0.9, 0.999))
    assert (config.learner.frozen, config.learner.lora.rank) == ("vision", 0)
    assert (algorithm.advantage, algorithm.aggregation) == ("group_std", "token_mean")
    assert (algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip) == (0.2, 0.2, 3.0)
    assert (algorithm.ratio, algorithm.kl_estimator, algorithm.truncate) == ("token", "k3", 0.0)
    assert (algorithm.overlong, algorithm.refill, algorithm.query_credit) == (0.0, 0.0, 0.0)
    # 8192 for the prompt, 8192 for what follows.
    assert (limits.max_tokens, limits.max_length - limits.max_tokens) == (8192, 8192)
    assert limits.max_turn_tokens == limits.max_tokens
    assert (limits.max_turns, limits.max_calls, limits.max_reply_chars) == (8, 8, 2048)
    assert (config.save.every, config.val.every, config.val.limit) == (5, 5, 0)
    assert limits.max_pixels == 0
    assert (config.policy, engine.tensor_parallel, engine.dtype) == ("sglang", 1, "bfloat16")
    assert config.learner.shard.checkpointing and config.reward.format == 0.0


@pytest.mark.parametrize(
    ("name", "kl", "epochs", "point"),
    [
        ("point_paper", 1e-4, 5, "nndc"),
        ("point_code", 0.01, 15, "binary"),
        ("v1_paper", 1e-4, 2, "nndc"),
        ("v1_code", 0.01, 1, "binary"),
        ("v2_paper", 1e-4, 2, "nndc"),
        ("v2_code", 0.01, 1, "binary"),
    ],
)
def test_where_paper_and_code_differ(name: str, kl: float, epochs: int, point: str) -> None:
    config = recipe(name)
    assert config.chosen_algorithm.kl == kl
    # The tail of each pass is dropped.
    assert config.steps == epochs * (config.data[0].rows // config.num_prompts)
    assert (config.reward.point, config.reward.pose, config.reward.grasp) == (point, "iou", "nnce")
    if name.endswith("_code"):
        assert config.engine.memory_share == 0.7


@pytest.mark.parametrize("name", RECIPES)
def test_ours_keeps_the_batch_and_the_length_and_changes_what_it_says(name: str) -> None:
    ours, paper = recipe(name), recipe(f"{name}_paper")
    for key in ("num_prompts", "group_size", "learner"):
        assert getattr(ours, key) == getattr(paper, key)
    for key in ("temperature", "max_turns", "max_tokens"):
        assert getattr(ours.rollout, key) == getattr(paper.rollout, key)
    chosen = ours.selection
    assert (chosen.order, tuple(chosen.prior), chosen.pool) == ("informative", (0.5, 0.17), 8.0)
    algorithm = ours.chosen_algorithm
    assert (algorithm.kl, algorithm.clip_high, algorithm.truncate) == (0.0, 0.28, 2.0)
    assert ours.max_staleness == 1
    assert (ours.rollout.max_pixels, ours.rollout.max_reply_chars) == (262144, 2048)


def test_a_word_replaces_the_data_and_the_row_count_with_it() -> None:
    config = recipe("v1", "data=[{path: mine.parquet}]", "val.data=", "val.every=0")
    assert (config.data[0].path, config.data[0].rows) == ("mine.parquet", 0)
