"""Plans: who is asked, with which tools, what is missing; and whole runs that are repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from eval.config import EvalConfig
from eval.live_tools import missing_tools, open_tools
from eval.plan import PUBLISHED, make_plan, plan_text
from eval.rows import read_rows
from eval.run import main
from rl.questions.data import write_questions
from rl.types import Question
from sft.config import load_config
from tests.eval.faulty_tools import FINE, tools_file
from tests.eval.test_rows import make_row, write
from toolshed.config import load_tools, replaced
from toolshed.hosting import served_families
from toolshed.serving.router import RayHost
from toolshed.toolset import ToolSet
from toolshed.types import ToolCall

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(questions: list[Question], tmp_path: Path) -> Path:
    point = [q for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "tabletop-point.parquet", point)
    return tmp_path


def words(folder: Path, *more: str, who: str = "baseline:oracle") -> list[str]:
    return [who, "tabletop-point", f"data={folder}", f"out={folder / 'out'}", *more]


def config_of(*words: str, name: str = "paper") -> EvalConfig:
    return load_config(EvalConfig, "eval", name, words)


# ---- what is missing ----------------------------------------------------------------------------


def test_the_published_tools_say_what_they_lack_and_what_else_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("toolshed.resources.visible_gpus", lambda: 0)
    monkeypatch.setenv("TOOLSHED_ENVS", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("ROBOREFER_MODEL", str(tmp_path / "none"))
    config = config_of()
    assert config.tools.config == "v1"
    (told,) = missing_tools(config, ToolSet.named("v1"))
    assert told.startswith("tools=v1 cannot run here, missing: GPUs: its replicas take 7.8")
    for part in ("trust_remote_code: true", "gripper_config", "DEPTH_CHECKPOINT", "tools=light"):
        assert part in told
    assert f"ROBOREFER_MODEL = {tmp_path / 'none'} does not exist" in told
    assert "tools=none" in told and "show=[NAME,...]" in told
    alone = config_of("tools.show=[vision_ops.index_at]")
    assert missing_tools(alone, ToolSet.named("v1", ["vision_ops.index_at"])) == []
    for word in ("light", "none"):
        assert missing_tools(config_of(f"tools.config={word}"), ToolSet.named(word)) == []


def test_tools_that_run_elsewhere_lack_nothing_here() -> None:
    config = config_of("ray_address='10.0.0.1:6379'")
    assert missing_tools(config, ToolSet.named("v1")) == []


def test_without_a_benchmark_the_nine_are_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(PUBLISHED) == 9
    code = main(["baseline:random", "--check", f"data={folder}", f"out={folder / 'out'}"])
    told = capsys.readouterr().out
    assert "benchmarks  the nine published ones" in told
    assert all(f"\n{key} " in told for key in PUBLISHED)
    assert code == 2 and "missing: benchmark robospatial" in told
    assert not (folder / "out").exists()


_LIGHT = """
import sys
from eval.run import main
code = main(sys.argv[1:])
heavy = [name for name in ("torch", "transformers", "ray") if name in sys.modules]
assert not heavy, heavy
sys.exit(code)
"""


def test_a_check_loads_nothing_heavy(folder: Path, tiny: Path) -> None:
    for who, more in ((str(tiny), "tools=v1"), ("api:gpt-5-mini", "tools=light")):
        command = [sys.executable, "-c", _LIGHT, *words(folder, more, "tools.schema=any", who=who)]
        done = subprocess.run(
            [*command, "--check"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, done.stderr
        assert "missing: " in done.stdout and "4 answers" not in done.stdout
    assert "cost        roughly " in done.stdout


def test_engines_are_told_before_they_start(
    folder: Path,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOOLSHED_ENVS", str(tmp_path))
    asked = words(folder, "policy=sglang", "tools=none", "device=cpu", "dtype=float32")
    asked = [str(tiny), *asked[1:], "tools.schema=any", "--config", "demo"]
    assert main([*asked, "--check"]) == 2
    told = capsys.readouterr().out
    assert "sglang of environment sglang, 1 servers on cpu, float32, 64 episodes of 320" in told
    assert "missing: engine.environment='sglang' has not been made" in told
    assert "type bash setup_envs.sh sglang --cpu" in told
    for word, said in (
        ("engine.device=cuda", "engine.device=cuda is decided by device= here"),
        ("engine.servers=2", "give devices="),
        ("device=cuda:1", "give device=cuda and engine.gpus"),
    ):
        assert main([*asked, word]) == 2
        assert said in capsys.readouterr().err


def test_who_cannot_be_asked_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(folder, who="baseline:best")) == 2
    assert "no baseline 'best'; there are oracle, random, empty" in capsys.readouterr().err
    assert main(words(folder, "tools=light")) == 2
    assert "baseline:oracle calls no tools" in capsys.readouterr().err


# ---- running tools ------------------------------------------------------------------------------


def test_running_tools_are_joined(folder: Path, ray_cluster: str) -> None:
    path = tools_file(folder, text="", times=0, host="ray")
    content = {**json.loads(path.read_text()), "namespace": "eval-joined"}
    path.write_text(json.dumps(content))
    serving = replaced(load_tools(path), {"ray_address": ray_cluster})
    host = RayHost(serving, served_families(serving, ToolSet.of(serving)), serve=True)
    try:
        shed = open_tools(config_of(f"tools.config={path}", f"ray_address='{ray_cluster}'"))
        assert shed is not None
        with shed:
            call = ToolCall(id="1", name="faulty.look", arguments={"what": "x"}, start=0, end=0)
            assert shed.session().call_now(call).text == FINE
        assert (folder / "calls").read_text() == "x\n"
    finally:
        host.close()


# ---- repeats ------------------------------------------------------------------------------------


def test_whole_runs_are_repeated_and_fewer_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    command = words(folder, "draws=2", who="baseline:random")
    assert main([*command, "--repeats", "2"]) == 0
    rows = read_rows(file)
    assert len(rows) == 4 * 3 * 2
    seeds = {(row.question_id, row.draw, row.repeat): row.seed for row in rows}
    for (question, draw, repeat), seed in seeds.items():
        same = seed == seeds[question, draw, 0]
        assert same == (repeat == 0 or draw == "greedy")
    first = file.read_bytes()
    assert main([*command, "--repeats", "3"]) == 0
    assert file.read_bytes().startswith(first)
    assert [row.repeat for row in read_rows(file)[len(rows) :]] == [2] * 12
    capsys.readouterr()
    assert main([*command, "--repeats", "1"]) == 0
    assert "12 answers there; score" in (told := capsys.readouterr().out)
    assert "2 further runs are there and not shown" in told
    assert len(read_rows(file)) == 36


def test_a_plan_counts_only_answers_that_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder)) == 0
    capsys.readouterr()
    assert main(words(folder, "greedy=false", "draws=1", "--check")) == 0
    told = capsys.readouterr().out
    assert "0 answers there; score" in told
    assert "4 answers of other draws are there and not shown" in told
    assert main(words(folder, "--check", "--limit", "9")) == 0
    told = capsys.readouterr().out
    assert "4 answers there of this or another part, which is seen at the start" in told


def test_an_api_user_is_not_promised_answers_that_do_not_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    config = config_of("tools.config=none", f"out={folder / 'out'}", name="api")
    plan = make_plan("api:gpt-5-mini", ["tabletop-point"], config)
    rows = [replace(make_row(n), benchmark="tabletop-point") for n in range(4)]
    write(plan.rows_file("tabletop-point"), rows)
    assert "USD for 252 missing episodes" in plan_text(plan)
    part = replace(plan, config=replace(plan.config, limit=4))
    assert "USD for 4 missing episodes" in plan_text(part)


def test_a_repeat_of_a_question_is_another_row(tmp_path: Path) -> None:
    row = make_row(0)
    write(tmp_path / "rows.jsonl", [row, replace(row, repeat=1)])
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2
