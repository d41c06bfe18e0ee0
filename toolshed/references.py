"""References to session variables: ``$name``, ``$name[3]``, ``$name.field`` and chains of those.

Only the entries of lists and arrays and the fields in the table below can be reached; a part has a
kind of its own: ``number points array list``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolshed.errors import ToolRefusal
from toolshed.limits import integer_text
from toolshed.types import Json, Point, Stored, ToolImage, Variable

_NAME = re.compile(r"\$([A-Za-z][A-Za-z0-9_]*)")
_STEP = re.compile(r"\[(\d{1,9})\]|\.([A-Za-z][A-Za-z0-9_]*)")
_STEPS = 8
_SHOWN = 60

FREE_KINDS = ("array", "list")
"""Kinds of values that no tool vouches for: taken where a literal of the same form would be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A reference as it was written."""

    name: str
    steps: tuple[int | str, ...]


def is_reference(text: object) -> bool:
    """Whether a value is meant as a reference."""
    return isinstance(text, str) and text.startswith("$")


def parse_reference(text: str) -> Reference | None:
    """The parts of a reference; None where the text is none."""
    name = _NAME.match(text)
    if name is None:
        return None
    steps: list[int | str] = []
    position = name.end()
    while position < len(text):
        step = _STEP.match(text, position)
        if step is None or len(steps) == _STEPS:
            return None
        steps.append(int(step[1]) if step[1] is not None else step[2])
        position = step.end()
    return Reference(name=name[1], steps=tuple(steps))


def resolve(field: str, text: str, variables: Mapping[str, Variable]) -> Variable:
    """The variable that a reference names, or what it names inside one; else a ToolRefusal that
    says what there is. Arrays that lie elsewhere are fetched only where something inside is named.
    """
    reference = parse_reference(text)
    variable = None if reference is None else variables.get(reference.name)
    if reference is None or variable is None:
        known = ", ".join(f"${name}" for name in variables if not name.startswith("_"))
        raise ToolRefusal(
            "unknown_variable",
            f"{field}: no variable {_short(text)}; variables: {known or 'none yet'}",
        )
    if not reference.steps:
        return variable
    value: object = variable.value
    if isinstance(value, Stored):
        value = value.fetch()
    written = f"${reference.name}"
    for step in reference.steps:
        value = _inside(field, written, value, step)
        written += f"[{step}]" if isinstance(step, int) else f".{step}"
    kind, found = _kind(value)
    return Variable(name=written[1:], kind=kind, value=found)


def _inside(field: str, written: str, value: object, step: int | str) -> object:
    if isinstance(step, str):
        fields = _fields(value)
        if step not in fields:
            names = ", ".join(fields) or "none"
            raise _missing(field, f"{written} has no field {step[:40]!r}; fields: {names}")
        return fields[step]
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, list | tuple | np.ndarray):
        raise _missing(field, f"{written} has no entries, so there is no [{step}]")
    if step >= len(value):
        last = f"[0] to [{len(value) - 1}]" if len(value) else "none"
        raise _missing(field, f"{written} has no entry [{integer_text(step)}]; entries: {last}")
    found: object = value[step]
    return found


def _fields(value: object) -> dict[str, object]:
    """What may be named with a dot; no other attribute can be reached."""
    if isinstance(value, Point):
        return {"u": value.u, "v": value.v}
    if isinstance(value, ToolImage):
        sizes: dict[str, object] = {"width": value.width, "height": value.height}
        if value.focal_length_px is not None:
            sizes["focal_length_px"] = value.focal_length_px
        return sizes
    return {}


def _kind(value: object) -> tuple[str, object]:
    """Kind of a part, and the part in the form that variables of that kind have."""
    if isinstance(value, Point):
        return "points", (value,)
    if isinstance(value, np.generic):
        return _kind(value.item())
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, np.ndarray):
        return "array", value
    if isinstance(value, ToolImage):
        return "image", value
    return ("list", list(value)) if isinstance(value, list | tuple) else ("value", value)


def plain(value: object) -> Json:
    """A list of any kind as JSON."""
    if isinstance(value, Point):
        return [value.u, value.v]
    if isinstance(value, np.ndarray | np.generic):
        listed: Json = value.tolist()
        return listed
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    assert value is None or isinstance(value, bool | int | float | str), type(value)
    return value


def _missing(field: str, text: str) -> ToolRefusal:
    return ToolRefusal("unknown_variable", f"{field}: {text}")


def _short(text: str) -> str:
    quoted = f'"{text}"'
    return quoted if len(quoted) <= _SHOWN else f"{quoted[: _SHOWN - 3]}..."
