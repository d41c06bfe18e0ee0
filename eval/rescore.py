"""Score recorded answers by today's rules: ``python -m eval.rescore ROWS... [--json]``.

Nothing is generated and nothing is overwritten: the score that was recorded stands beside the one
of today. Records without a ground truth, answers that our machinery broke and tasks that a robot
has to do cannot be scored and are counted apart. Rows that the gate calls poisoned are scored under
a warning.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eval.agreement import TOLERANCE, Agreement, Rescored, RunFigures, agreement, as_benchmark
from eval.benchmarks import POOLS
from eval.metrics import Estimate, pooled
from eval.recorded import Recorded, read_recorded
from eval.report.store import verdict_at
from eval.rows import EvalRow
from eval.scoring import (
    OFFICIAL_CATEGORIES,
    counts_error,
    question_type,
    reads_world,
    score_answer,
)
from toolshed.command import run_command
from toolshed.errors import ConfigError
from toolshed.types import Json

REFSPATIAL = next(pool.of for pool in POOLS if pool.name == "RefSpatial")


def rescore(records: Iterable[Recorded]) -> list[Rescored]:
    """Every record with today's score; ConfigError naming the place of a bad ground truth."""
    return [_rescore(record) for record in records]


def _rescore(record: Recorded) -> Rescored:
    kind = record.row.question_type if record.row else ""
    kind = kind or question_type(record.benchmark, record.question, record.ground_truth) or ""
    if record.ground_truth is None or record.failed or reads_world(record.benchmark):
        return Rescored(record=record, scored=None, question_type=kind or None)
    try:
        scored = score_answer(
            record.benchmark,
            record.question,
            record.ground_truth,
            record.answer,
            choices=record.choices,
        )
    except ConfigError as error:
        raise ConfigError(f"{record.place}: {error}") from error
    return Rescored(record=record, scored=scored, question_type=kind or None)


def warnings_of(rescored: Sequence[Rescored]) -> list[str]:
    """One line for each file or folder of ours that the gate calls poisoned."""
    rows: dict[Path, list[EvalRow]] = {}
    for one in rescored:
        if one.record.row is not None:
            rows.setdefault(one.record.source, []).append(one.record.row)
    verdicts = [(source, verdict_at(source, found)[0]) for source, found in rows.items()]
    return [
        f"WARNING: {source} is POISONED: {'; '.join(verdict.reasons)}"
        for source, verdict in verdicts
        if verdict.poisoned
    ]


def as_row(one: Rescored) -> dict[str, Json]:
    """One line of ``--json``: what identifies the answer, both scores, its state."""
    record, scored = one.record, one.scored
    row: dict[str, Json] = {
        "benchmark": record.benchmark,
        "sample_id": record.sample_id,
        "checkpoint": record.checkpoint,
        "draw": record.draw,
        "repeat": record.repeat,
        "question_type": one.question_type,
        "category": OFFICIAL_CATEGORIES.get(one.question_type or ""),
        "state": scored.state if scored else None,
        "score": scored.score if scored else None,
        "recorded_score": record.score,
        "agrees": one.agrees,
    }
    if counts_error(record.benchmark):
        row["mace"] = scored.parts["mace"] if scored else None
        row["sr"] = scored.parts["sr"] if scored else None
        row["recorded_figure"] = "mace" if record.is_row else "nce"
    return row


# ---- words ------------------------------------------------------------------------------------

_COLUMNS = (
    ("records", "records"),
    ("scored", "scored"),
    ("agree", "agree"),
    ("differ", "differ"),
    ("no_recorded_score", "no score"),
    ("no_ground_truth", "no truth"),
    ("failed", "broken"),
    ("needs_robot", "robot"),
    ("answered", "answered"),
    ("off_option", "off-opt"),
    ("unparsable", "unpars"),
)


def table(rescored: Sequence[Rescored], *, most: int) -> str:
    """Agreement per benchmark, figures per run, then the answers that differ and those without a
    recorded score."""
    counts = agreement(rescored)
    lines = [f"{'benchmark':<24}" + "".join(f"{title:>9}" for _, title in _COLUMNS) + "    mean"]
    for name, found in counts.items():
        cells = "".join(f"{getattr(found, key):>9}" for key, _ in _COLUMNS)
        mean = f"{found.runs[0].mean:>8.4f}" if len(found.runs) == 1 else f"{'-':>8}"
        lines.append(f"{name:<24}{cells}{mean}")
    lines.append(_total(rescored))
    for name, found in counts.items():
        lines += _run_lines(name, found.runs)
    lines += _refspatial(counts)
    differ = [one for one in rescored if one.agrees is False]
    lines += _listed("answers that differ", differ, most)
    new = [one for one in rescored if one.scored is not None and one.record.score is None]
    lines += _listed("answers without a recorded score", new, most)
    return "\n".join(lines)


