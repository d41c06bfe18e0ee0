"""Figures of a teaching set, as ``SET.stats.json`` keeps them and the page shows them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sft.curation.balance import answer_counts
from sft.curation.config import CurateConfig
from sft.curation.contamination import HashList
from sft.curation.steps import Curated
from sft.curation.traces import Trace
from toolshed.types import Json

FORMAT = "spacetools-curation-1"
_BINS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """What texts are measured in."""

    unit: str
    length: Callable[[str], int]

    @classmethod
    def of(cls, tokenizer: str) -> Ruler:
        """Tokens of a checkpoint folder, ConfigError where it has none; characters without one."""
        if not tokenizer:
            return cls(unit="characters", length=len)
        from sft.render import Renderer

        renderer = Renderer.load(tokenizer)
        return cls(unit="tokens", length=lambda text: len(renderer.encode(text)))


def statistics(
    read: Mapping[str, Sequence[Trace]],
    curated: Curated,
    lists: Sequence[HashList],
    config: CurateConfig,
    ruler: Ruler,
) -> dict[str, Any]:
    """Plain data; the same rows and config give the same. ``read``: rows by file."""
    rows = curated.rows
    return {
        "format": FORMAT,
        "config": asdict(config),
        "files": [{"file": file, "rows": len(traces)} for file, traces in read.items()],
        "rows": {
            "read": sum(map(len, read.values())),
            "dropped": len(curated.ledger.drops),
            "written": len(rows),
            "distinct": len({id(trace) for trace in rows}),
        },
        "steps": [asdict(passage) for passage in curated.ledger.passages],
        "dropped": [
            {"step": step, "reason": reason, "rows": number}
            for (step, reason), number in curated.ledger.reasons().items()
        ],
        "unchecked": [
            {"rule": rule, "why": why, "rows": number}
            for (rule, why), number in sorted(curated.ledger.unchecked.items())
        ],
        "rewriting": curated.rewriting,
        "contamination": [
            {"set": one.name, "rows": one.rows}
            | {each.way: each.rows for each in curated.meetings if each.name == one.name}
            for one in lists
        ],
        "answers": {"before": curated.before, "after": answer_counts(rows)},
        "sources": _counted(trace.source for trace in rows),
        "tasks": _counted(trace.task for trace in rows),
        "chains": _counted(trace.chain for trace in rows),
        "lengths": lengths(rows, ruler),
    }


def _counted(words: Any) -> dict[str, int]:
    counts = Counter(words)
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def lengths(rows: Sequence[Trace], ruler: Ruler) -> dict[str, Json]:
    """Turns of the assistant, calls, and the text of all turns."""
    if not rows:
        return {}
    return {
        "turns": _spread([len(trace.turns) for trace in rows]),
        "calls": _spread([len(trace.calls) for trace in rows]),
        ruler.unit: _spread([sum(map(ruler.length, trace.texts())) for trace in rows]),
    }


def _spread(numbers: Sequence[int]) -> dict[str, Json]:
    """Quantiles, and how many rows lie in which span, both ends included."""
    low, high = min(numbers), max(numbers)
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = Counter((number - low) // width for number in numbers)
    bins = range((high - low) // width + 1)
    return {
        "least": low,
        "median": float(np.median(numbers)),
        "p95": float(np.percentile(numbers, 95)),
        "most": high,
        "histogram": [
            [low + n * width, min(high, low + (n + 1) * width - 1), counts[n]] for n in bins
        ],
    }


def table(figures: Mapping[str, Any]) -> str:
    """What the command prints: steps, reasons, what was not checked, answers before and after."""
    rows = figures["rows"]
    read = ", ".join(f"{one['file']} {one['rows']}" for one in figures["files"])
    lines = [f"read {rows['read']} rows: {read}", f"{'step':<15}{'rows':>8}{'dropped':>9}"]
    for step in figures["steps"]:
        lines.append(f"{step['step']:<15}{step['after']:>8}{_dropped(figures, step['step']):>9}")
        lines += [
            f"  {one['reason']:<22}{one['rows']:>8}"
            for one in figures["dropped"]
            if one["step"] == step["step"]
        ]
    lines += [f"{one['rule']}: {one['rows']} rows {one['why']}" for one in figures["unchecked"]]
    lines += [f"query of {rows} rows: {why}" for why, rows in figures["rewriting"].items()]
    for one in figures["contamination"]:
        ways = ", ".join(f"{way.replace('_', ' ')} {one[way]}" for way in one if "_" in way)
        lines.append(f"evaluation set {one['set']} ({one['rows']} rows) meets: {ways}")
    lines.append(f"{'task':<18}{'answer':<20}{'before':>8}{'':>7}{'after':>8}")
    for task, answer, before, after in answer_rows(figures):
        lines.append(
            f"{task:<18}{answer:<20}{before[0]:>8}{before[1]:>7.0%}{after[0]:>8}{after[1]:>7.0%}"
        )
    lines.append(f"{rows['written']} rows to write, {rows['distinct']} of them different")
    return "\n".join(lines)


def _dropped(figures: Mapping[str, Any], step: str) -> int:
    return sum(one["rows"] for one in figures["dropped"] if one["step"] == step)


def answer_rows(
    figures: Mapping[str, Any],
) -> list[tuple[str, str, tuple[int, float], tuple[int, float]]]:
    """Task, answer, then rows and share of the task before balancing and in the set."""
    found = []
    before, after = figures["answers"]["before"], figures["answers"]["after"]
    for task, answers in before.items():
        left = after.get(task, {})
        for answer, number in answers.items():
            then = left.get(answer, 0)
            share = then / max(1, sum(left.values()))
            found.append((task, answer, (number, number / sum(answers.values())), (then, share)))
    return found


def as_text(figures: Mapping[str, Any]) -> str:
    return json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
