"""Faults under a real ``eval.run``: never a silent score, each fault named in what is told."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.report.facts import RunFacts
from eval.rows import EvalRow, read_rows
from eval.run import main
from rl.policy.base import Prompt
from rl.questions.data import write_questions
from rl.types import Question
from tests.eval.faulty_tools import ANSWER, Scripted, looking, tools_file
from tests.toolshed.services import serving
from toolshed.command import MACHINE_FAILURE, USER_ERROR

ROOT = Path(__file__).resolve().parents[2]
NUM = 8
OUT_OF_MEMORY = "Error: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 79.11 GiB total)"
DEAD_ROUTER = "Error: Router actor not found. Failed to look up actor with name 'toolshed_router'"


@pytest.fixture
def folder(questions: list[Question], tmp_path: Path) -> Path:
    """With eight questions of one benchmark."""
    point = [q for q in questions if q.source == "tabletop-point"]
    many = [replace(point[n % len(point)], id=f"point/{n}") for n in range(NUM)]
    write_questions(tmp_path / "tabletop-point.parquet", many)
    return tmp_path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[RunFacts]:
    """What every report was told, while the real one is written."""
    from eval.report import publish

    kept: list[RunFacts] = []
    real = publish.publish

    def keeping(out: Path, rows: list[EvalRow], facts: RunFacts) -> str:
        kept.append(facts)
        return real(out, rows, facts)

    monkeypatch.setattr(publish, "publish", keeping)
    return kept


@pytest.fixture
def play(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command for a scripted subject."""

    def command(*words: str, script: Callable[[Prompt], str] = looking) -> int:
        subject = Scripted(script=script)
        monkeypatch.setattr("eval.plan.subject_of", lambda word, config, tools: (subject, config))
        return main(
            ["scripted", "tabletop-point", f"data={folder}", f"out={folder / 'out'}", *words]
        )

    return command


def lines(folder: Path) -> list[dict[str, Any]]:
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def rows(folder: Path) -> list[EvalRow]:
    return read_rows(folder / "out" / "rows" / "tabletop-point.jsonl")


