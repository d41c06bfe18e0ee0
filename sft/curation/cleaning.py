"""Rows that teach something wrong: one function for each rule.

A rule says why a row is no good, or why it cannot tell; it never guesses. Answers and thoughts are
judged in ``sft.curation.answers``, calls here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sft.curation.config import CleanConfig
from sft.curation.traces import CallRecord, Place, Trace, near, pairs

_DECIMAL = re.compile(r"\d+\.\d+")
_ROUNDING = 0.0051
"""A number that was said again with two decimals is the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a rule says of a row; both empty: nothing against it."""

    reason: str = ""
    unchecked: str = ""
    """Why the rule cannot tell."""


FINE = Verdict()
Rule: TypeAlias = Callable[[Trace, CleanConfig], Verdict]


def missing(field: str) -> Verdict:
    return Verdict(unchecked=f"not checked: no field {field}")


def failed_call(trace: Trace, config: CleanConfig) -> Verdict:
    """A call that was refused, failed or cannot be read."""
    broken = [n for n, call in enumerate(trace.calls) if call.status in ("refused", "failed")]
    if trace.malformed and not (config.keep_recovered and _answered_last(trace)):
        return Verdict(reason=f"{trace.malformed} attempted calls cannot be read")
    for number in broken:
        call = trace.calls[number]
        later = trace.calls[number + 1 :]
        if config.keep_recovered and any(
            other.name == call.name and other.status == "ok" for other in later
        ):
            continue
        return Verdict(reason=f"call {number} ({call.name}) was {call.status}: {call.reason}")
    if any(call.status is None for call in trace.calls):
        return missing("calls")
    return FINE


def _answered_last(trace: Trace) -> bool:
    return bool(trace.calls) and trace.calls[-1].status == "ok"


def needless_call(trace: Trace, config: CleanConfig) -> Verdict:
    """A call that repeats an earlier one, or a point that nothing takes up while the answer is
    another call's point."""
    for number, call in enumerate(trace.calls):
        if _repeats(trace.calls, number):
            return Verdict(reason=f"call {number} ({call.name}) repeats an earlier one")
        if _passed_over(trace, number, config.tolerance):
            return Verdict(reason=f"nothing uses the point of call {number} ({call.name})")
    if any(call.reply is None for call in trace.calls):
        return Verdict(unchecked="not checked: replies and calls of a turn are not as many")
    return FINE


def _repeats(calls: Sequence[CallRecord], number: int) -> bool:
    """Whether the same call has told the same, and nothing that it stored was replaced since.

    Replies without a figure or a variable are deeds, which may be done twice.
    """
    call = calls[number]
    if call.reply is None or "<image>" in call.reply or not re.search(r"\d|\$", call.reply):
        return False
    for before in range(number):
        other = calls[before]
        same = (other.name, other.arguments, other.reply) == (call.name, call.arguments, call.reply)
        between = calls[before + 1 : number]
        pictures = any("<image>" in (each.reply or "") for each in between)
        replaced = {name for each in between for name in each.variables or ()}
        if same and not pictures and not replaced & set(call.variables or ()):
            return True
    return False


def _passed_over(trace: Trace, number: int, tolerance: float) -> bool:
    call, answered = trace.calls[number], pairs(trace.answer or "")
    if not call.points or not answered or _named_later(trace, number):
        return False
    others = [point for each in trace.calls if each is not call for point in each.points]
    passes = all(any(near(one, point, tolerance) for point in others) for one in answered)
    own = any(near(one, point, tolerance) for one in answered for point in call.points)
    return passes and not own and not _said_again(trace, number)


def unused_variable(trace: Trace, config: CleanConfig) -> Verdict:
    """A call of whose variables no later call names one, and whose words nobody took up.

    Where the answer is a word or a number, points that a reply holds are evidence.
    """
    is_known = True
    for number, call in enumerate(trace.calls):
        if call.variables is None:
            is_known = False
            continue
        if not call.variables or _named_later(trace, number) or _is_evidence(trace, number, config):
            continue
        if not _said_again(trace, number):
            names = ", ".join(f"${name}" for name in call.variables)
            return Verdict(reason=f"nothing uses {names} of call {number} ({call.name})")
    return FINE if is_known or not trace.calls else missing("calls")


def _named_later(trace: Trace, number: int) -> bool:
    """Whether a later call names one of the variables, before another call replaces it."""
    alive = set(trace.calls[number].variables or ())
    for later in trace.calls[number + 1 :]:
        text = json.dumps(later.arguments, ensure_ascii=False)
        if any(re.search(rf"\b{re.escape(name)}\b", text) for name in alive):
            return True
        alive -= set(later.variables or ())
    return False


def _is_evidence(trace: Trace, number: int, config: CleanConfig) -> bool:
    """Whether a reply's pictures or points speak for an answer, or are the answer's."""
    call, answered = trace.calls[number], pairs(trace.answer or "")
    if call.reply is None or "<image>" in call.reply:
        return True
    shown = told_places(call)
    if not answered:
        return bool(shown)
    return any(near(one, point, config.tolerance) for one in answered for point in shown)


def told_places(call: CallRecord) -> list[Place]:
    """Pairs of a reply that are no echo of what the call was given."""
    given = _numbers(json.dumps(call.arguments))
    found = pairs(call.reply or "")
    return [one for one in found if not all(_among(each, given) for each in one)]


def measured_at(trace: Trace, number: int) -> bool:
    """Whether a later call was given one of the call's points."""
    for later in trace.calls[number + 1 :]:
        given = _numbers(json.dumps(later.arguments))
        for point in trace.calls[number].points:
            if all(_among(each, given) for each in point):
                return True
    return False


def _said_again(trace: Trace, number: int) -> bool:
    """Whether a decimal of the reply comes again in a later call, thought or answer."""
    call = trace.calls[number]
    given = _numbers(json.dumps(call.arguments))
    told = [each for each in _numbers(call.reply or "") if not _among(each, given)]
    later = [json.dumps(each.arguments) for each in trace.calls if each.turn > call.turn]
    later += [trace.thought(turn) for turn in range(call.turn + 1, len(trace.turns))]
    heard = _numbers(" ".join([*later, trace.answer or ""]))
    return any(_among(each, heard) for each in told)


def _numbers(text: str) -> list[float]:
    return [float(each) for each in _DECIMAL.findall(text)]


def _among(number: float, numbers: Sequence[float]) -> bool:
    return any(abs(number - other) <= _ROUNDING for other in numbers)
