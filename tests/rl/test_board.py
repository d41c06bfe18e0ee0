"""Dashboards: drawn at any size, fed by a run under way or by its folder, never in its way."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rl.scheduling.schedule import Schedule
from rl.show.board import Board, duration, short_s, sparkline
from rl.show.flight import Flight
from rl.show.idle import IDLE_STEPS, IdleSteps, idle_steps, idle_words
from rl.show.progress import Dashboard, last_words, shown
from rl.watch import main, read_board
from tests.eval.demo.fake_run import broken, fake_trajectory
from tests.rl.paced_run import RULES, Questions, judge, paced, player

LINE: dict[str, Any] = {
    "reward": 0.5, "accuracy": 0.4, "call_rate": 0.9, "dead_groups": 0.25, "step_s": 30.0,
    "update_s": 12.5, "mismatch": 0.002, "engine_cached_share": 0.87, "engine_requests": 1234,
}  # fmt: skip
TOOLS = {"calls": 12, "ok": 0.5, "refused": 0.25, "failed": 0.25, "total_s": 0.2, "p95_s": 100.0}
BOARD = Board(
    title="SpaceTools · run \x1b[31m\x07",
    steps=40,
    lines=[{"step": step, **LINE, "reward": step / 20} for step in range(1, 11)],
    phase="updating, 0:12",
    elapsed_s=300,
    states={"sampling": 12, "sam2.segment_by_point": 3},
    groups=(5, 2, 8),
    tools={f"tool/sam2.segment_by_point/{key}": value for key, value in TOOLS.items()},
    last="reward 1.00 · q1 · says \x1b]0;title\x07 and\nmore " + "word " * 200,
)


def drawn(board: Board, width: int) -> list[str]:
    text = io.StringIO()
    Console(width=width, file=text, color_system=None).print(board)
    return text.getvalue().split("\n")[:-1]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_everything_is_there_within_the_width(width: int) -> None:
    rows = drawn(BOARD, width)
    text = "\n".join(rows)
    assert all(len(row) <= width for row in rows)
    assert not any(letter in text for letter in "\x1b\x07")
    for words in (
        "step 10 of 40", "25 %", "5:00, about 15:00 to go", "reward", "0.500", "groups open 5",
        "complete 2 of 8", "sampling", "in sam2.segment_by_point", "200 ms", "1:40", "25 %",
        "updating, 0:12", "87 %", "1,234", "Last trajectory",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("height", [0, 10, 24, 60])
def test_it_fits_the_height(height: int) -> None:
    rows = drawn(replace(BOARD, height=height), 80)
    assert not height or len(rows) <= height
    assert "step 10 of 40" in rows[0]


def test_a_run_that_has_only_begun_is_drawn() -> None:
    assert drawn(Board(title="new", steps=3, lines=()), 80)[0].endswith("step 0 of 3")
    assert drawn(Board(title="other", steps=0, lines=({"step": 1, "loss": 2.5},)), 80)


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=300), st.integers(1, 120))
def test_sparklines_have_their_width(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == width


def test_bars_and_times() -> None:
    assert sparkline([0, 0.5, 1], 4) == "▁▅█ "
    assert sparkline([0, 1, 0, 1], 2) == sparkline([0.5, 0.5], 2)
    assert [duration(s) for s in (12, 760, 10931)] == ["0:12", "12:40", "3:02:11"]
    assert [short_s(s) for s in (0.008, 1.42, 23, 300)] == ["8 ms", "1.4 s", "23 s", "5:00"]


def test_a_dashboard_tells_what_trajectories_do() -> None:
    flight = Flight()
    schedule = Schedule(player(paced()), RULES, Questions(), judge)
    dashboard = Dashboard(Board(title="run", steps=5, lines=()), flight, schedule)
    flight.samples("a")
    flight.samples("b")
    flight.samples("c")
    flight.calls("b", ["sam2.segment_by_point", "other"])
    flight.leaves("c")
    flight.ends(fake_trajectory("point", 0, right=True, tools=True))
    dashboard.phase("updating")
    dashboard.step({"reward": 0.5})
    board = dashboard.board()
    assert board.states == {"sampling": 1, "sam2.segment_by_point": 1}
    assert board.groups == (0, 0, RULES.batch)
    assert board.phase.startswith("updating, 0:0") and board.now["reward"] == 0.5
    assert board.tools["tool/roborefer.detect_one/ok"] == 1.0
    assert "roborefer.detect_one(" in board.last
    assert all(result.held is None for t in flight.ended for result in t.results)


def test_the_last_trajectory_says_that_it_broke() -> None:
    from rl.show.episode import episode_of

    lost = broken(fake_trajectory("point", 0, right=True, tools=True))
    assert last_words(episode_of(lost)).startswith("failed · tabletop-point test-0000")


@pytest.mark.parametrize("choice", ["auto", "bar", "none", "dashboard"])
def test_a_run_is_shown_as_asked(choice: str, capfd: pytest.CaptureFixture[str]) -> None:
    schedule = Schedule(player(paced()), RULES, Questions(), judge)
    dashboard = Dashboard(Board(title="my run", steps=2, lines=()), Flight(), schedule)
    with shown(choice, dashboard) as progress:
        progress.phase("updating")
        progress.step({"reward": 0.5})
    told = capfd.readouterr()
    bar = choice in ("auto", "bar")
    assert ("my run" in told.err, "my run" in told.out) == (bar, choice == "dashboard")


def test_a_folder_is_watched_without_being_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--once"]) == 2
    assert "holds no config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("steps: 10\n")
    assert "no step yet" in read_board(tmp_path).phase
    lines = [{"step": step, **LINE, "tool/a.b/calls": 4} for step in range(1, 11)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 11, "rew')
    (tmp_path / "trajectories.jsonl").write_text('{"torn": ')
    before = sorted(tmp_path.iterdir())
    board = read_board(tmp_path)
    assert (board.step, board.elapsed_s, board.states, board.last) == (10, 300.0, None, "")
    assert main([str(tmp_path), "--once"]) == 0
    assert main([str(tmp_path)]) == 0, "it ends with the run"
    assert "step 10 of 10" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before


# ---- steps that train nothing -------------------------------------------------------------------

DEAD: dict[str, Any] = {"dead_groups": 1.0, "accuracy": 0.0, "step_s": 1.0}


def test_steps_that_train_nothing_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = IdleSteps(tmp_path, [LINE, DEAD, DEAD])
    for _ in range(IDLE_STEPS - 3):
        idle.step(DEAD)
    assert capsys.readouterr().err == ""
    idle.step(DEAD)
    said = capsys.readouterr().err
    assert said.startswith(f"warning: the last {IDLE_STEPS} steps trained nothing")
    assert "easier questions" in said and f"rl.view {tmp_path}" in said and said.count("\n") == 1
    idle.step(DEAD)
    assert capsys.readouterr().err == ""


def test_a_step_that_trained_begins_anew() -> None:
    trained = DEAD | {"dead_groups": 0.875, "loss": 0.1}
    assert idle_steps([*[DEAD] * 4, trained, *[DEAD] * 4]) == 4
    assert not idle_words([*[DEAD] * 4, trained, *[DEAD] * 4])
    # A KL term trains dead groups, too.
    assert not idle_words([DEAD | {"loss": 0.0}] * 9)
    assert "harder questions" in idle_words([DEAD | {"accuracy": 1.0}] * 7)


@pytest.mark.parametrize("width", [60, 120])
def test_the_dashboard_says_that_nothing_is_trained(width: int) -> None:
    for lines, is_said in (([DEAD] * 5, True), ([DEAD] * 4, False)):
        console = Console(file=io.StringIO(), width=width, force_terminal=False)
        console.print(replace(BOARD, lines=[{"step": 1, **each} for each in lines]))
        told = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("steps trained nothing" in " ".join(told.split())) == is_said
