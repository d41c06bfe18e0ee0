"""Figures of a step: what they count, and that docs/TRAINING.md names those that runs write."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rl.algorithms.samples import GroupCounts
from rl.figures.rollouts import rollout_figures, speed_figures
from rl.figures.tasks import task_figures
from rl.figures.tools import tool_figures
from rl.mock import main as mock
from rl.tabletop.dataset import Order, write_dataset
from rl.types import Completion, Reward, StopReason, Trajectory, Turn
from sft.sample import Span
from tests.eval.demo.fake_run import broken, fake_trajectory
from toolshed.types import CallError, Detections, Point, Timings, ToolCall, ToolResult

PAGE = Path(__file__).resolve().parents[2] / "docs" / "TRAINING.md"


def call(status: str, *, reason: str = "", name: str = "a.b", seconds: float = 1.0) -> ToolResult:
    timings = Timings(total_s=seconds, queue_s=seconds / 4)
    return ToolResult(call_id="1", name=name, status=status, reason=reason, timings=timings)  # type: ignore[arg-type]


def with_results(*results: ToolResult) -> Trajectory:
    made = fake_trajectory("depth", 0, right=True, tools=False)
    calls = tuple(ToolCall(id="1", name=each.name, arguments={}) for each in results)
    turn = Turn(completion=Completion(text=""), calls=calls, results=results)
    return replace(made, turns=(turn,))


def test_tools_are_told_apart() -> None:
    results = [call("ok", seconds=i / 10) for i in range(1, 9)]
    results += [call("refused", reason="bad_argument"), call("failed", reason="timeout")]
    unknown = [call("refused", reason="unknown_tool", name=f"made.up{i}") for i in range(3)]
    told = tool_figures([with_results(*results), with_results(*unknown)])
    assert told["tool/a.b/calls"] == 10 and told["tool/unknown/calls"] == 3
    shares = [told[f"tool/a.b/{name}"] for name in ("ok", "refused", "failed")]
    assert shares == pytest.approx([0.8, 0.1, 0.1])
    assert told["tool/a.b/total_s"] == pytest.approx(0.56)
    assert told["tool/a.b/queue_s"] == pytest.approx(0.14)
    assert told["tool/a.b/p95_s"] == pytest.approx(1.0)
    assert not [name for name in told if "made" in name]


def pointed(answer: str, tool: tuple[float, float], number: int = 0) -> Trajectory:
    made = fake_trajectory("point", number, right=True, tools=False)
    held = Detections(obj_name="cup", points=(Point(u=tool[0], v=tool[1]),))
    result = replace(call("ok", name="roborefer.detect_one"), held=held)
    asked = ToolCall(id="1", name="roborefer.detect_one", arguments={})
    turn = Turn(completion=Completion(text=""), calls=(asked,), results=(result,))
    reward = Reward(value=1.0, accuracy=1.0, well_formed=True, answer=answer)
    return replace(made, turns=(turn, *made.turns), reward=reward)


def test_answers_about_points_follow_tools_or_are_guessed() -> None:
    group = [
        pointed("(0.313, 0.42)", (0.31, 0.42)),
        pointed("(0.35, 0.40)", (0.31, 0.42)),
        pointed("no idea", (0.31, 0.42)),
        fake_trajectory("point", 0, right=True, tools=False),
    ]
    told = task_figures([group])
    assert told["task/point/override"] == 0.5
    assert told["task/point/grid"] == pytest.approx(1 / 3)
    assert told["task/point/call_rate"] == told["task/point/chain_share"] == 0.75
    assert "task/point/points_inside" in told
    assert "task/depth/grid" not in task_figures([[with_results(call("ok"))]])


def test_a_step_counts_who_stopped_why_and_how_sure_it_was() -> None:
    made = with_results(call("ok"))
    spans = (
        Span(start=0, end=5, kind="prompt"),
        Span(start=5, end=9, kind="sampled"),
        Span(start=9, end=12, kind="reply"),
    )
    sure = Turn(completion=Completion(text="", token_ids=(1, 2), logprobs=(-1.0, -2.0)))
    torn = Turn(
        completion=Completion(text="", token_ids=(3,), logprobs=(-3.0,)),
        errors=(CallError(reason="malformed", text="no JSON", start=0, end=4),),
    )
    whole = replace(made, turns=(*made.turns, sure, torn), spans=spans)
    lost = broken(fake_trajectory("depth", 1, right=True, tools=False))
    counts = GroupCounts(num_groups=1, num_dead=1, num_untrainable=1)
    told = rollout_figures([[whole, lost]], counts, 2.0)
    assert [told[f"stop/{reason}"] for reason in StopReason] == [0.5, 0.0, 0.0, 0.5]
    assert (told["prompt_tokens"], told["sampled_tokens"], told["reply_tokens"]) == (5, 4, 3)
    assert told["entropy"] == pytest.approx(2.0) and told["valid_call_rate"] == 0.5
    assert told["turn/2/entropy"] == pytest.approx(1.5)
    assert told["turn/3/entropy"] == pytest.approx(3.0)
    assert (told["trajectories"], told["failures"], told["task/depth/dead_groups"]) == (1, 1, 1.0)
    speeds = speed_figures({**told, "step_s": 2.0, "tokens": 30.0, "update_s": 1.5})
    assert speeds == {"sampled_per_s": 2.0, "trained_per_s": 20.0}


def named() -> set[str]:
    """Names in the first columns of the tables of figures."""
    text = PAGE.read_text()
    reports = text.split("### What it reports")[1].split("###")[0]
    metrics = text.split("## How to read the metrics")[1].split("## Troubleshooting")[0]
    cells = [line.split("|")[1] for line in f"{reports}\n{metrics}".split("\n") if line[:1] == "|"]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def written(tmp_path: Path, tiny: Path) -> set[str]:
    """Names that a run writes which has everything that brings further ones, but for an engine."""
    (tmp_path / "tools.yaml").write_text(
        "{replies: compact, roborefer: {backend: light, show: [detect_one]}}"
    )
    data = tmp_path / "point.parquet"
    write_dataset(data, Order(kinds=("point",), num=8, size=112))
    words = [
        "demo", f"model={tiny}", f"out={tmp_path / 'run'}", f"data=[{{path: {data}}}]",
        f"tools.config={tmp_path / 'tools.yaml'}", "steps=3", "num_prompts=3", "group_size=4",
        "max_staleness=1", "overrides.kl=0.01", f"val.data={data}", "val.every=2", "val.limit=2",
        "show.tensorboard=false", "show.progress=none", "mock.speed=400",
    ]  # fmt: skip
    assert mock(words) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return {name for line in lines for name in json.loads(line)} - {"step"}


def test_the_page_names_what_a_run_writes(tmp_path: Path, tiny: Path) -> None:
    def general(name: str) -> str:
        name = re.sub(r"^(task|tool)/.+/", r"\1/NAME/", name)
        return re.sub(r"^turn/\d+/", "turn/N/", name)

    assert {general(name) for name in written(tmp_path, tiny)} == named()


def test_symptoms_name_figures_that_there_are() -> None:
    table = PAGE.read_text().split("## Troubleshooting by symptom")[1]
    looked_at = {
        name
        for line in table.split("\n")
        if line[:1] == "|"
        for name in re.findall(r"`([^`]+)`", line.split("|")[2])
    }
    assert looked_at - named() <= {"rl.view", "engine_*"}
