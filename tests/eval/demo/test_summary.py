"""The summary follows from the rows and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from eval.demo.claims import claims
from eval.demo.report import table
from eval.demo.stages import BY_NAME, CEILING, STAGES, TASKS
from eval.demo.summary import (
    Result,
    RunFacts,
    Summary,
    read_stage_rows,
    read_summary,
    result_of,
    summarise,
    write_summary,
)
from eval.evaluate import row_of
from eval.rows import Draw, EvalRow
from rl.figures.intervals import wilson
from tests.eval.demo.fake_run import (
    ACCURACY,
    broken,
    fake_facts,
    fake_trajectory,
    judged,
    write_fake_run,
)
from toolshed.errors import ConfigError


def row(
    number: int, draw: Draw, *, right: bool, tools: bool = True, failed: bool = False
) -> EvalRow:
    trajectory = fake_trajectory("point", number, right=right, tools=tools)
    trajectory = broken(trajectory) if failed else trajectory
    return row_of(
        trajectory,
        benchmark="tabletop-point",
        draw=draw,
        schema_hash="abc",
        policy="tiny",
        question_hash="abc",
        judged=judged(trajectory),
    )


def test_result_by_hand() -> None:
    rows = [row(n, "greedy", right=n < 3) for n in range(4)]
    rows += [row(n, draw, right=draw == 0, tools=n == 0) for n in range(2) for draw in (0, 1)]
    rows.append(row(9, "greedy", right=False, failed=True))
    result = result_of("base", "point", rows)
    assert (result.n, result.accuracy, result.failed) == (4, 0.75, 1)
    assert (result.low, result.high) == wilson(0.75, 4)
    assert (result.sampled_accuracy, result.call_rate) == (0.5, 0.5)
    assert result.num_sampled == 2
    assert result.greedy is not None
    assert result.sampled is not None
    assert (result.greedy.n, result.sampled.n) == (4, 2)


def test_broken_episodes_are_never_wrong_answers() -> None:
    rows = [row(0, "greedy", right=True), row(1, "greedy", right=False, failed=True)]
    assert result_of("base", "point", rows).accuracy == 1.0


def test_a_stage_without_samples_has_no_sampled_figures() -> None:
    result = result_of("swapped_image", "point", [row(0, "greedy", right=True)])
    assert (result.sampled_accuracy, result.sampled_low, result.call_rate) == (None, None, None)
    assert result.sampled is None


def test_p_vs_sft_is_paired_on_sampled_answers() -> None:
    before = [row(n, d, right=False) for n in range(30) for d in (0, 1)]
    after = [row(n, d, right=True) for n in range(30) for d in (0, 1)]
    summary = summarise({"sft": before, "full_rl": after}, RunFacts(seed=0))
    assert summary.p_vs_sft["point"] < 0.001
    same = summarise({"sft": after, "full_rl": after}, RunFacts(seed=0))
    assert same.p_vs_sft["point"] == 1.0


def test_the_file_has_the_published_keys_and_is_recomputable(tmp_path: Path) -> None:
    write_fake_run(tmp_path, size=3)
    write_summary(tmp_path, fake_facts(), read_stage_rows(tmp_path))
    values = json.loads((tmp_path / "summary.json").read_text())
    assert {
        "results",
        "tool_ceiling",
        "p_vs_sft",
        "seconds",
        "setup_s",
        "wall_s",
        "cpu_s",
        "peak_memory_mb",
        "seed",
        "smoke",
    } <= values.keys()
    assert {
        "stage",
        "task",
        "n",
        "accuracy",
        "low",
        "high",
        "sampled_accuracy",
        "sampled_low",
        "sampled_high",
        "call_rate",
    } <= values["results"][0].keys()
    for result in values["results"]:
        lines = (tmp_path / "rows" / f"{result['stage']}.jsonl").read_text().splitlines()
        rows = [r for r in map(json.loads, lines) if r["task"] == result["task"]]
        greedy = [r["score"] for r in rows if r["draw"] == "greedy"]
        assert result["accuracy"] == pytest.approx(sum(greedy) / len(greedy))
        assert result["n"] == len(greedy)
        drawn = [r["score"] for r in rows if r["draw"] != "greedy"]
        if drawn:
            assert result["sampled_accuracy"] == pytest.approx(sum(drawn) / len(drawn))
    again = summarise(read_stage_rows(tmp_path), read_summary(tmp_path))
    assert again == read_summary(tmp_path)


def test_files_older_than_num_sampled_are_read(tmp_path: Path) -> None:
    write_fake_run(tmp_path, stages=("base",), size=2)
    write_summary(tmp_path, fake_facts(("base",)), read_stage_rows(tmp_path))
    values = json.loads((tmp_path / "summary.json").read_text())
    for result in values["results"]:
        assert result.pop("num_sampled") == 2
    (tmp_path / "summary.json").write_text(json.dumps(values))
    result = read_summary(tmp_path).results[0]
    assert result.num_sampled == 0
    assert result.sampled is not None


def test_stages_come_in_the_order_of_the_table(tmp_path: Path) -> None:
    write_fake_run(tmp_path, size=2)
    summary = summarise(read_stage_rows(tmp_path), fake_facts())
    assert summary.stages == tuple(stage.name for stage in STAGES)
    assert CEILING not in summary.stages
    assert set(summary.tool_ceiling) == {"point", "depth", "leftmost", "nearer"}
    assert set(ACCURACY) == {*BY_NAME, CEILING}


def figures() -> Summary:
    """The made-up accuracies as if each were measured on 256 questions."""
    results = []
    for name, accuracies in ACCURACY.items():
        for task, share in zip(
            BY_NAME[name].tasks if name in BY_NAME else (), accuracies, strict=False
        ):
            low, high = wilson(share, 256)
            results.append(
                Result(
                    stage=name,
                    task=task,
                    n=256,
                    accuracy=share,
                    low=low,
                    high=high,
                    sampled_accuracy=share,
                    sampled_low=low,
                    sampled_high=high,
                    call_rate=0.05,
                )
            )
    ceiling = dict(zip(TASKS, ACCURACY[CEILING], strict=True))
    p_values = {"depth": 0.0001, "leftmost": 0.0001}
    return Summary(seed=0, results=tuple(results), tool_ceiling=ceiling, p_vs_sft=p_values)


def test_claims_hold_and_break_with_the_figures() -> None:
    summary = figures()
    told = claims(summary)
    assert [claim.text for claim in told if not claim.held] == []
    weak = [
        replace(r, accuracy=0.4, sampled_accuracy=0.4, sampled_low=0.3, sampled_high=0.5)
        if r.stage == "full_rl"
        else r
        for r in summary.results
    ]
    broken_claims = claims(replace(summary, results=tuple(weak)))
    assert [claim.held for claim in broken_claims if claim.group == "b"][:3] == [False] * 3
    assert [claim.held for claim in broken_claims if claim.group == "e"][:2] == [False] * 2


def test_a_gain_that_is_not_significant_is_not_held() -> None:
    told = claims(replace(figures(), p_vs_sft={"depth": 0.2, "leftmost": 0.0001}))
    assert [claim.held for claim in told if claim.group == "e"][:2] == [False, True]


def test_claims_wait_for_their_stages() -> None:
    assert {claim.held for claim in claims(Summary(seed=0))} == {None}


def test_table_has_every_stage_and_the_broken_column(tmp_path: Path) -> None:
    write_fake_run(tmp_path, size=3)
    words = table(summarise(read_stage_rows(tmp_path), fake_facts()))
    assert all(stage.name in words for stage in STAGES)
    assert "broken" in words
    assert "tool ceiling" in words


def test_a_missing_or_malformed_summary_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text('{"seed": "x"}')
    with pytest.raises(ConfigError, match="no summary"):
        read_summary(tmp_path)
