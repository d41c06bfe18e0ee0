"""Answers and thoughts that teach something wrong: guesses, leaks, overruled tools."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sft.curation.cleaning import (
    FINE,
    Rule,
    Verdict,
    failed_call,
    measured_at,
    missing,
    needless_call,
    told_places,
    unused_variable,
)
from sft.curation.config import CleanConfig
from sft.curation.ledger import Ledger
from sft.curation.traces import Place, Trace, near, pairs
from sft.fingerprint import normal_text
from toolshed.types import Json

_LEAST_CHARS = 4
"""Shorter targets (Yes, B, 0.5) stand in thoughts for other reasons."""
_POINT = re.compile(r"\W*\d+(?:\.\d+)?\s*,\s*\d+(?:\.\d+)?\W*")


def guess(trace: Trace, config: CleanConfig) -> Verdict:
    """An answer with all coordinates on the grid, while no tool said a point near any of them.

    A reply that repeats the point that its call was given says nothing.
    """
    answered = pairs(trace.answer or "")
    if not answered or not on_grid(answered, config.grid):
        return FINE
    told = [place for call in trace.calls for place in (*told_places(call), *call.points)]
    if any(call.reply is None for call in trace.calls):
        told += [one for turn in trace.replies for reply in turn for one in pairs(reply)]
    if any(near(one, point, config.tolerance) for one in answered for point in told):
        return FINE
    return Verdict(reason=f"{trace.answer} lies on a grid of {config.grid:g}, and no tool said so")


def on_grid(places: tuple[Place, ...], grid: float) -> bool:
    """Whether every coordinate is a multiple of ``grid`` inside the picture, [0, 1]."""
    return all(
        0.0 <= number <= 1.0 and abs(number / grid - round(number / grid)) < 1e-6
        for place in places
        for number in place
    )


def leak(trace: Trace, config: CleanConfig) -> Verdict:
    """The target in a thought that leads to a call, before the question or a tool said it.

    The last turn draws the conclusion, which is the target wherever the answer is right.
    """
    if "ground_truth" not in trace.row:
        return missing("ground_truth")
    target = normal_text(_words(trace.row["ground_truth"]))
    if len(target) < _LEAST_CHARS:
        return Verdict(unchecked="not checked: the target is too short to tell")
    known = normal_text(trace.question)
    for turn in range(len(trace.turns) - 1):
        if not _holds(known, target) and _holds(normal_text(trace.thought(turn)), target):
            return Verdict(reason=f"turn {turn} thinks of the target before a tool said it")
        known = " ".join([known, *map(normal_text, trace.replies[turn])])
    return FINE


def _words(target: Json) -> str:
    return target if isinstance(target, str) else "" if target is None else str(target)


def _holds(text: str, words: str) -> bool:
    return f" {words} " in f" {text} "


def override(trace: Trace, config: CleanConfig) -> Verdict:
    """An answered point that is far from every point that tools returned.

    A point that another tool was given led to a measurement, from which the answer may follow.
    """
    answered = pairs(trace.answer or "")
    kind = trace.row.get("answer_kind")
    if not answered or (isinstance(kind, str) and not kind.startswith("point")):
        return FINE
    if not isinstance(kind, str) and not _POINT.fullmatch(trace.answer or ""):
        return missing("answer_kind")
    returned = [point for call in trace.calls for point in call.points]
    if not returned:
        pointing = any(call.status is None and "detect" in call.name for call in trace.calls)
        return missing("calls") if pointing else FINE
    if any(near(one, point, config.tolerance) for one in answered for point in returned):
        return FINE
    if any(measured_at(trace, number) for number in range(len(trace.calls))):
        return FINE
    return Verdict(reason=f"{trace.answer} overrides the tool, which said {returned[0]}")


RULES: Mapping[str, Rule] = {
    "failed_call": failed_call,
    "needless_call": needless_call,
    "unused_variable": unused_variable,
    "guess": guess,
    "leak": leak,
    "override": override,
}


def clean(traces: list[Trace], config: CleanConfig, ledger: Ledger) -> list[Trace]:
    """Rows that no rule speaks against; a row is dropped by the first one that does."""
    kept = []
    for trace in traces:
        for name, rule in RULES.items():
            verdict = rule(trace, config) if name in config.rules else FINE
            if verdict.unchecked:
                ledger.unchecked[name, verdict.unchecked] += 1
            if verdict.reason:
                ledger.drop(trace, "clean", name, verdict.reason)
                break
        else:
            kept.append(trace)
    return kept
