"""Points in the texts that pointing models write: three forms, read strictly, nothing evaluated.

A number outside the form's range is no point of the picture. Text that holds numbers, but none in
its form, is refused as unreadable; text without any is a model that found nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from toolshed.errors import ToolRefusal
from toolshed.types import Point

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]")
_JSON_PAIR = re.compile(rf'"x"\s*:\s*({_NUMBER})\s*,\s*"y"\s*:\s*({_NUMBER})')
_TAG = re.compile(r"<points?\b([^>]*)>")
_ATTRIBUTE = re.compile(rf'\b([xy])(\d*)\s*=\s*"\s*({_NUMBER})\s*"')
_COORDS = re.compile(r'<(?:points|tracks)\b[^>]*?\bcoords\s*=\s*"([^"]*)"')
_ANY_DIGIT = re.compile(r"\d")


def tuple_points(text: str) -> tuple[Point, ...]:
    """Pairs in brackets, ``[(0.46, 0.53)]``, or ``{"x": .., "y": ..}``, from 0 to 1 (RoboRefer)."""
    found = [(match[1], match[2]) for match in _PAIR.finditer(text)]
    found += [(match[1], match[2]) for match in _JSON_PAIR.finditer(text)]
    return _within(text, ((float(u), float(v)) for u, v in found))


def percent_points(text: str) -> tuple[Point, ...]:
    """``<point x="50.2" y="31">`` and ``<points x1=".." y1=".." ..>``, in percent (Molmo)."""
    found: list[tuple[float, float]] = []
    for tag in _TAG.finditer(text):
        numbers = {(m[1], m[2]): float(m[3]) / 100 for m in _ATTRIBUTE.finditer(tag[1])}
        for axis, index in numbers:
            if axis == "x" and ("y", index) in numbers:
                found.append((numbers["x", index], numbers["y", index]))
    return _within(text, found)


def thousandth_points(text: str) -> tuple[Point, ...]:
    """``<points coords="1 1 502 310 2 120 77">``: the picture's number, then triples of an object's
    number, x and y in thousandths (Molmo 2). Pictures are parted by tabs, commas or semicolons."""
    found: list[tuple[float, float]] = []
    for match in _COORDS.finditer(text):
        for part in re.split(r"[\t:;,]", match[1]):
            numbers = part.split()[1:]
            if len(numbers) % 3 or not all(each.isdecimal() for each in numbers):
                continue
            triples = zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True)
            found += [(int(x) / 1000, int(y) / 1000) for _, x, y in triples]
    return _within(text, found)


def _within(text: str, pairs: Iterable[tuple[float, float]]) -> tuple[Point, ...]:
    points = [Point(u=u, v=v) for u, v in pairs if 0.0 <= u <= 1.0 and 0.0 <= v <= 1.0]
    if not points and _ANY_DIGIT.search(text):
        shown = " ".join(text.split())[:80]
        raise ToolRefusal(
            "unreadable", f"the pointing model's answer holds no point of the image: {shown}"
        )
    return tuple(points)
