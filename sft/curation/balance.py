"""No answer and no chain too often: rows are left out by a seed, never made.

``cap`` bounds every cell of task, answer and chain. ``max_share`` bounds the share of one answer
among a task's rows of one kind; rows of its commonest chains go first.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sft.curation.config import BalanceConfig
from sft.curation.ledger import Ledger
from sft.curation.traces import Trace
from sft.fingerprint import normal_text
from toolshed.errors import ConfigError


def answer_word(trace: Trace) -> str:
    """The answer by which rows are counted: of yes/no and choices itself, of others their kind."""
    if trace.answer is None:
        return "no answer"
    if trace.kind in ("yesno", "choice"):
        return normal_text(trace.answer) or "empty"
    return f"({trace.kind or 'other'})"


def balance(traces: list[Trace], config: BalanceConfig, seed: int, ledger: Ledger) -> list[Trace]:
    """Rows in their order without those that are too many; ConfigError where no share can hold."""
    rng = np.random.default_rng([seed, 1])
    kept = _capped(traces, config.cap, rng, ledger) if config.cap else list(traces)
    if not config.max_share:
        return kept
    groups: dict[tuple[str, str], list[Trace]] = defaultdict(list)
    for trace in kept:
        kind = trace.kind
        if kind is None:
            ledger.unchecked["balance", "not checked: no field answer_kind"] += 1
        elif kind in config.kinds:
            groups[trace.task, kind].append(trace)
    gone: set[int] = set()
    for (task, kind), rows in groups.items():
        for trace in _too_many(rows, f"{task} ({kind})", config.max_share, rng):
            gone.add(id(trace))
            told = f"{answer_word(trace)} is above {config.max_share:.0%} of {task}"
            ledger.drop(trace, "balance", "share", told)
    return [trace for trace in kept if id(trace) not in gone]


def _capped(traces: list[Trace], cap: int, rng: np.random.Generator, ledger: Ledger) -> list[Trace]:
    cells: dict[tuple[str, str, str], list[Trace]] = defaultdict(list)
    for trace in traces:
        cells[trace.task, answer_word(trace), trace.chain].append(trace)
    gone: set[int] = set()
    for cell, rows in cells.items():
        for place in sorted(rng.permutation(len(rows))[cap:].tolist()):
            gone.add(id(rows[place]))
            told = f"{len(rows)} rows of {', '.join(cell)}; cap={cap}"
            ledger.drop(rows[place], "balance", "cap", told)
    return [trace for trace in traces if id(trace) not in gone]


def _too_many(
    rows: Sequence[Trace], group: str, share: float, rng: np.random.Generator
) -> list[Trace]:
    """Rows that must go, in their order."""
    answers: dict[str, list[Trace]] = defaultdict(list)
    for trace in rows:
        answers[answer_word(trace)].append(trace)
    if len(answers) * share < 1 - 1e-9:
        raise ConfigError(
            f"balance.max_share={share:g} cannot be held in {group}: it has {len(answers)} answers "
            f"({', '.join(sorted(answers)[:5])}); give {math.ceil(100 / len(answers)) / 100:g} or "
            "more, or 0 for any share"
        )
    targets = shares({word: len(each) for word, each in answers.items()}, share)
    gone: set[int] = set()
    for word, each in answers.items():
        gone |= _levelled(each, targets[word], rng)
    return [trace for trace in rows if id(trace) in gone]


def shares(counts: Mapping[str, int], share: float) -> dict[str, int]:
    """The most rows of each answer so that none is above its share of what is left.

    Each pass allows what the rows that are left allow, until nothing changes; it ends above 0
    wherever there are at least ``1 / share`` answers.
    """
    left = sum(counts.values())
    while True:
        most = math.floor(share * left + 1e-9)
        now = sum(min(count, most) for count in counts.values())
        if now == left:
            return {word: min(count, most) for word, count in counts.items()}
        left = now


def _levelled(rows: Sequence[Trace], target: int, rng: np.random.Generator) -> set[int]:
    """Ids of rows that go so that ``target`` stay, taken from the commonest chain each time."""
    chains: dict[str, list[Trace]] = defaultdict(list)
    for place in rng.permutation(len(rows)).tolist():
        chains[rows[place].chain].append(rows[place])
    gone: set[int] = set()
    for _ in range(len(rows) - target):
        fullest = max(chains, key=lambda name: (len(chains[name]), name))
        gone.add(id(chains[fullest].pop()))
    return gone


def answer_counts(traces: Sequence[Trace]) -> dict[str, dict[str, int]]:
    """Rows by task and answer, tasks by name, the commonest answer first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for trace in traces:
        counts[trace.task][answer_word(trace)] += 1
    return {
        task: dict(sorted(counts[task].items(), key=lambda each: (-each[1], each[0])))
        for task in sorted(counts)
    }