def _run_lines(name: str, runs: Sequence[RunFigures]) -> list[str]:
    """The figures of each run where there are several, and those of grasps."""
    lines = []
    for one in runs:
        words = f"{name}{_of_run(one, len(runs) > 1)}: mean {one.mean:.4f} of {one.scored}"
        if one.grasp:
            words += (
                f", which is NCE, lower is better (median {one.grasp.median:.4f}, "
                f"{one.grasp.nce_below_2} below 2); MACE {one.grasp.mace:.4f}, "
                f"SR {one.grasp.sr:.2f}"
            )
        if one.grasp or len(runs) > 1:
            lines.append(words)
    return lines


def _of_run(one: RunFigures, is_told: bool) -> str:
    return f", {one.checkpoint} {one.mode} run {one.repeat + 1}" if is_told else ""


def _refspatial(counts: Mapping[str, Agreement]) -> list[str]:
    """Both ways to make one figure of the three splits, for each run that has all three."""
    if not all(name in counts for name in REFSPATIAL):
        return []
    splits = [
        {(one.checkpoint, one.mode, one.repeat): one for one in counts[name].runs}
        for name in REFSPATIAL
    ]
    keys = [key for key in splits[0] if all(key in split for split in splits)]
    is_told = any(len(split) > 1 for split in splits)
    lines = []
    for key in keys:
        runs = [split[key] for split in splits]
        both = pooled([Estimate(n=one.questions, mean=one.mean, low=0, high=1) for one in runs])
        lines.append(
            f"RefSpatial{_of_run(runs[0], is_told)}: simple mean of the three splits "
            f"{both.simple:.4f}, weighted by their sizes {both.weighted:.4f}"
        )
    return lines


def _total(rescored: Sequence[Rescored]) -> str:
    both = [one.agrees for one in rescored if one.agrees is not None]
    truths = sum(one.scored is not None for one in rescored)
    return (
        f"{sum(both)} of {len(both)} recorded scores agree within {TOLERANCE:g}; "
        f"{truths} of {len(rescored)} records could be scored"
    )


def _listed(title: str, rescored: Sequence[Rescored], most: int) -> list[str]:
    if not rescored:
        return []
    lines = [f"\n{len(rescored)} {title}"]
    for one in rescored[:most]:
        record, scored = one.record, one.scored
        assert scored is not None
        before = "" if record.score is None else f"{record.score:.6g} -> "
        after = scored.accuracy if record.is_row else scored.score
        lines.append(
            f"  {record.benchmark} {record.sample_id} {record.checkpoint} {record.draw}: "
            f"{before}{after:.6g} {scored.state}   {_short(record.answer)}"
        )
    if len(rescored) > most:
        lines.append(f"  ... {len(rescored) - most} more; --list N shows N, --json all")
    return lines


def _short(answer: str | None) -> str:
    words = "(no answer)" if answer is None else " ".join(answer.split())
    return words if len(words) <= 60 else words[:57] + "..."


_HELP = """Each ROWS is a rows file of eval.run, a file of recorded answers (one JSON object per
line: benchmark, sample_id, question, ground_truth, raw_answer, checkpoint, recorded.score), or a
folder that holds such files as rows/*.jsonl or *.jsonl.

The score is the benchmark's own: 0 or 1, the share of points that hit (RefSpatial), IoU (boppose).
Of grasps it is NCE, lower is better, with mace and sr beside it. Means are of each checkpoint,
greedy or sampled, and each whole run, as reports have them. The exit code is 0 whether the scores
agree or not, 2 where a file or line cannot be read."""


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.rescore``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.rescore",
        description="Score recorded answers again by today's rules; nothing is generated.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("rows", metavar="ROWS", nargs="+", type=Path, help="file or folder")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: benchmarks, rows"
    )
    parser.add_argument("--list", type=int, default=20, metavar="N", help="answers listed (20)")
    args = parser.parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl", "eval")


def _run(args: argparse.Namespace) -> int:
    if args.list < 0:
        raise ConfigError(f"--list {args.list} is below 0; give the number of answers to list")
    rescored = rescore(read_recorded(args.rows))
    for line in warnings_of(rescored):
        print(line, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        benchmarks = {name: as_benchmark(found) for name, found in agreement(rescored).items()}
        print(json.dumps({"benchmarks": benchmarks, "rows": [as_row(one) for one in rescored]}))
    else:
        print(table(rescored, most=args.list))
    return 0


if __name__ == "__main__":
    sys.exit(main())
