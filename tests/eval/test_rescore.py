"""Recorded answers scored again: agreement is counted, nothing that cannot be scored is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.recorded import read_recorded
from eval.rescore import agreement, main, rescore
from eval.rows import EvalRow
from tests.eval.test_rows import make_row, write
from toolshed.errors import ConfigError

AB = "Which is closer? (A) cup (B) box"
GRASP = (
    "Grasp center: [0.5, 0.5], Left finger base: [0.4, 0.5], Right finger base: [0.6, 0.5], "
    "Left finger tip: [0.4, 0.7], Right finger tip: [0.6, 0.7]"
)
MIRRORED = GRASP.replace("Left", "X").replace("Right", "Left").replace("X", "Right")

Json = Any


def record(
    sample_id: int, answer: str | None = "A", score: float | None = 1.0, **more: Json
) -> Json:
    return {
        "benchmark": "cvb3ddepth",
        "sample_id": sample_id,
        "checkpoint": "other",
        "question": AB,
        "ground_truth": "A",
        "raw_answer": answer,
        "recorded": {"score": score, "reward": score},
        "trajectory": [{"turn": 1}],
        **more,
    }


def saved(path: Path, records: Sequence[Mapping[str, Json]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Json:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_counts_states_and_both_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        record(0),
        record(1, "B", 1.0),
        record(2, "C", 0.0),
        record(3, None, 0.0),
        record(4, ground_truth=None),
        record(5, score=None),
        {**record(6), "recorded": None},
        {key: value for key, value in record(7).items() if key != "recorded"},
    ]
    found = printed(capsys, saved(tmp_path / "a.jsonl", records))
    assert found.keys() == {"benchmarks", "rows"}
    assert found["benchmarks"]["cvb3ddepth"] == {
        "records": 8, "scored": 7, "agree": 3, "differ": 1, "no_recorded_score": 3,
        "no_ground_truth": 1, "failed": 0, "needs_robot": 0,
        "answered": 5, "off_option": 1, "unparsable": 1, "mean": 4 / 7,
        "types": {"closer_of_two": {"scored": 7, "mean": 4 / 7}},
    }  # fmt: skip
    rows = found["rows"]
    assert [row["sample_id"] for row in rows] == list(range(8))
    assert [row["score"] for row in rows] == [1.0, 0.0, 0.0, 0.0, None, 1.0, 1.0, 1.0]
    assert [row["recorded_score"] for row in rows[:3]] == [1.0, 1.0, 0.0]
    assert [row["agrees"] for row in rows] == [True, False, True, True, None, None, None, None]
    assert {row["question_type"] for row in rows} == {"closer_of_two"}


def test_grasps_show_the_error_and_keep_quality_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grasp = {"benchmark": "bopgrasp", "question": "?", "ground_truth": GRASP}
    path = saved(tmp_path / "a.jsonl", [record(0, MIRRORED, 0.8, **grasp)])
    found = printed(capsys, path)
    (row,) = found["rows"]
    assert row["score"] == pytest.approx(0.8) and row["agrees"] is True
    assert (row["mace"], row["sr"], row["recorded_figure"]) == (pytest.approx(1.0), 1.0, "nce")
    counts = found["benchmarks"]["bopgrasp"]
    assert (counts["mace"], counts["sr"]) == (pytest.approx(100.0), 100.0)
    assert counts["mean"] == counts["median"] == pytest.approx(0.8)
    assert main([str(path)]) == 0
    assert "NCE, lower is better" in capsys.readouterr().out


def grasp_row(score: float) -> EvalRow:
    row = make_row(0)
    return replace(
        row, benchmark="bopgrasp", task="bopgrasp", target=GRASP, answer=MIRRORED, score=score
    )


def test_our_rows_keep_accuracy_of_grasps_quality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "rows.jsonl", [grasp_row(1.0)])
    (row,) = printed(capsys, tmp_path / "rows.jsonl")["rows"]
    assert row["agrees"] is True and row["score"] == pytest.approx(0.8)
    assert row["recorded_figure"] == "mace"


def test_our_rows_broken_ones_and_those_for_robots_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [make_row(0), make_row(1, right=False), make_row(2, failed=True)]
    robot = replace(make_row(3), benchmark="tabletop-pick", task="pick")
    write(tmp_path / "rows" / "a.jsonl", [*rows, robot])
    found = printed(capsys, tmp_path)
    depth, pick = found["benchmarks"]["tabletop-depth"], found["benchmarks"]["tabletop-pick"]
    assert (depth["scored"], depth["agree"], depth["failed"]) == (2, 2, 1)
    assert (pick["scored"], pick["needs_robot"], pick["mean"]) == (0, 1, None)
    assert main([str(tmp_path)]) == 0
    assert "2 of 2 recorded scores agree within 1e-09" in capsys.readouterr().out


def test_the_table_lists_what_differs_and_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "a.jsonl", [record(0, "B", 1.0), record(1, score=None), record(2)])
    assert main([str(path)]) == 0
    words = capsys.readouterr().out
    assert "1 answers that differ\n  cvb3ddepth 0 other greedy: 1 -> 0 answered   B" in words
    assert "1 answers without a recorded score\n  cvb3ddepth 1 other greedy: 1 answered" in words
    assert main([str(path), "--list", "0"]) == 0
    assert "1 more; --list N shows N" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no record of an answer (the line: Invalid JSON"),
        ("", "line 2 is no record"),
        ("[1]", "line 2 is no record"),
        (json.dumps({"benchmark": "blinkdepth"}), "Field required"),
        (json.dumps(record(1, benchmark="blinkdeph")), "line 2: unknown benchmark 'blinkdeph'"),
        (json.dumps(record(1, recorded={"score": "1"})), "recorded.score"),
        (json.dumps(record(1, recorded={"score": True})), "recorded.score"),
        (json.dumps(record(1, recorded={"score": float("nan")})), "recorded.score is nan"),
        (json.dumps(record(1, raw_answer=5)), "raw_answer"),
        (json.dumps(record(1, benchmark="boppose")), "line 2: ground truth 'A' of boppose"),
        (json.dumps(record(1, benchmark="reflocation", ground_truth="A" * 120)), "line 2: ground"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record(0)) + "\n" + line + "\n")
    assert main([str(path)]) == 2
    told = capsys.readouterr()
    assert words in told.err and str(path) in told.err and not told.out


def test_bad_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = saved(tmp_path / "empty.jsonl", [])
    (tmp_path / "folder").mkdir()
    good = saved(tmp_path / "good.jsonl", [record(0)])
    for words, said in (
        ([tmp_path / "none.jsonl"], "does not exist"),
        ([empty], "line 1 is empty"),
        ([tmp_path / "folder"], "neither rows/*.jsonl nor *.jsonl"),
        ([good, good], "named twice"),
        ([good, "--list", "-1"], "--list -1"),
    ):
        assert main([str(word) for word in words]) == 2
        assert said in capsys.readouterr().err


def test_bad_rows_of_ours_are_named(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [make_row(0)])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl line 2 is no evaluation row"):
        list(read_recorded([tmp_path / "rows.jsonl"]))
    write(tmp_path / "other.jsonl", [replace(make_row(0), benchmark="mine")])
    with pytest.raises(ConfigError, match="unknown benchmark 'mine'"):
        list(read_recorded([tmp_path / "other.jsonl"]))


# ---- what others recorded -----------------------------------------------------------------------


@pytest.mark.shared
def test_every_recorded_score_is_reproduced(
    recorded_eval: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(recorded_eval.glob("*.jsonl"))
    found = printed(capsys, *files)
    counts = found["benchmarks"]
    assert len(counts) == 9
    assert {name: one["agree"] for name, one in counts.items()} == {
        name: one["scored"] for name, one in counts.items()
    }
    assert sum(one["records"] for one in counts.values()) == 124
    assert sum(one["scored"] for one in counts.values()) == 114
    assert sum(one["no_ground_truth"] for one in counts.values()) == 10
    # Said once more without the command's own arithmetic.
    told = {(r["benchmark"], r["sample_id"], r["checkpoint"]): r for r in found["rows"]}
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    for line in lines:
        row = told[line["benchmark"], line["sample_id"], line["checkpoint"]]
        if line["ground_truth"] is None:
            assert row["score"] is None
        else:
            assert abs(row["score"] - line["recorded"]["score"]) <= 1e-9
            assert row["question_type"] == line["question_type"]


@pytest.mark.shared
def test_the_only_letter_that_was_not_offered_is_counted_apart(recorded_eval: Path) -> None:
    counts = agreement(rescore(read_recorded([recorded_eval])))
    states = {name: (one["off_option"], one["unparsable"]) for name, one in counts.items()}
    assert states.pop("blinkdepth") == (1, 0)
    assert set(states.values()) == {(0, 0)}


@pytest.mark.shared
def test_grasps_fit_into_the_totals_of_their_run(recorded_eval: Path) -> None:
    """38 of the run's 60 answers are here: sums over a part bound those of the whole."""
    outcomes = {}
    for line in (recorded_eval / "bopgrasp.jsonl").read_text().splitlines():
        one = json.loads(line)
        outcomes[one["checkpoint"], one["sample_id"]] = one["grasp_tool_outcome"]
    run = [
        one.scored.parts | {"collision": outcomes["gflowrl", one.record.sample_id] == "collision"}
        for one in rescore(read_recorded([recorded_eval / "bopgrasp.jsonl"]))
        if one.record.checkpoint == "gflowrl" and one.scored is not None
    ]
    recorded = {None: (60, 44.7875, 33), True: (32, 40.5668, 11), False: (28, 49.6112, 22)}
    for collision, (size, mace, successes) in recorded.items():
        part = [one for one in run if collision is None or one["collision"] == collision]
        missing = size - len(part)
        assert missing >= 0
        assert 0 <= size * mace / 100 - sum(one["mace"] for one in part) <= missing
        assert 0 <= successes - sum(one["sr"] for one in part) <= missing
