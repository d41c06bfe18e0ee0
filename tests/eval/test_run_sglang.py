"""A checkpoint examined through a real engine answers as it does in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from eval.rows import EvalRow, read_rows
from eval.run import main
from rl.questions.data import write_questions
from rl.types import Question
from tests.rl.camera_tools import CAMERA
from tests.rl.engines import TURNS, odd_question, skip_without_engine, taught

pytestmark = pytest.mark.slow


def test_greedy_answers_are_those_of_the_transformers_policy(
    tiny: Path, tmp_path: Path, questions: list[Question]
) -> None:
    skip_without_engine()
    folder = taught(tiny, tmp_path / "taught", TURNS)
    tools = tmp_path / "tools.yaml"
    tools.write_text(yaml.safe_dump(CAMERA))
    # What the policy was taught to answer, in the layout of a benchmark.
    points = [each for each in questions if each.source == "tabletop-point"]
    taught_ones = [odd_question(seed) for seed in range(len(points))]
    asked = [
        replace(point, messages=other.messages, images=other.images)
        for point, other in zip(points, taught_ones, strict=True)
    ]
    write_questions(tmp_path / "tabletop-point.parquet", asked)

    def rows(policy: str, *more: str) -> dict[str, EvalRow]:
        out = tmp_path / policy
        words = [f"policy={policy}", f"tools={tools}", f"data={tmp_path}", f"out={out}"]
        words += ["device=cpu", "dtype=float32", "tools.schema=any", "show_poisoned=true", *more]
        words += ["max_turns=4", "max_tokens=400", "max_turn_tokens=100", "max_length=1500"]
        assert main([str(folder), "tabletop-point", "--config", "demo", *words]) == 0
        return {row.question_id: row for row in read_rows(out / "rows" / "tabletop-point.jsonl")}

    expected = rows("transformers")
    found = rows("sglang", "engine.max_total_tokens=8192", "engine.checked_prompts=1.0")
    assert len(expected) == len(asked) and set(found) == set(expected)
    for name, row in found.items():
        mine, theirs = row.episode, expected[name].episode
        assert [turn.text for turn in mine.turns] == [turn.text for turn in theirs.turns]
        assert not mine.failure
    assert any(len(row.episode.pictures) > 1 for row in found.values()), "tools returned pictures"
    assert list((tmp_path / "sglang" / "engine").glob("*.log"))
