"""RL runs with live tools: what they leave behind, whose failure is whose, bad input, going on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.algorithms.table import Overrides
from rl.config import (
    PolicyLearnerConfig,
    ProgressConfig,
    QuestionsConfig,
    RLConfig,
    RolloutConfig,
    SaveConfig,
    ValidationConfig,
)
from rl.rewards import RewardRule
from rl.rollout import Job
from rl.scheduling.schedule import Schedule
from rl.tabletop.dataset import Order, write_dataset
from rl.train import main, train
from rl.types import Trajectory
from scripts.bench.puppet import Puppet
from sft.checkpoint import SCHEMA_FILE
from sft.config import LoraConfig, OptimConfig, ShardConfig, ToolsConfig
from sft.learner import CACHE_FIGURES
from sft.model import load_model
from sft.render import Renderer
from sft.run_dir import RunDir, whole_checkpoints
from tests.rl.rewarding import reward_of_tokens
from tests.sft.limits import largest_file
from toolshed.chat import write_call
from toolshed.command import run_command
from toolshed.config import parse_tools
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed
from toolshed.types import Json

needs_peft = pytest.mark.skipif(
    find_spec("peft") is None, reason="PEFT is not installed (extra: train)"
)
LIGHT = "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "point.parquet"
    write_dataset(path, Order(kinds=("point",), num=6, size=112))
    return path


@pytest.fixture
def config(tiny: Path, data: Path, tmp_path: Path) -> RLConfig:
    (tmp_path / "tools.yaml").write_text(LIGHT)
    return RLConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        data=[QuestionsConfig(path=str(data))],
        tools=ToolsConfig(config=str(tmp_path / "tools.yaml")),
        # A random model is never right: rewards differ by form alone.
        reward=RewardRule(correct=0.5, format=0.5),
        steps=2,
        num_prompts=2,
        group_size=2,
        rollout=RolloutConfig(
            width=4, max_turns=2, max_tokens=24, max_turn_tokens=12, max_length=256
        ),
        save=SaveConfig(every=1),
        learner=PolicyLearnerConfig(optim=OptimConfig(lr=1e-3)),
        show=ProgressConfig(tensorboard=False),
    )


def lines(config: RLConfig) -> list[dict[str, float]]:
    text = (Path(config.out) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_leaves_metrics_trajectories_and_a_checkpoint(config: RLConfig) -> None:
    val = ValidationConfig(data=config.data[0].path, every=2, limit=3)
    final = train(replace(config, val=val))
    told = lines(config)
    assert [line["step"] for line in told] == [1, 2]
    assert {"reward", "accuracy", "call_rate", "dead_groups", "failures", "step_s"} <= set(told[0])
    assert "val_accuracy" not in told[0]
    assert (told[1]["val_accuracy"], told[1]["val_failures"]) == (0.0, 0)
    assert (final / SCHEMA_FILE).exists()
    dumped = (Path(config.out) / "trajectories.jsonl").read_text().splitlines()
    assert len(dumped) == 2 * 2 * 2
    assert "val_s" in told[1] and "val_s" not in told[0]


def test_a_finished_run_says_so_and_starts_nothing(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: object) -> None:
        raise AssertionError("a finished run started its engine")

    final, told = train(config), lines(config)
    assert train(config, engine=started) == final  # type: ignore[arg-type]
    assert "has its 2 steps; nothing was started" in capsys.readouterr().err
    assert lines(config) == told
    final.rename(final.with_name("taken"))
    with pytest.raises(AssertionError, match="started its engine"):
        train(config, engine=started)  # type: ignore[arg-type]


def test_validation_is_no_part_of_a_steps_time(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Schedule.play

    async def slow(self: Schedule, jobs: Sequence[Job]) -> list[Trajectory]:
        await asyncio.sleep(2)
        return await play(self, jobs)

    monkeypatch.setattr(Schedule, "play", slow)
    val = ValidationConfig(data=config.data[0].path, every=2, limit=1)
    train(replace(config, val=val))
    told = lines(config)[1]
    assert told["val_s"] >= 2 > told["step_s"]


def test_dapo_draws_more_questions_for_groups_without_spread(config: RLConfig) -> None:
    train(replace(config, algorithm="dapo", overrides=Overrides(refill=1.5), steps=3))
    told = lines(config)
    dumped = (Path(config.out) / "trajectories.jsonl").read_text().splitlines()
    assert all(line["drawn"] == 2 and 0 <= line["refilled"] <= 3 for line in told)
    assert sum(line["refilled"] for line in told) > 0
    assert len(dumped) == 2 * sum(line["drawn"] + line["refilled"] for line in told)
    seeds = [(record["step"], record["seed"]) for record in map(json.loads, dumped)]
    assert len(set(seeds)) == len(seeds)


def test_a_kl_term_is_zero_at_the_start_and_grows(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    overrides = Overrides(kl=0.1, kl_estimator="k3")
    train(replace(config, algorithm="reinforce_pp", overrides=overrides, steps=3))
    told = [line["kl"] for line in lines(config) if "kl" in line]
    assert len(told) == 3 and abs(told[0]) < 1e-9 and told[2] > 1e-6


def test_shared_prompts_and_recomputed_layers_train_the_same(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    train(config)
    learner = replace(config.learner, shared_prefix=True, shard=ShardConfig(checkpointing=True))
    other = replace(config, out=config.out + "_2", learner=learner)
    train(other)
    mine, plain = lines(other)[0], lines(config)[0]
    assert plain["grad_norm"] > 0
    for name in ("loss", "grad_norm", "tokens", "mismatch", "max_ratio"):
        assert mine[name] == pytest.approx(plain[name], rel=1e-4, abs=1e-6)


@needs_peft
def test_adapters_are_sampled_with_and_merged_into_every_export(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    learner = PolicyLearnerConfig(lora=LoraConfig(rank=4), optim=OptimConfig(lr=3e-2))
    config = replace(config, learner=learner, steps=4)
    final = train(replace(config, algorithm="grpo"))
    told = [line for line in lines(config) if "mismatch" in line]
    assert len(told) >= 3 and max(line["mismatch"] for line in told) <= 1e-5
    run = Path(config.out)
    begun, ended, last = (
        load_model(folder).state_dict()
        for folder in (config.model, final, run / "global_step_4" / "huggingface")
    )
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert begun.keys() == ended.keys() and not torch.equal(begun[name], ended[name])
    assert all(torch.equal(ended[key], weight) for key, weight in last.items())
    assert (run / "adapters" / "adapter_model.safetensors").exists()


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunDir.log
    with ExitStack() as disk:

        def filled(self: RunDir, step: int, figures: dict[str, Json]) -> None:
            log(self, step, figures)
            if step == 2:
                disk.enter_context(largest_file(300_000))

        monkeypatch.setattr(RunDir, "log", filled)
        assert run_command(lambda: bool(train(config)), "rl") == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and "global_step_2: file too large; raise the limit" in said
    assert [step for step, _ in whole_checkpoints(Path(config.out))] == [1]
    monkeypatch.undo()
    train(config)
    assert [line["step"] for line in lines(config)] == [1, 2]


@pytest.mark.parametrize(
    ("kl", "rank"), [(0.0, 0), (0.1, 0), pytest.param(0.1, 4, marks=needs_peft)]
)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    config: RLConfig, kl: float, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.train.score", reward_of_tokens)
    config = replace(config, algorithm="grpo", overrides=Overrides(kl=kl), steps=4)
    config = replace(config, learner=replace(config.learner, lora=LoraConfig(rank=rank)))
    broken = replace(config, out=str(tmp_path / "broken"))
    train(config)
    log = RunDir.log

    def interrupted(self: RunDir, step: int, figures: dict[str, Json]) -> None:
        if step == 3:
            raise KeyboardInterrupt
        log(self, step, figures)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="from step 2"):
        patch.setattr(RunDir, "log", interrupted)
        train(broken)
    train(broken)
    whole, resumed = (
        [
            {k: v for k, v in line.items() if not k.endswith("_s") and k not in CACHE_FIGURES}
            for line in lines(each)
        ]
        for each in (config, broken)
    )
    assert resumed == whole and "task/point/difficulty" in whole[0]
    assert any(line.get("grad_norm", 0.0) > 0 for line in whole[2:])


def test_broken_tools_stop_a_run_and_are_nobodys_wrong_answers(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = write_call("roborefer.detect_one", {"obj_name": "red cube", "image_index": 0})

    def caller(model: Any, renderer: Renderer, **options: int) -> Puppet:
        return Puppet(model, renderer, lambda prompt: call, **options)

    monkeypatch.setattr("rl.policy.transformers.TransformersPolicy", caller)
    limits = replace(config.rollout, max_tokens=128, max_turn_tokens=64)
    config = replace(config, rollout=limits)
    broken: dict[str, Json] = {
        "backend": "tests.rl.camera_tools:BrokenPointing",
        "show": ["detect_one"],
    }
    shed = Toolshed.open(parse_tools({"roborefer": broken}))
    with pytest.raises(ToolFailure, match="4 of 4 trajectories after step 0 failed, the last with"):
        train(config, shed)
    assert not (Path(config.out) / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": []}, "no questions: give data"),
        ({"data": [QuestionsConfig(path="none.parquet")]}, "none.parquet"),
        ({"val": ValidationConfig(data="none.parquet")}, "none.parquet"),
        ({"model": "nowhere"}, "nowhere is no checkpoint"),
        ({"tools": ToolsConfig(config="dem")}, "demo"),
        ({"steps": 0}, "steps=0"),
        ({"out": ""}, "out="),
        ({"group_size": 1}, "group_size=1 must be 2 or more"),
        ({"algorithm": "grpoo"}, "algorithm='grpoo' is unknown; did you mean grpo"),
        ({"overrides": Overrides(clip_low=-1.0)}, "clip_low=-1"),
        ({"device": "gpu"}, "device='gpu'"),
        (
            {"rollout": RolloutConfig(max_tokens=24, max_length=40)},
            r"\(tabletop-point\) needs .* places",
        ),
    ],
)
def test_bad_input_stops_before_any_work(
    config: RLConfig, change: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.out).exists()


def test_tools_that_cannot_be_had_leave_nothing_that_hinders_the_next_try(config: RLConfig) -> None:
    with pytest.raises(ConfigError, match="toolshed env create roborefer"):
        train(replace(config, tools=ToolsConfig(config="point", schema="any")))
    assert train(config).exists()


def test_the_command_line_says_what_is_wrong_and_ends_with_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "step=3"]) == 2
    assert "did you mean steps?" in capsys.readouterr().err
    assert main(["demo", "model=nowhere", "data=[{path: none.parquet}]", "out=none"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
