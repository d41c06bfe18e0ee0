"""A SIGTERM, as a job gets one before its time is over: the step is finished and kept."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from rl.config import ProgressConfig, QuestionsConfig, RLConfig, RolloutConfig, SaveConfig
from rl.start.plan import DATA_FILE
from rl.tabletop.dataset import Order, write_dataset
from rl.train import train
from sft.config import ToolsConfig
from sft.run_dir import RunDir, whole_checkpoints
from toolshed.types import Json


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> RLConfig:
    data = tmp_path / "train.parquet"
    write_dataset(data, Order(kinds=("point",), num=4, size=112))
    return RLConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        data=[QuestionsConfig(path=str(data))],
        tools=ToolsConfig(schema="any"),
        steps=3,
        num_prompts=1,
        group_size=2,
        rollout=RolloutConfig(
            width=2, max_turns=1, max_tokens=12, max_turn_tokens=8, max_length=256
        ),
        save=SaveConfig(every=100, hf=False),
        show=ProgressConfig(tensorboard=False, progress="none"),
    )


def send_in_step_2(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    done = RunDir.log

    def log(self: RunDir, step: int, figures: dict[str, Json]) -> None:
        for _ in range(times if step == 2 else 0):
            os.kill(os.getpid(), signal.SIGTERM)
        done(self, step, figures)

    monkeypatch.setattr(RunDir, "log", log)


def steps(config: RLConfig) -> list[int]:
    text = (Path(config.out) / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_the_step_under_way_is_finished_and_kept(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        send_in_step_2(patch, 1)
        with pytest.raises(KeyboardInterrupt, match="goes on from step 2, the last checkpoint"):
            train(config)
    assert signal.getsignal(signal.SIGTERM) is before
    assert [step for step, _ in whole_checkpoints(Path(config.out))] == [2]
    train(config)
    assert steps(config) == [1, 2, 3]


def test_a_second_one_interrupts_at_once(config: RLConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    send_in_step_2(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match="there is no checkpoint yet"):
        train(config)
    assert steps(config) == [1]


def test_the_last_step_is_the_end_of_the_run(
    config: RLConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = {"hub:owner/name": "a" * 40}
    monkeypatch.setattr("rl.start.plan.commits_of", lambda config: commits)
    send_in_step_2(monkeypatch, 1)
    assert (train(replace(config, steps=2)) / "config.json").is_file()
    # With which the same command would go on.
    assert json.loads((Path(config.out) / DATA_FILE).read_text()) == commits


def test_a_run_that_learns_nothing_says_so_once(
    config: RLConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(config, steps=7))
    said = capsys.readouterr().err
    assert said.count("steps trained nothing") == 1 and f"rl.view {config.out}" in said
