"""What the replies of an episode's tools say of its question, where rules can tell.

A wrong answer that only repeats what tools returned is the tools' mistake; one that departs from
them is the model's. Each rule here needs the row alone. Where none applies, nothing is claimed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eval.rows import EvalRow
from rl.rewards import answer as read
from rl.rewards import geometry
from rl.rewards.region import Region
from rl.show.episode import CallRecord
from toolshed.types import Point

SAME_PLACE = 0.006
"""Two places this near are one: replies and answers are rounded to two or three decimals."""
SAME_VALUE_M = 0.011
"""Metres. Two depths this near are one: a reply and an answer are each rounded to two decimals, so
that one value may come out 0.01 apart, and a little for how floats hold that."""
_FOUND_NOTHING = {
    *("not_found", "no_grasp", "collision", "too_steep", "no_points"),
    *("empty_mask", "no_contrast", "no_support"),
}
"""Reasons of refusals that say: looked, and found nothing. Others are about how it was asked."""
_READING = re.compile(r"^Pixel value at \(([0-9.]+), ([0-9.]+)\) is (-?[0-9.e+-]+)\s*$")
_OPTION = re.compile(r"\(([A-Z])\)\s*([^()\n]+)")
_RELATION = re.compile(r"where is (.+?) located with respect to (.+?)\?", re.IGNORECASE | re.DOTALL)
_CLOSER = re.compile(r"\bcloser\b", re.IGNORECASE)
_DROPPED = {"the", "a", "an"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """Whose mistake a wrong answer is, by the tools' replies."""

    blames: Literal["tool_wrong", "reasoning", "tool_unused"]
    """``reasoning`` also where nothing is decided."""
    why: str
    decided: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Where a pointing tool saw something."""

    name: str
    point: Point


def judged(row: EvalRow) -> Judgement:
    """Of a wrong, readable answer of an episode with calls."""
    match row.episode.kind:
        case "point_object" | "point_free":
            return _judged_points(row)
        case "pose":
            return _judged_shape(row, "box", "bounding_box")
        case "grasp":
            return _judged_shape(row, "grasp", "grasp_generator")
        case "choice":
            return _judged_choice(row)
        case "number":
            return _judged_number(row)
    return _undecided("no rule reads tools' replies for this kind of question")


def grasp_outcome(row: EvalRow) -> str:
    """How the last call of the grasp tool ended: ``ok``, ``not called`` or a refusal's reason."""
    calls = [call for call in _calls(row) if call.name.startswith("grasp_generator.")]
    if not calls:
        return "not called"
    return "ok" if calls[-1].status == "ok" else calls[-1].reason or calls[-1].status


# ---- points and shapes --------------------------------------------------------------------------


def _judged_points(row: EvalRow) -> Judgement:
    asked = [call for call in _calls(row) if _is_pointing(call)]
    if not asked:
        return Judgement(blames="tool_unused", why="no pointing tool was asked")
    seen = [found.point for found in _findings(row)]
    if not seen:
        return _nothing_found(asked, "pointing")
    region = Region.of(row.target)
    if any(region.holds(point) for point in seen):
        return Judgement(blames="reasoning", why="a tool pointed inside the target")
    given = read.points(row.answer or "")
    if given and all(_is_near(point, seen) for point in given):
        return Judgement(blames="tool_wrong", why="the answer is the tool's point, off the target")
    return Judgement(blames="reasoning", why="the answer is no tool's point")


def _judged_shape(row: EvalRow, shape: str, family: str) -> Judgement:
    """Poses and grasps: the answer is what one tool returned, or it is not."""
    asked = [call for call in _calls(row) if call.name.startswith(f"{family}.")]
    if not asked:
        return Judgement(blames="tool_unused", why=f"{family} was not asked")
    returned = [point for call in asked for point in _shape_points(call, shape)]
    if not returned:
        return _nothing_found(asked, family)
    given = read.points(row.answer or "")
    if given and all(_is_near(point, returned) for point in given):
        return Judgement(blames="tool_wrong", why=f"the answer is what {family} returned")
    return Judgement(blames="reasoning", why=f"the answer is not what {family} returned")


def _shape_points(call: CallRecord, shape: str) -> list[Point]:
    if call.status != "ok":
        return []
    if call.drawing is not None and call.drawing.shape == shape:
        return [Point(u=u, v=v) for u, v in call.drawing.points]
    return read.points(call.reply)


def _nothing_found(asked: Sequence[CallRecord], tool: str) -> Judgement:
    looked = [call for call in asked if call.status == "ok" or call.reason in _FOUND_NOTHING]
    if looked:
        return Judgement(blames="tool_wrong", why=f"{tool} looked and found nothing")
    return Judgement(blames="reasoning", why=f"every call of {tool} was refused as it was written")


# ---- choices and numbers ------------------------------------------------------------------------


