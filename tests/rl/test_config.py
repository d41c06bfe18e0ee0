"""The keys of a run, and what is said of those that are wrong or have moved."""

from __future__ import annotations

import pytest

from rl.config import RLConfig
from sft.config import load_config
from sft.train import SFTConfig
from toolshed.errors import ConfigError


@pytest.mark.parametrize(
    ("word", "said"),
    [
        # Where a word moved into a group.
        ("max_turns=3", "max_turns is rollout.max_turns"),
        ("tensorboard=false", "tensorboard is show.tensorboard"),
        ("schema=any", "schema is tools.schema"),
        ("optim.lr=1e-6", "optim.lr is learner.optim.lr"),
        ("shard.zero=2", "shard.zero is learner.shard.zero"),
        ("difficulty.pool=2", "difficulty.pool is selection.pool"),
        ("lora.rank=4", "did you mean learner.lora.rank or engine.lora.rank?"),
        ("val_data=x.parquet", "did you mean val.data?"),
        ("save_every=5", "did you mean save.every?"),
        ("rollout.max_turn=3", "did you mean rollout.max_turns?"),
        (
            "selection=uniform",
            "selection holds order, prior, decay, pool: write selection={order:",
        ),
        # Errors say the whole key.
        ("learner.optim.lr=-1", "learner.optim.lr=-1.0 must be above 0"),
        ("learner.frozen=head", "learner.frozen='head' is none of vision, tower, none"),
        ("learner.shard.zero=1", "learner.shard.zero=1 is none of 0, 2, 3"),
        ("selection.order=hard", "selection.order='hard' is none of uniform, informative"),
        ("selection.prior=[0.0,1.0]", "selection.prior=[0.0, 1.0] must be two numbers"),
        ("val.every=2", "val.every=2 needs val.data="),
        ("data=[{path: a},{path: b,weight: 0}]", "data[1].weight=0.0 must be above 0"),
        ("engine.checked_prompts=2", "engine.checked_prompts=2.0: a share"),
        ("group_size=1", "group_size=1 must be 2 or more"),
    ],
)
def test_a_wrong_key_is_said_with_its_group(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(RLConfig, "rl", "demo", [word])
    told = str(raised.value)
    assert said in told and told.count("learner.learner") == 0, told


def test_contradictions_between_groups_name_both_keys() -> None:
    words = ["learner.frozen=none", "learner.lora.rank=4"]
    with pytest.raises(ConfigError, match=r"^learner\.lora\.rank=4 .* and learner\.frozen=none"):
        load_config(RLConfig, "rl", "demo", words)
    words = ["learner.optim.muon_lr=0.1", "learner.shard.zero=2"]
    with pytest.raises(
        ConfigError, match=r"^learner\.optim\.muon_lr=0\.1 .* learner\.shard\.zero=2"
    ):
        load_config(SFTConfig, "sft", "demo", words)


def test_sft_and_rl_have_the_same_words_for_the_learner() -> None:
    words = ["learner.optim.lr=3e-6", "learner.shard.zero=2", "learner.optim.muon_lr=0"]
    words += ["learner.micro_tokens=99", "show.tensorboard=false", "tools.schema=any"]
    runs = (
        load_config(RLConfig, "rl", "demo", words),
        load_config(SFTConfig, "sft", "demo", words),
    )
    for config in runs:
        learner = config.learner
        assert (learner.optim.lr, learner.shard.zero, learner.micro_tokens) == (3e-6, 2, 99)
        assert not config.show.tensorboard and config.tools.schema == "any"
