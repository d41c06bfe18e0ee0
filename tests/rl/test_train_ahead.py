"""Runs whose rollouts are ahead of the learner: how far, what is told of it, and going on."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rl.algorithms.table import Overrides
from rl.config import (
    TRUNCATE,
    PolicyLearnerConfig,
    ProgressConfig,
    QuestionsConfig,
    RLConfig,
    RolloutConfig,
    SaveConfig,
)
from rl.rewards import RewardRule
from rl.scheduling.selection import SelectionConfig
from rl.tabletop.dataset import Order, write_dataset
from rl.train import train
from sft.config import OptimConfig, ToolsConfig
from tests.rl.rewarding import reward_of_tokens
from toolshed.errors import ConfigError
from toolshed.types import Json

LIGHT = "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"
NUM_QUESTIONS, NUM_PROMPTS, STEPS = 16, 2, 8


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> RLConfig:
    """Each question is asked exactly once."""
    (tmp_path / "tools.yaml").write_text(LIGHT)
    questions = tmp_path / "point.parquet"
    write_dataset(questions, Order(kinds=("point",), num=NUM_QUESTIONS, size=112))
    return RLConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        data=[QuestionsConfig(path=str(questions))],
        tools=ToolsConfig(config=str(tmp_path / "tools.yaml")),
        reward=RewardRule(correct=0.5, format=0.5),
        steps=STEPS,
        num_prompts=NUM_PROMPTS,
        group_size=2,
        max_staleness=1,
        rollout=RolloutConfig(
            width=4, max_turns=2, max_tokens=24, max_turn_tokens=12, max_length=256
        ),
        selection=SelectionConfig(order="uniform"),
        learner=PolicyLearnerConfig(optim=OptimConfig(lr=1e-3)),
        save=SaveConfig(every=2),
        show=ProgressConfig(tensorboard=False),
    )


def lines(config: RLConfig, name: str) -> list[dict[str, Json]]:
    text = (Path(config.out) / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def asked(config: RLConfig) -> Counter[str]:
    """How often each question's group was trained."""
    told = Counter(str(line["question_id"]) for line in lines(config, "trajectories.jsonl"))
    return Counter({name: count // config.group_size for name, count in told.items()})


def test_one_step_ahead_is_one_version_old_at_most_and_says_so(config: RLConfig) -> None:
    train(config)
    told = lines(config, "metrics.jsonl")
    assert [line["staleness_max"] for line in told] == [0] + [1] * (STEPS - 1)
    for line in told:
        counts = line["staleness_counts"]
        assert isinstance(counts, list)
        assert sum(count for count in counts if isinstance(count, int)) == NUM_PROMPTS * 2
        assert line["dropped"] == line["retried"] == 0
        # Most groups were ready when the learner asked for them.
        shared_out = float(str(line["generate_s"])) + float(str(line["tools_s"]))
        assert shared_out == pytest.approx(line["group_played_s"])
        assert {"carried", "in_flight", "learner_wait_s", "tool_queue_s"} <= set(line)
    assert [line["in_flight"] for line in told][-1] == 0, "nothing begins that nobody trains"


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_run_that_goes_on_asks_each_question_once(config: RLConfig, staleness: int) -> None:
    config = replace(config, max_staleness=staleness, save=SaveConfig(every=3))
    train(config)
    # As if it had been killed after its second checkpoint.
    run = Path(config.out)
    shutil.rmtree(run / f"global_step_{STEPS}")
    shutil.rmtree(run / "final")
    position = json.loads((run / "global_step_6" / "schedule.json").read_text())
    assert position["open"]
    train(config)
    assert [line["step"] for line in lines(config, "metrics.jsonl")] == list(range(1, STEPS + 1))
    told = asked(config)
    assert len(told) == NUM_QUESTIONS and set(told.values()) == {1}


def test_without_staleness_nothing_new_is_told_or_kept(config: RLConfig) -> None:
    train(replace(config, max_staleness=0, steps=2))
    assert "staleness" not in lines(config, "metrics.jsonl")[0]
    assert not list(Path(config.out).glob("global_step_*/schedule.json"))


def test_the_older_weights_are_corrected_for_and_the_mismatch_is_told(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    overrides = Overrides(refill=1.0)
    selection = SelectionConfig(order="informative")
    train(replace(config, algorithm="dapo", overrides=overrides, selection=selection))
    told = lines(config, "metrics.jsonl")
    trained = [line for line in told if "loss" in line]
    assert trained and told[-1]["in_flight"] == 0
    for line in trained:
        assert {"mismatch", "mismatch_k3", "max_ratio", "truncated_share"} <= set(line)
    assert any(isinstance(line["mismatch"], float) and line["mismatch"] > 1e-4 for line in trained)
    assert all(line["drawn"] or line["staleness_max"] for line in told)


def test_truncated_importance_sampling_is_the_default_ahead_of_the_rollouts(
    config: RLConfig,
) -> None:
    assert config.chosen_algorithm.truncate == TRUNCATE
    assert replace(config, max_staleness=0).chosen_algorithm.truncate == 0
    assert replace(config, overrides=Overrides(truncate=5.0)).chosen_algorithm.truncate == 5
    # Its own weight is a truncated one.
    assert replace(config, algorithm="cispo").chosen_algorithm.truncate == 0
    for name in ("dapo_static", "rloo", "gspo"):
        with pytest.raises(ConfigError, match=r"max_staleness=1 .*truncate=0 turns off"):
            replace(config, algorithm=name, overrides=Overrides(truncate=0.0))


def test_negative_knobs_are_refused(config: RLConfig) -> None:
    with pytest.raises(ConfigError, match="max_staleness=-1"):
        replace(config, max_staleness=-1)
