"""Evaluation from questions to rows, whatever breaks or changes on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.benchmarks import load_benchmark
from eval.evaluate import Asked, Asking, evaluate
from eval.rows import EvalRow, read_rows
from rl.identity import question_identity
from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.questions.data import write_questions
from rl.rewards import DEMO_RULE
from rl.rollout import Player
from rl.tabletop.teacher import teach
from rl.types import Question
from toolshed.backend import Answer, Request
from toolshed.errors import ConfigError, ToolFailure
from toolshed.images import load_image
from toolshed.shed import Toolshed


def player_with(script: Callable[[Prompt], str], shed: Toolshed | None = None) -> Player:
    return Player(policy=ScriptedPolicy(script), renderer=None, shed=shed)


def play(
    questions: list[Question], out: Path, player: Player, *, draws: int = 0, policy: str = "script"
) -> list[EvalRow]:
    asking = Asking(temperature=1.0 if draws else 0.0, draws=draws or 1, rule=DEMO_RULE, width=4)
    return asyncio.run(evaluate(questions, player, Asked(out=out, policy=policy), asking))


def silent(prompt: Prompt) -> str:
    return "<answer>nothing</answer>"


def test_the_teacher_is_right_and_its_rows_tell_all(
    questions: list[Question], tmp_path: Path
) -> None:
    with Toolshed.open("demo", host="local") as shed:
        rows = play(questions, tmp_path / "rows" / "teacher.jsonl", player_with(teach, shed))
    assert len(rows) == 8
    assert {row.task for row in rows} == {"point", "leftmost"}
    assert sum(row.score or 0 for row in rows) >= 7
    assert all(row.schema_hash == shed.schema_hash and row.draw == "greedy" for row in rows)
    row = next(row for row in rows if row.task == "leftmost")
    assert [call.status for turn in row.episode.turns for call in turn.calls] == ["ok"] * 3
    assert [
        call.drawing.shape for turn in row.episode.turns for call in turn.calls if call.drawing
    ] == [
        "points",
        "depth",
        "value",
    ]
    assert row.reward == pytest.approx(0.9 * (row.score or 0) + 0.1)
    assert read_rows(tmp_path / "rows" / "teacher.jsonl") == rows


def test_resume_asks_only_what_is_missing(questions: list[Question], tmp_path: Path) -> None:
    asked: list[str] = []

    def script(prompt: Prompt) -> str:
        asked.append(prompt.question.id)
        return "<answer>x</answer>"

    out = tmp_path / "rows.jsonl"
    play(questions[:3], out, player_with(script))
    assert len(asked) == 3
    content = out.read_bytes()
    out.write_bytes(content[:-40])
    rows = play(questions, out, player_with(script))
    assert sorted(asked[3:]) == sorted(
        {q.id for q in questions} - {row.question_id for row in rows[:2]}
    )
    assert len(rows) == len({row.key for row in rows}) == 8
    play(questions, out, player_with(script))
    assert len(asked) == 3 + 6


def test_draws_have_their_own_seeds(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:2], out, player_with(silent))
    rows = play(questions[:2], out, player_with(silent), draws=3)
    assert sorted(str(row.draw) for row in rows) == ["0", "0", "1", "1", "2", "2"]
    assert len({row.seed for row in read_rows(out)}) == 8


def test_another_policy_is_refused(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:1], out, player_with(silent))
    with pytest.raises(ConfigError, match="holds the answers of script"):
        play(questions[:1], out, player_with(silent), policy="other")


def test_other_tools_are_refused(questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    play(questions[:1], out, player_with(silent))
    with (
        Toolshed.open("demo", host="local") as shed,
        pytest.raises(ConfigError, match="tool schema"),
    ):
        play(questions[:1], out, player_with(silent, shed))


def test_another_question_of_the_same_id_is_refused(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    (row,) = play(questions[:1], out, player_with(silent))
    assert row.question_hash == question_identity(questions[0])
    kept = out.read_bytes()
    first, second = questions[0], questions[1]
    for other in (
        replace(first, target="another mask"),
        replace(first, messages=second.messages[:1] + first.messages[1:] + second.messages[1:]),
        replace(first, images=next(q.images for q in questions if q.images != first.images)),
    ):
        with pytest.raises(ConfigError, match=f"answers another question {first.id}"):
            play([other], out, player_with(silent))
    assert out.read_bytes() == kept


class _BrokenHost:
    """A host whose machinery breaks on every call."""

    async def call(self, request: Request) -> Answer:
        from toolshed.errors import ToolFailure

        raise ToolFailure("timeout", "no reply in 30 s")

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def test_broken_tools_are_recorded_not_scored_and_asked_again(
    questions: list[Question], tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        with pytest.raises(ToolFailure, match=r"4 of 4 episodes broke.*no reply in 30 s"):
            play(questions[:4], out, player_with(teach, broken))
        rows = read_rows(out)
        assert [row.score for row in rows] == [None] * 4
        assert {row.stop_reason for row in rows} == {"tool_failure"}
        assert "timeout" in rows[0].failure
        again = play(questions[:4], out, player_with(teach, shed))
    assert [row.failed for row in again] == [False] * 4
    assert len(out.read_text().splitlines()) == 8


def test_a_few_failures_in_a_small_evaluation_pass(
    questions: list[Question], tmp_path: Path
) -> None:
    """One question of eight calls a tool that breaks; an eighth is less than a fifth."""

    def script(prompt: Prompt) -> str:
        return teach(prompt) if prompt.question.id == questions[0].id else silent(prompt)

    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        rows = play(questions, tmp_path / "rows.jsonl", player_with(script, broken))
    assert sum(row.failed for row in rows) == 1


def test_too_many_failures_stop_the_run(questions: list[Question], tmp_path: Path) -> None:
    many = [replace(questions[0], id=f"many/{number}") for number in range(40)]
    with Toolshed.open("demo", host="local") as shed:
        broken = Toolshed(shed.config, shed.tools, _BrokenHost())
        with pytest.raises(ToolFailure, match="20 of 20 episodes broke"):
            play(many, tmp_path / "rows.jsonl", player_with(teach, broken))
    assert len(read_rows(tmp_path / "rows.jsonl")) == 20


def test_the_swapped_picture_reaches_the_policy_and_not_the_tools(
    questions: list[Question], tmp_path: Path
) -> None:
    seen: list[str] = []

    def script(prompt: Prompt) -> str:
        seen.append(prompt.images[0].sha256)
        return teach(prompt)

    pictures = {q.id: load_image(questions[i - 1].images[0]) for i, q in enumerate(questions)}
    asked = Asked(out=tmp_path / "rows" / "s.jsonl", policy="p", prompt_pictures=pictures)
    point = [q for q in questions if q.source == "tabletop-point"]
    with Toolshed.open("demo", host="local") as shed:
        rows = asyncio.run(
            evaluate(point, player_with(script, shed), asked, Asking(rule=DEMO_RULE))
        )
    assert set(seen) == {pictures[q.id].sha256 for q in point}
    assert sum(row.score or 0 for row in rows) >= 3
    episode = rows[0].episode
    assert episode.prompt_picture is not None
    assert episode.prompt_picture.sha256 == pictures[rows[0].question_id].sha256
    assert episode.pictures[0].sha256 != episode.prompt_picture.sha256
    assert list((tmp_path / "pictures").iterdir())


def test_a_local_parquet_is_evaluated(questions: list[Question], tmp_path: Path) -> None:
    point = [replace(q, source="refspatial") for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "data" / "reflocation.parquet", point)
    loaded = load_benchmark("reflocation", tmp_path, tmp_path / "made")
    assert len(loaded) == 4
    rows = asyncio.run(
        evaluate(
            loaded,
            player_with(silent),
            Asked(out=tmp_path / "r.jsonl", policy="p", benchmark="reflocation"),
            Asking(),
        )
    )
    assert {(row.benchmark, row.task, row.score) for row in rows} == {
        ("reflocation", "reflocation", 0.0)
    }
    with pytest.raises(ConfigError, match="another benchmark's file"):
        write_questions(tmp_path / "bopgrasp.parquet", point)
        load_benchmark("bopgrasp", tmp_path, tmp_path / "made")
