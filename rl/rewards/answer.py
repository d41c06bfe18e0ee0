"""What an answer's text says: tolerant of spelling, never guessing.

Numbers of points carry no sign and need digits before the dot, as in the published scorers: a
negative coordinate makes its pair unreadable, it is not read as a positive one. Yes and no are
equal to the word but for case, also as there: ``Yes.`` is neither.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection

from toolshed.types import Json, Point

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PAIR = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]")
_METRES = re.compile(rf"({_NUMBER})\s*(?:m|meters?|metres?)?\.?", re.IGNORECASE)
_LETTER_FORMS = (
    re.compile(r"([A-Za-z])"),
    re.compile(r"\(([A-Z])\)(?:\s.*)?", re.DOTALL),
    re.compile(r"([A-Z])[.):](?:\s.*)?", re.DOTALL),
    re.compile(r"([A-Z]) is closer\.?"),
)

GRASP_NAMES = ("center", "left base", "right base", "left tip", "right tip")
"""Five key points in the order of ``GraspEstimate.keypoints_uv``."""

FARTHEST = 1e100
"""Coordinates end here, far from any picture: sums and products of them stay finite."""

_GRASP_LABELS = {
    "center": r"grasp\s+cent(?:er|re)",
    "left base": r"left\s+finger\s+base",
    "right base": r"right\s+finger\s+base",
    "left tip": r"left\s+finger\s+tip",
    "right tip": r"right\s+finger\s+tip",
}
_GRASP_POINTS = {
    name: re.compile(rf"{label}\s*:\s*{_PAIR.pattern}", re.IGNORECASE)
    for name, label in _GRASP_LABELS.items()
}


def points(text: str) -> list[Point]:
    """Every readable pair in round or square brackets, in order."""
    return [_point(u, v) for u, v in _PAIR.findall(text)]


def _point(u: str, v: str) -> Point:
    return Point(u=min(float(u), FARTHEST), v=min(float(v), FARTHEST))


def target_points(target: Json) -> list[Point]:
    """Points of a ground truth: text, or a list of pairs."""
    if isinstance(target, list):
        target = json.dumps(target)
    return points(target) if isinstance(target, str) else []


def number(text: str) -> float | None:
    """``0.87``, ``0.87 m`` or an object with one number, ``{"depth": 0.87}``."""
    text = text.strip()
    found = _METRES.fullmatch(text)
    if found:
        return _finite(float(found[1]))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _finite(value)
    return None


def _finite(value: int | float) -> float | None:
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def yes_or_no(text: str) -> str | None:
    """``yes`` or ``no``; None for anything else."""
    word = text.strip().casefold()
    return word if word in ("yes", "no") else None


def letter(text: str, offered: Collection[str]) -> str | None:
    """The option letter that the text names, offered or not; None where none is named.

    A text that names one letter and mentions another offered one is unreadable.
    """
    text = text.strip()
    for form in _LETTER_FORMS:
        found = form.fullmatch(text)
        if found:
            chosen = found[1].upper()
            others = {word for word in re.findall(r"\b[A-Z]\b", text) if word in offered}
            return None if others - {chosen} else chosen
    return None


def grasp_points(text: str) -> dict[str, Point]:
    """Key points by name, without those that cannot be read."""
    named: dict[str, Point] = {}
    for name, pattern in _GRASP_POINTS.items():
        found = pattern.search(text)
        if found:
            named[name] = _point(found[1], found[2])
    return named
