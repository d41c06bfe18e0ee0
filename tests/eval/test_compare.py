"""Paired comparison of two rows files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.compare import compare, main
from eval.gate import Limits
from eval.pairs import load_side
from eval.report.facts import RunFacts
from eval.report.store import write_facts
from eval.rows import EvalRow, RowLog
from eval.scoring import question_type
from rl.show.episode import Picture
from tests.eval.test_rows import make_row
from toolshed.errors import ConfigError

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
    return replace(
        row,
        question_id=name,
        score=score,
        policy=policy,
        answer=answer,
        episode=replace(row.episode, pictures=(Picture(sha256=name),)),
    )


def test_binary_scores_give_mcnemar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a.jsonl", [0.0] * 37 + [1.0] * 63)
    b = write(tmp_path / "b.jsonl", [1.0] * 77 + [0.0] * 23)
    assert main([str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 1
    assert (found[0]["outcome"]["num_better"], found[0]["outcome"]["num_worse"]) == (37, 23)
    assert found[0]["p"] == pytest.approx(0.092, abs=5e-4)
    assert found[0]["p_pictures"] is None and "p" not in found[0]["outcome"]
    assert (found[0]["test"], found[0]["bootstrap_p"], found[0]["p_holm"]) == (
        "mcnemar",
        None,
        None,
    )
    assert len(found[0]["flips"]) == 60


def test_continuous_scores_bring_a_sign_test_beside_the_mean() -> None:
    before = [scored(n, 0.5) for n in range(45)]
    after = [scored(n, 0.52 if n < 26 else 0.3) for n in range(45)]
    (found,) = compare(before, after)
    assert found.outcome.difference < 0
    assert found.test == "sign" and found.p == pytest.approx(0.371, abs=5e-4)
    assert found.bootstrap_p is not None and found.bootstrap_p < 0.01
    assert found.outcome.low is not None and found.outcome.high is not None
    assert found.outcome.low < found.outcome.difference < found.outcome.high < 0


def test_equal_runs_are_identical_not_p_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a.jsonl", [1.0, 0.0])
    b = write(tmp_path / "b.jsonl", [1.0, 0.0], policy="other")
    assert main([str(a), str(b)]) == 0
    assert "identical" in capsys.readouterr().out
    (found,) = compare(load_side(a).rows, load_side(b).rows, correct=True)
    assert found.identical and found.p is found.p_holm is found.bootstrap_p is None
    assert main([str(a), str(b), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert {key for key in told if key.endswith("p") or key.startswith("p_")} == {
        "p", "p_holm", "p_pictures", "bootstrap_p"
    }  # fmt: skip
    assert not any(key == "p" for key in told["outcome"])


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


def spatial(
    number: int, score: float, question: str, target: str, task: str = "robospatial-vqa"
) -> EvalRow:
    kind = question_type("robospatial", question, target) or ""
    row = replace(scored(number, score), benchmark="robospatial", task=task, target=target)
    return replace(row, question_type=kind, episode=replace(row.episode, question=question))


def test_parts_stand_below_their_benchmark() -> None:
    asked = [
        ("Can the cup fit behind the box?", "Yes", "robospatial-vqa"),
        ("Is the cup behind the box?", "No", "robospatial-vqa"),
        ("Is the cup left of the box?", "No", "robospatial-vqa"),
        ("Is it?", "No", "robospatial-vqa"),
        ("Pinpoint a point.", "[(0.1, 0.1), (0.2, 0.1), (0.1, 0.2)]", "robospatial-vacant"),
    ]
    before = [spatial(n, 0.0, *one) for n, one in enumerate(asked)]
    after = [replace(row, score=float(n % 2 == 0)) for n, row in enumerate(before)]
    found = {one.part: one for one in compare(before, after)}
    assert {part: one.outcome.num_pairs for part, one in found.items()} == {
        "": 5, "vqa": 4, "vacant": 1,
        "vqa_fit": 1, "vqa_front_behind": 1, "vqa_relation": 1, "unknown type": 1,
    }  # fmt: skip
    assert [part for part, one in found.items() if one.identical] == [
        "vqa_front_behind", "unknown type"
    ]  # fmt: skip


@pytest.mark.parametrize("benchmark", ["bopgrasp", "tabletop-grasp"])
def test_success_of_grasps_is_a_part_of_its_own(benchmark: str) -> None:
    def grasp(number: int, mace: float) -> EvalRow:
        row = replace(scored(number, mace), benchmark=benchmark, task=benchmark)
        parts = {"mace": mace, "success": float(mace > 0.40)}
        return replace(row, episode=replace(row.episode, parts=parts))

    before, after = [grasp(n, 0.40) for n in range(6)], [grasp(n, 0.41) for n in range(6)]
    whole, success = compare(before, after)
    assert (whole.test, success.test) == ("sign", "mcnemar")
    assert (success.part, success.mean_before, success.mean_after) == ("SR", 0.0, 1.0)


def test_holm_is_over_benchmarks_and_over_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = [], []
    for benchmark, better in (("tabletop-depth", 6), ("tabletop-nearer", 7), ("tabletop-point", 0)):
        for number in range(8):
            row = replace(scored(number, 0.0), benchmark=benchmark, task=benchmark)
            before.append(row)
            after.append(replace(row, score=float(number < better)))
    found = {one.benchmark: one for one in compare(before, after, correct=True)}
    assert found["tabletop-nearer"].p == pytest.approx(2 / 2**7)
    assert found["tabletop-nearer"].p_holm == pytest.approx(3 * 2 / 2**7)
    assert found["tabletop-depth"].p_holm == pytest.approx(2 * 2 / 2**6)
    assert found["tabletop-point"].p_holm is None
    for name, rows in (("a", before), ("b", after)):
        with RowLog(tmp_path / f"{name}.jsonl") as log:
            for row in rows:
                log.append(row)
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]
    assert main([*paths, "--holm"]) == 0
    assert "0.0469" in capsys.readouterr().out
    assert main(paths) == 0
    assert "0.0469" not in capsys.readouterr().out


def test_one_id_for_two_questions_stops() -> None:
    first = replace(scored(0, 1.0), question_hash="a")
    with pytest.raises(ConfigError, match="test-0000 is not the same in both runs"):
        compare([first], [replace(first, question_hash="b")])


def test_clear_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "rows" / "a.jsonl", [1.0])
    assert main([str(a), str(tmp_path / "none.jsonl")]) == 2
    assert "does not exist" in capsys.readouterr().err
    write(tmp_path / "rows" / "b.jsonl", [1.0], policy="other")
    assert main([str(tmp_path), str(a)]) == 2
    assert "2 policies" in capsys.readouterr().err
    other = tmp_path / "c.jsonl"
    with RowLog(other) as log:
        log.append(replace(make_row(0), benchmark="tabletop-pose", task="pose"))
    assert main([str(a), str(other)]) == 2
    assert "share no question that both answered" in capsys.readouterr().err
    assert main([str(tmp_path / "empty"), str(a)]) == 2
    (tmp_path / "folder").mkdir()
    assert main([str(tmp_path / "folder"), str(a)]) == 2
    assert "no rows/*.jsonl" in capsys.readouterr().err


def test_flips_link_to_the_episodes_of_both_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, scores in (("a", [1.0, 0.0]), ("b", [1.0, 1.0])):
        write(tmp_path / "runs" / name / "rows" / "tabletop-depth.jsonl", scores)
    (tmp_path / "runs" / "a" / "report.html").write_text("a page")
    assert main(["runs/a", str(tmp_path / "runs" / "b" / "rows" / "tabletop-depth.jsonl")]) == 0
    words = capsys.readouterr().out
    assert "A: runs/a/report.html#tabletop-depth/test-0001/greedy/0" in words
    assert "B: runs" not in words
    (tmp_path / "runs" / "b" / "report.html").write_text("a page")
    main(["runs/a", str(tmp_path / "runs" / "b" / "rows" / "tabletop-depth.jsonl"), "--json"])
    (flip,) = json.loads(capsys.readouterr().out)[0]["flips"]
    assert flip["link_before"] == "runs/a/report.html#tabletop-depth/test-0001/greedy/0"
    assert flip["link_after"] == "runs/b/report.html#tabletop-depth/test-0001/greedy/0"


def test_a_rows_own_question_type_counts() -> None:
    before = [replace(scored(n, 0.0), question_type=f"type {n % 2}") for n in range(4)]
    after = [replace(row, score=1.0) for row in before]
    assert [one.part for one in compare(before, after)] == ["", "type 0", "type 1"]


# ---- runs of different size ---------------------------------------------------------------------


def drawn(rng: np.random.Generator, chances: Sequence[float], num_repeats: int) -> list[EvalRow]:
    """Every question asked once in each repeat, right by its own chance."""
    return [
        replace(scored(number, float(rng.random() < chance)), repeat=repeat)
        for repeat in range(num_repeats)
        for number, chance in enumerate(chances)
    ]


def test_one_model_does_not_differ_from_itself_asked_more_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eval.metrics.NUM_RESAMPLES", 100)
    rng = np.random.default_rng(11)
    chances = rng.beta(3, 1, 124).tolist()
    found = 0
    for _ in range(200):
        (one,) = compare(drawn(rng, chances, 3), drawn(rng, chances, 1))
        found += one.p is not None and one.p < 0.05
    assert found / 200 <= 0.08


def test_the_first_answers_that_both_have_count_and_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [replace(scored(n, float(r == 0)), repeat=r) for r in range(3) for n in range(4)]
    after = [scored(n, 1.0) for n in range(4)]
    for first, second in ((before, after), (after, before)):
        (found,) = compare(first, second)
        assert found.identical and found.mean_before == found.mean_after == 1.0
    # The third question broke in the first repeat, so its answer of the second counts.
    broken = [row for row in before if (row.repeat, row.question_id) != (0, "test-0002")]
    (found,) = compare(broken, after)
    assert [flip.question_id for flip in found.flips] == ["test-0002"]
    for name, rows in (("a", before), ("b", after)):
        with RowLog(tmp_path / f"{name}.jsonl") as log:
            for row in rows:
                log.append(row)
    assert main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    assert "4 questions have other numbers of answers in A (3) than in B (1)" in (
        capsys.readouterr().out
    )


def test_draws_are_cut_to_the_common_number() -> None:
    before = [replace(scored(0, float(d < 2)), draw=d) for d in (3, 0, 2, 1)]
    after = [replace(scored(0, 0.0), draw=d) for d in range(2)]
    (found,) = compare(before, after)
    assert (found.mean_before, found.mean_after) == (1.0, 0.0)
    assert "A (4) than in B (2)" in found.notes[0]


# ---- questions that share pictures --------------------------------------------------------------


def of_picture(number: int, picture: int, score: float) -> EvalRow:
    row = scored(number, score)
    pictures = (Picture(sha256=f"picture {picture}"),)
    return replace(row, episode=replace(row.episode, pictures=pictures))


def test_questions_that_flip_together_are_no_evidence_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eval.metrics.NUM_RESAMPLES", 200)
    rng = np.random.default_rng(12)
    naive = robust = outside = 0
    rows = [
        [of_picture(number, number // 5, score) for score in (0.0, 1.0)] for number in range(300)
    ]
    for _ in range(200):
        scores = (rng.random((2, 60)) < 0.6).astype(int).repeat(5, axis=1)
        before, after = (
            [rows[number][score] for number, score in enumerate(run)] for run in scores.tolist()
        )
        (one,) = compare(before, after)
        assert one.p is not None and one.p_pictures is not None
        assert one.outcome.low is not None and one.outcome.high is not None
        naive += one.p < 0.05
        robust += one.p_pictures < 0.05
        outside += not one.outcome.low <= 0 <= one.outcome.high
    assert naive / 200 > 0.25
    assert robust / 200 <= 0.08 and outside / 200 <= 0.1


def test_the_p_to_trust_is_told_and_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [of_picture(number, number // 2, 0.0) for number in range(8)]
    after = [replace(row, score=1.0) for row in before]
    (found,) = compare(before, after, correct=True)
    assert found.p == pytest.approx(2 / 2**8)
    assert found.p_pictures == found.p_holm == found.trusted_p == 2 / 2**4
    assert found.num_pictures == 4
    for name, rows in (("a", before), ("b", after)):
        with RowLog(tmp_path / f"{name}.jsonl") as log:
            for row in rows:
                log.append(row)
    assert main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    words = capsys.readouterr().out
    assert "8 questions share 4 pictures; McNemar's test (p) takes questions for independent" in (
        words
    )
    assert "0.1250" in words


def test_one_picture_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [of_picture(number, 0, 0.1) for number in range(4)]
    after = [replace(row, score=0.9) for row in before]
    (found,) = compare(before, after)
    assert found.outcome.low is found.outcome.high is found.bootstrap_p is None
    assert found.p_pictures == 1.0
    for name, rows in (("a", before), ("b", after)):
        with RowLog(tmp_path / f"{name}.jsonl") as log:
            for row in rows:
                log.append(row)
    assert main([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    assert "all 4 questions share one picture" in capsys.readouterr().out


# ---- poisoned runs ------------------------------------------------------------------------------


def poisoned(path: Path, name: str) -> Path:
    write(path / "rows" / f"{name}.jsonl", [1.0, 0.0, None])
    return path


def test_poisoned_runs_are_not_compared_unless_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = poisoned(tmp_path / "bad", "tabletop-depth")
    good = write(tmp_path / "good.jsonl", [1.0, 1.0, 1.0])
    file = bad / "rows" / "tabletop-depth.jsonl"
    for pair in ([bad, good], [good, bad], [good, file]):
        words = [str(path) for path in pair]
        assert main(words) == 2
        told = capsys.readouterr()
        assert "is poisoned" in told.err and "machinery broke in 1 of 3 rows" in told.err
        assert "--show-poisoned" in told.err and not told.out
        assert main([*words, "--show-poisoned"]) == 0
        assert capsys.readouterr().out.startswith("WARNING: ")
        assert main([*words, "--show-poisoned", "--json"]) == 0
        told = capsys.readouterr()
        assert len(json.loads(told.out)) == 1 and "is POISONED" in told.err


def test_a_runs_own_limits_and_wishes_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = poisoned(tmp_path / "bad", "r"), write(tmp_path / "good.jsonl", [1.0] * 3)
    facts = RunFacts(subject="tiny")
    write_facts(bad, replace(facts, limits=Limits(infrastructure=0.5)))
    assert main([str(bad), str(good)]) == 0
    assert "POISONED" not in capsys.readouterr().out
    write_facts(bad, replace(facts, told_to_show=True))
    assert main([str(bad), str(good)]) == 0
    assert "WARNING: A" in capsys.readouterr().out
    write_facts(bad, replace(facts, limits=Limits(infrastructure=0.5), stopped="too much broke"))
    assert main([str(bad), str(good)]) == 2
    assert "too much broke" in capsys.readouterr().err
