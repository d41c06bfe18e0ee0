"""A SIGTERM in ``sft.train``: the step under way is finished and kept; a second one interrupts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from sft.config import ShowConfig
from sft.data import DataConfig, SourceConfig
from sft.run_dir import RunDir, whole_checkpoints
from sft.train import SFTConfig, train
from toolshed.types import Json


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> SFTConfig:
    turns = [{"from": "human", "value": "Say 1."}, {"from": "gpt", "value": "<answer>1</answer>"}]
    (tmp_path / "drills.json").write_text(json.dumps([{"conversations": turns}]))
    return SFTConfig(
        model=str(tiny),
        out=str(tmp_path / "run"),
        sources=[SourceConfig(path=str(tmp_path / "drills.json"), batch_size=1)],
        data=DataConfig(cache=str(tmp_path / "cache")),
        steps=3,
        save_every=100,
        show=ShowConfig(tensorboard=False),
    )


def send_in_step_2(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    done = RunDir.log

    def log(self: RunDir, step: int, figures: dict[str, Json]) -> None:
        for _ in range(times if step == 2 else 0):
            os.kill(os.getpid(), signal.SIGTERM)
        done(self, step, figures)

    monkeypatch.setattr(RunDir, "log", log)


def steps(config: SFTConfig) -> list[int]:
    text = (Path(config.out) / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_the_step_under_way_is_finished_and_kept(
    config: SFTConfig, monkeypatch: pytest.MonkeyPatch
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


def test_a_second_one_interrupts_at_once(
    config: SFTConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_in_step_2(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match="there is no checkpoint yet"):
        train(config)
    assert steps(config) == [1]