# ---- tools that say it in words -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"), [(OUT_OF_MEMORY, "out_of_memory"), (DEAD_ROUTER, "no_tool_process")]
)
def test_a_reply_that_tells_of_broken_machinery_is_no_answer(
    text: str,
    reason: str,
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert play(f"tools={tools_file(folder, text=text)}") == MACHINE_FAILURE
    said = capsys.readouterr()
    assert f"8 of 8 episodes broke, most often (8 times): faulty.look: {reason}" in said.err
    assert "NO SCORES" in said.out and text[:30] in said.out
    assert all(line["score"] is None for line in lines(folder))
    assert [line["attempt"] for line in lines(folder)] == [0] * NUM + [1] * NUM + [2] * NUM
    assert told[0].verdict.poisoned and told[0].attempts == {"tabletop-point": 2 * NUM}
    assert {finding.kind for finding in told[0].verdict.findings} == {"infrastructure"}


def test_what_breaks_once_is_asked_again_and_told(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert play(f"tools={tools_file(folder, text=OUT_OF_MEMORY, times=2)}", "width=1") == 0
    said = capsys.readouterr().out
    assert "asked again: tabletop-point: 2 x faulty.look: out_of_memory: the reply says" in said
    assert not told[0].verdict.poisoned and told[0].attempts == {"tabletop-point": 2}
    (reason,) = told[0].attempt_reasons["tabletop-point"]
    assert reason.startswith("faulty.look: out_of_memory")
    assert len(lines(folder)) == NUM + 2 and len(rows(folder)) == NUM
    assert sorted(row.attempt for row in rows(folder)) == [0] * 6 + [1] * 2
    assert all(row.score is not None for row in rows(folder))


def test_a_stopped_run_is_judged_by_what_it_asked(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = f"tools={tools_file(folder, text='', times=0)}"
    assert play(fine) == 0
    tools_file(folder, text=OUT_OF_MEMORY)
    assert play(fine, "greedy=false", "draws=1", "--limit", "4", "retries=0") == MACHINE_FAILURE
    assert "4 of 4 episodes broke" in capsys.readouterr().err
    assert told[-1].stopped and {f.key.draw for f in told[-1].verdict.findings} == {0}
    assert "machinery broke in 4 of 4 rows" in " ".join(told[-1].verdict.reasons)


def test_one_row_that_stays_broken_poisons_the_run(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (f"tools={tools_file(folder, text=OUT_OF_MEMORY, what='tabletop-point/3')}",)
    assert play(*words) == MACHINE_FAILURE
    said = capsys.readouterr().out
    assert "machinery broke in 1 of 8 rows (allowed: 0)" in said and "NO SCORES" in said
    assert len(lines(folder)) == NUM + 2
    assert play(*words, "show_poisoned=true") == 0
    assert told[-1].verdict.poisoned and told[-1].told_to_show
    assert play(*words, "max_infrastructure=0.2") == 0
    assert not told[-1].verdict.poisoned and len(told[-1].verdict.findings) == 1
    # Mended tools bring what is missing and nothing else.
    assert play(f"tools={tools_file(folder, text='', times=0)}") == 0
    assert [row.question_id for row in rows(folder) if row.failed] == []


def test_what_the_model_wrote_itself_is_no_breakage(
    folder: Path, play: Callable[..., int], told: list[RunFacts]
) -> None:
    def script(prompt: Prompt) -> str:
        return (
            looking(prompt).replace("tabletop-point/", "CUDA_out_of_memory ")
            + " Traceback, HTTP 500"
        )

    echoing = "Detected 1 instance of 'CUDA out of memory'"
    assert play(f"tools={tools_file(folder, text=echoing)}", script=script) == 0
    assert not told[0].verdict.findings and len(lines(folder)) == NUM


def test_variables_that_nobody_published_are_listed_and_limited(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def script(prompt: Prompt) -> str:
        few = prompt.question.id in ("tabletop-point/1", "tabletop-point/2")
        return looking(prompt).replace(prompt.question.id, "$mask[0]") if few else looking(prompt)

    assert play(f"tools={tools_file(folder, text='', times=0)}", script=script) == 0
    found = [(f.key.question_id, f.words) for f in told[0].verdict.findings]
    assert sorted(found) == [("tabletop-point/1", "$mask"), ("tabletop-point/2", "$mask")]
    assert play("max_phantom=0", f"tools={folder / 'tools.yaml'}") == MACHINE_FAILURE
    assert "calls used variables that no tool had published in 2 of 8" in capsys.readouterr().out


def test_a_policy_that_says_nothing_is_no_score(
    folder: Path, play: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert play("tools=none", script=lambda prompt: "  ") == MACHINE_FAILURE
    assert "the model or a tool said nothing in 8 of 8 rows" in capsys.readouterr().out
    assert all(line["score"] == 0.0 for line in lines(folder)), "asked once: it is an answer"
    assert len(lines(folder)) == NUM


# ---- tools that break ---------------------------------------------------------------------------


def test_a_server_of_500s_is_named(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def script(prompt: Prompt) -> str:
        call = {"name": "roborefer.detect_one", "arguments": {"obj_name": "cup", "image_index": 0}}
        return ANSWER if prompt.turn else f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    routes = {
        "GET /": lambda body: (200, b'{"message": "API server is running"}'),
        "POST /query": lambda body: (500, b"boom"),
    }
    with serving(routes) as url:
        tools = {"roborefer": {"backend": "http", "arguments": {"url": url}}}
        (folder / "http.yaml").write_text(json.dumps(tools))
        words = (f"tools={folder / 'http.yaml'}", "show=[roborefer.detect_one]", "retries=1")
        assert play(*words, script=script) == MACHINE_FAILURE
    said = capsys.readouterr()
    assert "8 of 8 episodes broke" in said.err and "500" in said.err
    assert "NO SCORES" in said.out and "roborefer.detect_one" in said.out
    assert len(lines(folder)) == 2 * NUM and all(line["score"] is None for line in lines(folder))
    assert told[0].attempts == {"tabletop-point": NUM}


def test_a_tool_that_hangs_has_a_deadline(
    folder: Path,
    play: Callable[..., int],
    told: list[RunFacts],
    capsys: pytest.CaptureFixture[str],
    ray_cluster: str,
) -> None:
    tools = tools_file(
        folder, host="ray", text="", times=2, what="tabletop-point/5", hang_s=60.0,
        timeout_s=40.0, run_timeout_s=1.0,
    )  # fmt: skip
    begun = time.monotonic()
    assert play(f"tools={tools}") == 0
    assert time.monotonic() - begun < 55, "the hung call alone would take 60"
    # Calls that waited behind the hung one may have run out of their budget as well.
    assert told[0].attempts["tabletop-point"] >= 1
    (reason,) = told[0].attempt_reasons["tabletop-point"]
    assert reason.startswith("faulty.look: replica_died"), "it was killed at its deadline"
    assert "asked again: tabletop-point" in capsys.readouterr().out
    assert all(row.score is not None for row in rows(folder))


# ---- the machine around it ----------------------------------------------------------------------


def test_a_half_written_row_is_asked_again(
    folder: Path, play: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    assert play("tools=none") == 0
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert play("tools=none") == 0
    assert "ends in a torn line, which is dropped and asked again" in caplog.text
    assert sorted(line["question_id"] for line in lines(folder)) == [
        f"tabletop-point/{n}" for n in range(NUM)
    ]


_CHILD = """
import sys, time
import eval.plan
from eval.run import main
from tests.eval.faulty_tools import ANSWER, Scripted

def script(prompt):
    time.sleep(float(sys.argv[1]))
    return "x" * int(sys.argv[2]) + ANSWER

eval.plan.subject_of = lambda word, config, tools: (Scripted(script=script), config)
sys.exit(main(["scripted", "tabletop-point", *sys.argv[3:]]))
"""


def child(
    pause_s: float, folder: Path, *, num_chars: int = 0, limit: str = ""
) -> subprocess.Popen[str]:
    words = [
        str(pause_s),
        str(num_chars),
        f"data={folder}",
        f"out={folder / 'out'}",
        "tools=none",
        "width=1",
    ]
    shell = f'{limit} exec "$0" "$@"'
    return subprocess.Popen(
        ["bash", "-c", shell, sys.executable, "-c", _CHILD, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_runs_in_one_folder_and_a_kill(
    folder: Path, play: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    first = child(0.8, folder)
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    until = time.monotonic() + 60
    while not (file.is_file() and file.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    assert play("tools=none") == USER_ERROR
    said = capsys.readouterr().err
    assert f"in use by another run; wait for it or choose another out= (process {first.pid} on" in (
        said
    )
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    num_before = file.read_bytes().count(b"\n")
    assert 1 <= num_before < NUM
    assert play("tools=none") == 0, "the dead one's lock blocks nobody"
    assert sorted(line["question_id"] for line in lines(folder)) == [
        f"tabletop-point/{n}" for n in range(NUM)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_loses_nothing(
    folder: Path, play: Callable[..., int], number: signal.Signals
) -> None:
    first = child(0.8, folder)
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    until = time.monotonic() + 60
    while not (file.is_file() and file.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    first.send_signal(number)
    _, err = first.communicate(timeout=30)
    assert first.returncode == 130
    assert err.strip().endswith("interrupted; the same command asks only what is missing")
    kept = file.read_bytes()
    assert kept.endswith(b"\n") and play("tools=none") == 0
    assert file.read_bytes().startswith(kept) and len(rows(folder)) == len(lines(folder)) == NUM


def test_a_full_disk_keeps_no_half_row(folder: Path, play: Callable[..., int]) -> None:
    file = folder / "out" / "rows" / "tabletop-point.jsonl"
    # In blocks of 1024 bytes: room for four rows, and not for all.
    first = child(0.0, folder, num_chars=20_000, limit="ulimit -f 100;")
    out, err = first.communicate(timeout=120)
    assert first.returncode == USER_ERROR, (out, err)
    assert f"{file}: file too large" in err and "give the same command again" in err
    assert "report" not in out
    kept = file.read_bytes()
    assert kept.endswith(b"\n") and 1 <= kept.count(b"\n") < NUM
    assert play("tools=none") == 0
    assert file.read_bytes().startswith(kept) and len(rows(folder)) == len(lines(folder)) == NUM


def test_a_file_in_the_place_of_rows_is_named(
    folder: Path, play: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "rows").write_text("mine")
    assert play("tools=none") == USER_ERROR
    assert "rows is a file, where a run keeps a folder" in capsys.readouterr().err
    assert (folder / "out" / "rows").read_text() == "mine"
