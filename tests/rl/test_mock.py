"""The whole loop with a scripted engine and paced tools: real scheduling, tools and updates."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl.mock import main, read_trace
from rl.questions.data import write_questions
from rl.replay import main as replay
from rl.tabletop.dataset import Order, write_dataset
from tests.rl.reader import question
from toolshed.errors import ConfigError

LIGHT = "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"
DETECT = "roborefer.detect_one"


def call(run_ms: float, tool: str = DETECT, status: str = "ok") -> str:
    return json.dumps({"tool": tool, "status": status, "run_ms": run_ms}) + "\n"


@pytest.fixture
def words(tiny: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "tools.yaml").write_text(LIGHT)
    (tmp_path / "calls.jsonl").write_text(call(2000) + call(9e9, status="failed") + call(6000))
    write_dataset(tmp_path / "point.parquet", Order(kinds=("point",), num=12, size=112))
    return [
        "demo",
        f"model={tiny}",
        f"out={tmp_path / 'run'}",
        f"data=[{{path: {tmp_path / 'point.parquet'}}}]",
        f"tools.config={tmp_path / 'tools.yaml'}",
        "steps=4",
        "num_prompts=3",
        "group_size=4",
        "max_staleness=1",
        "save.every=2",
        "show.tensorboard=false",
    ]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loop_runs_and_its_batches_can_be_replayed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = [f"mock.trace={tmp_path / 'calls.jsonl'}", "mock.replicas=1", "mock.speed=400"]
    assert main([*words, *pace]) == 0
    assert "roborefer: 1 replicas were busy for" in capsys.readouterr().out
    run = tmp_path / "run"
    told = metrics(run)
    assert len(told) == 4 and told[-1]["staleness_max"] == 1
    assert all(0 < line["accuracy"] < 1 and 0 < line["call_rate"] < 1 for line in told)
    assert any(line["tool_queue_s"] > 0.001 for line in told), "one replica for all"
    assert any(line.get("grad_norm", 0) > 0 and line["mismatch"] > 0 for line in told)
    lines = [json.loads(each) for each in (run / "trajectories.jsonl").read_text().splitlines()]
    times = {
        round(call["run_s"] * 400)
        for line in lines
        for turn in line["turns"]
        for call in turn["calls"]
        if not call["reason"]
    }
    assert times <= set(range(2, 60)) and min(times) >= 2
    assert replay([str(run)]) == 0
    for again, before in zip(metrics(run / "replay"), told, strict=True):
        assert again["reward"] == before["reward"]
        assert again.get("loss") == before.get("loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mock.trace=nowhere.jsonl", "mock.trace=nowhere.jsonl is no file"),
        ("mock.wrong=1.5", "mock.wrong=1.5 is a share"),
        ("mock.speed=0", "speed=0.0 must be above 0"),
        ("mock.sped=1", "sped"),
        ("tools.config=none", "needs? roborefer.detect_one"),
    ],
)
def test_what_cannot_be_played_is_said(
    words: list[str], change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, change]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_questions_that_the_script_does_not_know_are_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (system, user) = question().messages
    unknown = replace(user, text="<image>How many cups are there?")
    other = replace(question(), messages=(system, unknown))
    write_questions(tmp_path / "other.parquet", [other])
    assert main([*words, f"data=[{{path: {tmp_path / 'other.parquet'}}}]"]) == 2
    assert "the script knows the tabletop questions only" in capsys.readouterr().err


def test_a_trace_lacks_no_tool(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text(call(1500) + call(2500) + call(7, tool="other.tool"))
    assert read_trace(str(path), [DETECT]) == {DETECT: [1.5, 2.5]}
    with pytest.raises(ConfigError, match=r"holds no answered call of sam2.segment"):
        read_trace(str(path), [DETECT, "sam2.segment"])
