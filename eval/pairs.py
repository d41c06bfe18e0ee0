"""Two runs' rows, paired question by question: what ``eval.compare`` computes with.

Both sides of a pair have the same number of answers: of a mean over three answers and a single one
the latter lands above and below more often, which a sign test would take for a difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.benchmarks import BENCHMARKS, Figure
from eval.report.anchors import PAGE
from eval.report.answers import SCORE, measured, picture_of, type_of
from eval.report.store import verdict_at
from eval.rows import EvalRow, read_rows
from toolshed.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of two runs."""

    path: Path
    """As given."""
    rows: list[EvalRow]
    reasons: tuple[str, ...] = ()
    """Why the gate calls the run poisoned; empty for a clean one."""
    told_to_show: bool = False
    """Whether the run itself was told to show its scores all the same."""
    page: Path | None = None
    """The run's page, from the working folder; None without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Rows that are compared together."""

    benchmark: str
    part: str
    """Task, question type or figure within the benchmark; empty for all of it."""
    before: list[EvalRow]
    after: list[EvalRow]
    figure: Figure = SCORE
    """What counts of a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One question with both runs' answers, as many of the one as of the other."""

    question_id: str
    picture: str
    """Hash of its first picture; without one a name of its own."""
    before: tuple[float, ...]
    """Scores of the first answers, by repeat and draw; never empty."""
    after: tuple[float, ...]
    num_before: int
    """Answers that the first run has, those that are left out included."""
    num_after: int
    told_before: EvalRow
    """The first answer of all."""
    told_after: EvalRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """The questions of a group that both runs answered in one way of asking."""

    pairs: tuple[Pair, ...]
    num_unpaired: int
    """Questions that only one run answered."""


def load_side(path: Path) -> Side:
    """The rows of a file or folder with the gate's verdict; ConfigError unless they are one
    policy's."""
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
    verdict, told_to_show = verdict_at(path, rows)
    return Side(
        path=path,
        rows=rows,
        reasons=verdict.reasons,
        told_to_show=told_to_show,
        page=_page_of(path),
    )


def _page_of(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.absolute().parent.parent
    page = folder / PAGE
    return Path(os.path.relpath(page)) if page.is_file() else None


def groups_of(before: Sequence[EvalRow], after: Sequence[EvalRow]) -> Iterator[Group]:
    """Each benchmark, then its parts: tasks, question types, and other figures of its main table,
    as the success rate of grasps."""
    for benchmark in dict.fromkeys(row.benchmark for row in after):
        first = [row for row in before if row.benchmark == benchmark]
        second = [row for row in after if row.benchmark == benchmark]
        yield Group(benchmark=benchmark, part="", before=first, after=second)
        seen: set[frozenset[str]] = {frozenset(row.question_id for row in second)}
        for name_of in (_task, type_of):
            for part in dict.fromkeys(name_of(row) for row in second):
                chosen = [row for row in second if name_of(row) == part]
                questions = frozenset(row.question_id for row in chosen)
                if questions not in seen:
                    seen.add(questions)
                    theirs = [row for row in first if name_of(row) == part]
                    yield Group(benchmark=benchmark, part=part, before=theirs, after=chosen)
        entry = BENCHMARKS.get(benchmark)
        for figure in entry.figures if entry else ():
            if figure.headline and figure.part:
                yield Group(
                    benchmark=benchmark,
                    part=figure.name,
                    before=first,
                    after=second,
                    figure=figure,
                )


def _task(row: EvalRow) -> str:
    return row.task.removeprefix(f"{row.benchmark}-")


def pairs_of(group: Group, *, greedy: bool) -> Pairs:
    """The questions that both runs answered, greedily or by draws; of each question the first k
    answers count, k being those of the run that has fewer. ConfigError where one id stands for two
    questions."""
    first = _answers(group.before, greedy, group.figure)
    second = _answers(group.after, greedy, group.figure)
    both = [name for name in first if name in second]
    _check_same_questions(group, set(both))
    pairs = []
    for name in both:
        old, new = first[name], second[name]
        num = min(len(old), len(new))
        pairs.append(
            Pair(
                question_id=name,
                picture=picture_of(old[0][1]),
                before=tuple(score for score, _ in old[:num]),
                after=tuple(score for score, _ in new[:num]),
                num_before=len(old),
                num_after=len(new),
                told_before=old[0][1],
                told_after=new[0][1],
            )
        )
    return Pairs(pairs=tuple(pairs), num_unpaired=len(first.keys() ^ second.keys()))


def _answers(
    rows: Sequence[EvalRow], greedy: bool, figure: Figure
) -> dict[str, list[tuple[float, EvalRow]]]:
    """What each question's answers scored, in the order of repeats and draws; without those that
    our machinery broke."""
    found: dict[str, list[tuple[float, EvalRow]]] = {}
    for row in rows:
        score = None if row.failed else measured(row, figure)
        if score is not None and (row.draw == "greedy") == greedy:
            found.setdefault(row.question_id, []).append((score, row))
    for answers in found.values():
        answers.sort(key=lambda one: (one[1].repeat, 0 if greedy else int(one[1].draw)))
    return found


def _check_same_questions(group: Group, ids: set[str]) -> None:
    """One id may not stand for two questions."""
    asked = {row.question_id: row for row in group.before if row.question_id in ids}
    for row in group.after:
        other = asked.get(row.question_id)
        if other is None:
            continue
        if other.question_hash != row.question_hash:
            raise ConfigError(
                f"{row.benchmark}: question {row.question_id} is not the same in both runs (its "
                "text, ground truth or pictures differ); evaluate both on the same data"
            )