def _judged_choice(row: EvalRow) -> Judgement:
    question = row.episode.question
    options = {letter: words.strip() for letter, words in _OPTION.findall(question)}
    answer = read.letter(row.answer or "", options)
    if len(options) != 2 or answer is None:
        return _undecided("the question has no two lettered options")
    relation = _RELATION.search(question)
    if relation is not None:
        verdict = _side(row, relation[1], relation[2], options)
    elif _CLOSER.search(question):
        verdict = _nearer(row, options)
    else:
        verdict = None
    if verdict is None:
        return _undecided("the tools' replies could not be matched to the options")
    if verdict == "same":
        return Judgement(blames="tool_wrong", why="the tools put both options at one place")
    if verdict == answer:
        return Judgement(blames="tool_wrong", why="the answer follows what the tools measured")
    return Judgement(blames="reasoning", why="the answer contradicts what the tools measured")


def _side(row: EvalRow, first: str, second: str, options: dict[str, str]) -> str | None:
    """The letter of the side on which the tools saw the first thing from the second."""
    places = _last_by_name(row, {"first": first, "second": second})
    if len(places) != 2:
        return None
    one, other = places["first"], places["second"]
    if _is_near(one, [other]):
        return "same"
    words = {text.split()[0].casefold(): letter for letter, text in options.items() if text}
    if set(words) == {"left", "right"}:
        return words["left" if one.u < other.u else "right"]
    if set(words) == {"above", "below"}:
        return words["above" if one.v < other.v else "below"]
    return None


def _nearer(row: EvalRow, options: dict[str, str]) -> str | None:
    """The letter of the option with the smaller depth, by the last reading of each."""
    depths: dict[str, float] = {}
    for point, metres in _readings(row):
        names = [found.name for found in _findings(row) if _is_near(point, [found.point])]
        letters = {letter for name in names for letter in [_option_of(name, options)] if letter}
        if len(letters) == 2:
            return "same"
        if len(letters) == 1:
            depths[letters.pop()] = metres
    if len(depths) != 2:
        return None
    (one, near), (other, far) = depths.items()
    if near == far:
        return "same"
    return one if near < far else other


def _judged_number(row: EvalRow) -> Judgement:
    given = read.number(row.answer or "")
    readings = _readings(row)
    if given is None or not readings:
        return _undecided("no measured value stands behind the answer")
    point, metres = readings[-1]
    if abs(given - metres) > SAME_VALUE_M:
        return Judgement(blames="reasoning", why="the answer is not the value that was read last")
    names = [found.name for found in _findings(row) if _is_near(point, [found.point])]
    if not names:
        return Judgement(blames="reasoning", why="the value was read where no tool had pointed")
    if not any(_words(name) <= _words(row.episode.question) for name in names):
        return _undecided("the value was read at something that the question does not name")
    return Judgement(blames="tool_wrong", why="the value was read where a tool had pointed")


# ---- replies ------------------------------------------------------------------------------------


def _calls(row: EvalRow) -> Iterator[CallRecord]:
    for turn in row.episode.turns:
        yield from turn.calls


def _is_pointing(call: CallRecord) -> bool:
    return call.name.split(".")[-1] in ("detect_one", "detect_all")


def _findings(row: EvalRow) -> list[_Found]:
    found = []
    for call in _calls(row):
        if call.status != "ok" or not _is_pointing(call):
            continue
        name = str(call.arguments.get("obj_name", ""))
        if call.drawing is not None and call.drawing.shape == "points":
            points = [Point(u=u, v=v) for u, v in call.drawing.points]
        else:
            points = read.points(call.reply)
        found += [_Found(name=name, point=point) for point in points]
    return found


def _readings(row: EvalRow) -> list[tuple[Point, float]]:
    """Values read from maps, in the order of the calls."""
    found = []
    for call in _calls(row):
        drawing = call.drawing
        if drawing is not None and drawing.shape == "value":
            u, v = drawing.points[0]
            found.append((Point(u=u, v=v), drawing.low))
        elif match := _READING.match(call.reply if call.status == "ok" else ""):
            found.append((Point(u=float(match[1]), v=float(match[2])), float(match[3])))
    return found


def _last_by_name(row: EvalRow, wanted: dict[str, str]) -> dict[str, Point]:
    """The last place that a tool gave for each wanted thing; without names that fit both."""
    places = {}
    for found in _findings(row):
        fitting = _fitting(found.name, wanted)
        if fitting is not None:
            places[fitting] = found.point
    return places


def _option_of(name: str, options: dict[str, str]) -> str | None:
    """The option that a tool was asked about: by its words, or its letter for ``A is closer``."""
    if all(_CLOSER.search(text) for text in options.values()):
        letters = set(re.findall(r"\b[A-Z]\b", name)) & options.keys()
        return letters.pop() if len(letters) == 1 else None
    return _fitting(name, options)


def _fitting(name: str, wanted: dict[str, str]) -> str | None:
    """The key whose words all stand in the name; None where several do or none."""
    there = _words(name)
    keys = [key for key, text in wanted.items() if _words(text) and _words(text) <= there]
    return keys[0] if len(keys) == 1 else None


def _words(text: str) -> set[str]:
    """Words without what stands in brackets, as ``(annotated by the red box)``."""
    plain = re.sub(r"\([^)]*\)", " ", text.casefold())
    return set(re.findall(r"[a-z0-9]+", plain)) - _DROPPED


def _is_near(point: Point, others: Sequence[Point]) -> bool:
    return any(geometry.distance(point, other) <= SAME_PLACE for other in others)


def _undecided(why: str) -> Judgement:
    return Judgement(blames="reasoning", why=why, decided=False)
