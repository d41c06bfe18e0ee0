"""Paired comparison of two rows files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eval.compare import compare, main
from eval.rows import EvalRow, RowLog
from tests.eval.test_rows import make_row

_ROW, _FAILED = make_row(0), make_row(0, failed=True)


def write(path: Path, scores: Sequence[float | None], *, policy: str = "tiny") -> Path:
    with RowLog(path) as log:
        for number, score in enumerate(scores):
            log.append(scored(number, score, policy))
    return path


def scored(number: int, score: float | None, policy: str = "tiny") -> EvalRow:
    answer = None if score is None else str(score)
    row = _FAILED if score is None else _ROW
    name = f"test-{number:04d}"
    return replace(row, question_id=name, score=score, policy=policy, answer=answer)


def test_binary_scores_give_mcnemar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a.jsonl", [0.0] * 37 + [1.0] * 63)
    b = write(tmp_path / "b.jsonl", [1.0] * 77 + [0.0] * 23)
    assert main([str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 1
    assert (found[0]["outcome"]["num_better"], found[0]["outcome"]["num_worse"]) == (37, 23)
    assert found[0]["outcome"]["p"] == pytest.approx(0.092, abs=5e-4)
    assert len(found[0]["flips"]) == 60


def test_continuous_scores_bring_a_sign_test_beside_the_mean() -> None:
    before = [scored(n, 0.5) for n in range(45)]
    after = [scored(n, 0.52 if n < 26 else 0.3) for n in range(45)]
    (found,) = compare(before, after)
    assert found.outcome.difference < 0
    assert found.sign_p == pytest.approx(0.371, abs=5e-4)
    assert found.outcome.p < 0.01


def test_equal_runs_are_identical_not_p_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a.jsonl", [1.0, 0.0])
    b = write(tmp_path / "b.jsonl", [1.0, 0.0], policy="other")
    assert main([str(a), str(b)]) == 0
    assert "identical" in capsys.readouterr().out


def test_flips_are_listed_with_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a.jsonl", [1.0, 0.0]), write(tmp_path / "b.jsonl", [1.0, 1.0])
    main([str(a), str(b)])
    words = capsys.readouterr().out
    assert "1 flips" in words
    assert "test-0001" in words
    assert "0.0 -> 1.0" in words


def test_broken_and_missing_questions_are_left_out_and_counted() -> None:
    before = [scored(0, 1.0), scored(1, None), scored(2, 0.0)]
    after = [scored(0, 1.0), scored(1, 1.0), scored(2, 0.0), scored(3, 1.0)]
    (found,) = compare(before, after)
    assert (found.outcome.num_pairs, found.num_unpaired) == (2, 2)
    assert found.outcome.identical


def test_greedy_and_sampled_answers_are_compared_apart() -> None:
    greedy = [scored(n, 1.0) for n in range(3)]
    sampled = [replace(row, draw=draw) for row in greedy for draw in (0, 1)]
    modes = [found.mode for found in compare([*greedy, *sampled], [*greedy, *sampled])]
    assert modes == ["greedy", "sampled"]


def test_folders_of_one_policy_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a" / "rows" / "tabletop-depth.jsonl", [1.0])
    write(tmp_path / "b" / "rows" / "tabletop-depth.jsonl", [0.0])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0


def test_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "rows" / "a.jsonl", [1.0])
    assert main([str(a), str(tmp_path / "none.jsonl")]) == 2
    assert "does not exist" in capsys.readouterr().err
    write(tmp_path / "rows" / "b.jsonl", [1.0], policy="other")
    assert main([str(tmp_path), str(a)]) == 2
    assert "2 policies" in capsys.readouterr().err
    other = tmp_path / "c.jsonl"
    with RowLog(other) as log:
        log.append(replace(make_row(0), task="pose"))
    assert main([str(a), str(other)]) == 2
    assert "share no scored question" in capsys.readouterr().err
    assert main([str(tmp_path / "empty"), str(a)]) == 2
    (tmp_path / "folder").mkdir()
    assert main([str(tmp_path / "folder"), str(a)]) == 2
    assert "no rows/*.jsonl" in capsys.readouterr().err
