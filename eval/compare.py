"""Paired comparison of two runs' rows: ``python -m eval.compare A B``.

A and B are rows files, or folders that hold ``rows/*.jsonl`` of one policy. Questions are paired
within each task, greedy answers with greedy ones and means of draws with means of draws. What our
machinery broke in either run is left out and counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from eval.metrics import Paired, holm, mcnemar, paired
from eval.rows import EvalRow, read_rows
from eval.summary import scores_by_question, tasks_of
from toolshed.command import run_command
from toolshed.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A question on which the runs differ."""

    question_id: str
    before: float
    after: float
    answer_before: str | None
    answer_after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One task under one way of asking."""

    task: str
    mode: str
    """``greedy`` or ``sampled``."""
    mean_before: float
    mean_after: float
    outcome: Paired
    sign_p: float
    """Sign test on which run is better per question; beside the mean, which few can carry."""
    flips: tuple[Flip, ...]
    num_unpaired: int
    """Questions that only one run answered."""


def load_side(path: Path) -> list[EvalRow]:
    """The rows of a file or folder; ConfigError unless they are one policy's."""
    files = sorted((path / "rows").glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} holds no rows/*.jsonl; give a rows file or a folder of eval.run")
    rows = [row for file in files for row in read_rows(file)]
    policies = list(dict.fromkeys(row.policy for row in rows))
    if len(policies) > 1:
        raise ConfigError(
            f"{path} holds the rows of {len(policies)} policies ({', '.join(policies[:4])}); "
            f"name one file, for example {files[0]}"
        )
    return rows


def compare(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> list[Comparison]:
    """All tasks and modes that both runs have; ConfigError if there are none."""
    found = []
    for task in tasks_of(after):
        for greedy in (True, False):
            first = [row for row in before if row.task == task]
            second = [row for row in after if row.task == task]
            comparison = _compare_task(task, first, second, greedy=greedy)
            if comparison is not None:
                found.append(comparison)
    if not found:
        raise ConfigError(
            f"the two runs share no scored question: the first has {_tasks(before)}, the second "
            f"{_tasks(after)}; evaluate both on the same benchmarks and data"
        )
    return found


def _compare_task(
    task: str, before: Sequence[EvalRow], after: Sequence[EvalRow], *, greedy: bool
) -> Comparison | None:
    first = scores_by_question(before, greedy=greedy)
    second = scores_by_question(after, greedy=greedy)
    both = [key for key in first if key in second]
    if not both:
        return None
    old = [sum(first[key]) / len(first[key]) for key in both]
    new = [sum(second[key]) / len(second[key]) for key in both]
    outcome = paired(old, new)
    answers_before, answers_after = _answers(before, greedy), _answers(after, greedy)
    flips = [
        Flip(
            question_id=key,
            before=a,
            after=b,
            answer_before=answers_before.get(key),
            answer_after=answers_after.get(key),
        )
        for key, a, b in zip(both, old, new, strict=True)
        if a != b
    ]
    return Comparison(
        task=task,
        mode="greedy" if greedy else "sampled",
        mean_before=sum(old) / len(old),
        mean_after=sum(new) / len(new),
        outcome=outcome,
        sign_p=mcnemar(outcome.num_better, outcome.num_worse),
        flips=tuple(flips),
        num_unpaired=len(first.keys() ^ second.keys()),
    )


def _answers(rows: Sequence[EvalRow], greedy: bool) -> dict[str, str | None]:
    """The greedy answers, or the first draw's."""
    answers: dict[str, str | None] = {}
    for row in rows:
        if not row.failed and (row.draw == "greedy") == greedy:
            answers.setdefault(row.question_id, row.answer)
    return answers


def _tasks(rows: Sequence[EvalRow]) -> str:
    return ", ".join(tasks_of(rows)) or "no rows"


# ---- words ------------------------------------------------------------------------------------


def table(comparisons: Sequence[Comparison], *, num_flips: int) -> str:
    """The comparison for a terminal."""
    corrected = holm([comparison.outcome.p for comparison in comparisons])
    lines = [
        f"{'task':<20}{'mode':<9}{'n':>5}{'A':>8}{'B':>8}{'B - A (95 %)':>24}"
        f"{'better':>8}{'worse':>7}{'p':>9}{'p Holm':>9}{'p sign':>9}"
    ]
    for one, p_holm in zip(comparisons, corrected, strict=True):
        outcome = one.outcome
        head = f"{one.task:<20}{one.mode:<9}{outcome.num_pairs:>5}"
        head += f"{one.mean_before:>8.3f}{one.mean_after:>8.3f}"
        if outcome.identical:
            lines.append(f"{head}{'identical':>24}")
            continue
        span = f"{outcome.difference:+.3f} ({outcome.low:+.3f} {outcome.high:+.3f})"
        lines.append(
            f"{head}{span:>24}{outcome.num_better:>8}{outcome.num_worse:>7}"
            f"{outcome.p:>9.4f}{p_holm:>9.4f}{one.sign_p:>9.4f}"
        )
    lines += _notes(comparisons)
    for one in comparisons:
        lines += _flip_lines(one, num_flips)
    return "\n".join(lines)


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"{one.task}, {one.mode}: {one.num_unpaired} questions were answered by one run only "
        "and are left out"
        for one in comparisons
        if one.num_unpaired
    ]


def _flip_lines(comparison: Comparison, most: int) -> list[str]:
    if not comparison.flips or not most:
        return []
    lines = [f"\n{comparison.task}, {comparison.mode}: {len(comparison.flips)} flips"]
    for flip in comparison.flips[:most]:
        lines.append(
            f"  {flip.question_id:<28}{flip.before:.2f} -> {flip.after:.2f}   "
            f"{_short(flip.answer_before)} -> {_short(flip.answer_after)}"
        )
    if len(comparison.flips) > most:
        lines.append(f"  ... {len(comparison.flips) - most} more; --flips 0 hides, a number shows")
    return lines


def _short(answer: str | None) -> str:
    words = "(none)" if answer is None else " ".join(answer.split())
    return words if len(words) <= 40 else words[:37] + "..."


def main(words: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m eval.compare``."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description="Paired comparison of two runs' rows.",
        allow_abbrev=False,
    )
    parser.add_argument("before", metavar="A", type=Path, help="rows file or folder of eval.run")
    parser.add_argument("after", metavar="B", type=Path, help="the same for the second run")
    parser.add_argument("--flips", type=int, default=10, help="flips listed per task (10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl", "eval")


def _run(args: argparse.Namespace) -> int:
    comparisons = compare(load_side(args.before), load_side(args.after))
    if args.json:
        print(json.dumps([asdict(comparison) for comparison in comparisons], indent=1))
    else:
        print(table(comparisons, num_flips=args.flips))
    return 0


if __name__ == "__main__":
    sys.exit(main())
