"""What can be evaluated, and the command around it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from eval.benchmarks import BENCHMARKS, RELEASED, benchmark_named, load_benchmark, origin_of
from eval.config import EvalConfig
from eval.evaluate import player_of, task_of
from eval.plan import make_plan
from eval.run import main
from rl.questions.data import write_questions
from rl.rewards import KINDS
from rl.types import Question
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

# ---- benchmarks -------------------------------------------------------------------------------


def test_the_nine_published_sets_are_there() -> None:
    published = {key: entry.size for key, entry in BENCHMARKS.items() if entry.data is RELEASED}
    assert sum(published.values()) == 2121
    assert len(published) == 9
    assert all(set(entry.kinds) <= KINDS.keys() for entry in BENCHMARKS.values())


def test_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean robospatial"):
        benchmark_named("robospatal")


def test_a_limit_is_a_random_part_and_stays(questions: list[Question], tmp_path: Path) -> None:
    point = [q for q in questions if q.source == "tabletop-point"] * 5
    write_questions(tmp_path / "tabletop-point.parquet", point)
    parts = [
        [q.id for q in load_benchmark("tabletop-point", tmp_path, tmp_path, limit=6, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert parts[0] == parts[1] != parts[2]
    assert len(set(parts[0])) == 6


def test_robospatial_is_told_in_two_parts(questions: list[Question]) -> None:
    yesno = replace(questions[0], source="robospatial", kind="yesno")
    assert task_of(yesno, "robospatial") == "robospatial-vqa"
    assert task_of(replace(yesno, kind="point_free"), "robospatial") == "robospatial-vacant"


def test_the_plan_says_that_a_folder_lacks_a_tabletop_set(
    questions: list[Question], tmp_path: Path
) -> None:
    assert origin_of("tabletop-point", None) == "the tabletop, made on demand"
    told = origin_of("tabletop-point", tmp_path)
    assert told == f"the tabletop, made on demand ({tmp_path} holds no tabletop-point.parquet)"
    write_questions(tmp_path / "tabletop-point.parquet", questions)
    assert origin_of("tabletop-point", tmp_path) == str(tmp_path / "tabletop-point.parquet")


# ---- command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rl.tiny import make_random
    from toolshed.toolset import ToolSet

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_random(folder, [ToolSet.named("demo").specs], seed=1)
    return folder


def test_the_command_evaluates_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        str(checkpoint), "tabletop-point", "tabletop-depth", "--limit", "3", f"out={out}",
        "tools.config=none", "draws=1", "width=8",
    ]  # fmt: skip
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "point" in told
    assert (out / "report.html").is_file()
    assert (out / "config.yaml").is_file()
    lines = (out / "rows" / "tabletop-point.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert json.loads(lines[0])["policy"].startswith("tiny ")
    assert main(words) == 0
    assert (out / "rows" / "tabletop-point.jsonl").read_text().splitlines() == lines
    kept = (out / "config.yaml").read_text()
    assert main([*words, "temperature=0.5"]) == 2
    assert "temperature=1.0 there, temperature=0.5 now" in capsys.readouterr().err
    assert main([*words, "width=4", "--check"]) == 0
    assert (out / "config.yaml").read_text() == kept
    assert (out / "rows" / "tabletop-point.jsonl").read_text().splitlines() == lines


def test_another_data_folder_is_no_answer(
    questions: list[Question],
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    point = [q for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "a" / "tabletop-point.parquet", point[:2])
    write_questions(tmp_path / "b" / "tabletop-point.parquet", point[2:])
    words = [str(checkpoint), "tabletop-point", f"out={tmp_path / 'out'}", "tools.config=none"]
    assert main([*words, f"data={tmp_path / 'a'}"]) == 0
    rows = (tmp_path / "out" / "rows" / "tabletop-point.jsonl").read_bytes()
    assert main([*words, f"data={tmp_path / 'b'}"]) == 2
    assert "answers another question tabletop-point/0" in capsys.readouterr().err
    assert (tmp_path / "out" / "rows" / "tabletop-point.jsonl").read_bytes() == rows


def test_threads_are_set_where_the_model_is_loaded(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    player_of(EvalConfig(width=1, max_length=64, threads=3), checkpoint, None)
    assert asked == [3]
    with pytest.raises(ConfigError, match="threads=0 must be above 0"):
        EvalConfig(threads=0)


def test_depth_that_the_tools_do_not_show_is_not_asked_for(
    questions: list[Question], checkpoint: Path, tmp_path: Path
) -> None:
    point = [q for q in questions if q.source == "tabletop-point"][:1]
    flat = [replace(q, images=(replace(q.images[0], depth=None),)) for q in point]
    write_questions(tmp_path / "tabletop-point.parquet", flat)
    words = [
        str(checkpoint),
        "tabletop-point",
        f"data={tmp_path}",
        "tools.schema=any",
        "max_length=600",
    ]
    assert main([*words, f"out={tmp_path / 'all'}"]) == 2
    shown = [*words, f"out={tmp_path / 'one'}", "tools.show=[roborefer.detect_one]"]
    assert main([*shown, "tools.config=light"]) == 0


def test_check_loads_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(checkpoint), "tabletop-point", f"out={out}", "--check"]) == 0
    assert "256 questions x 1, 0 answers there" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tabletop-pint"], "did you mean tabletop-point"),
        (["tabletop-point", "witdh=3"], "did you mean width"),
        (["blinkdepth", "tools.config=none", "data=docs"], "docs holds no blinkdepth.parquet"),
        ([], "tools=v1 cannot run here, missing: "),
        (["tabletop-point", "greedy=false"], "ask nothing"),
        (["tabletop-point", "reward=best"], "none of default, demo"),
        (["tabletop-point", "tools.config=dmeo"], "demo"),
        (["tabletop-point", "--limit", "-3"], "limit=-3"),
        (["tabletop-point", "draws=-1"], "draws=-1"),
        (["tabletop-pick"], "tabletop-pick questions need robot.capture_image"),
        (["tabletop-point", "out=docs"], "docs holds other files and no run"),
        (["tabletop-point", "device=gpu", "out=/proc/none"], "/proc/none"),
    ],
)
def test_bad_words_stop_before_any_work(
    checkpoint: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), *words]) == 2
    said = capsys.readouterr()
    assert told in said.err and not said.out


def test_prompts_that_do_not_fit_are_said_before_tools_start(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        str(checkpoint),
        "tabletop-pose",
        "--limit",
        "1",
        f"out={tmp_path}",
        "tools.schema=any",
    ]
    assert main([*words, "device=gpu"]) == 2
    assert "device='gpu' is none of cpu, cuda" in capsys.readouterr().err
    assert main([*words, "tools.config=light"]) == 2
    assert "max_tokens=220 of them for turns and replies, and max_length is 320" in (
        capsys.readouterr().err
    )


def test_answers_that_are_there_start_nothing_and_a_clash_is_said_first(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rl.tiny import make_random

    words = ["tabletop-point", "--limit", "2", f"out={tmp_path / 'out'}", "tools.config=none"]
    assert main([str(checkpoint), *words]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("eval.run._ask_all", None)
    assert main([str(checkpoint), *words]) == 0
    assert capsys.readouterr().out.partition("stage")[2] == first.partition("stage")[2]
    make_random(tmp_path / "tiny", [ToolSet.named("demo").specs], seed=2)
    assert main([str(tmp_path / "tiny"), *words, "draws=1"]) == 2
    assert "holds the answers of tiny " in capsys.readouterr().err


def test_a_report_made_again_shows_what_the_run_showed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.report.__main__ import main as report

    out = tmp_path / "out"
    words = [str(checkpoint), f"out={out}", "tools.config=none", "max_empty=1"]
    assert main([*words, "tabletop-point", "tabletop-depth", "--limit", "4"]) == 0
    capsys.readouterr()
    assert main([*words, "tabletop-depth", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "of this asking: 2 of 4 of tabletop-depth, 0 of 4 of" in " ".join(shown.split())
    assert "Tabletop point" not in shown
    made = {name: (out / name).read_bytes() for name in ("results.json", "report.html")}
    assert report([str(out)]) == 0
    assert shown.endswith(again := capsys.readouterr().out) and "Tabletop depth" in again
    assert {name: (out / name).read_bytes() for name in made} == made


def test_a_runs_default_folder_is_not_anothers(checkpoint: Path, tmp_path: Path) -> None:
    folders = set()
    for run in ("demo", "demo-smoke"):
        folder = tmp_path / "runs" / run / "full_rl"
        shutil.copytree(checkpoint, folder)
        plan = make_plan(str(folder), ["tabletop-point"], EvalConfig())
        assert plan.name == "full_rl"
        folders.add(str(plan.out))
    assert folders == {"runs/eval/demo_full_rl", "runs/eval/demo-smoke_full_rl"}


def test_a_missing_checkpoint_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "tabletop-point"]) == 2
    assert "is no checkpoint" in capsys.readouterr().err
