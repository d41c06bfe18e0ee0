"""From what a model wrote to what a back-end receives: strict, nothing guessed, nothing coerced.

Every refusal names the field, the value and what is allowed. A string that is ``$name`` as a
whole is a reference to a session variable and must be of a kind that the parameter takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from toolshed.errors import ToolRefusal
from toolshed.tool import ArrayOf, Method, Parameter
from toolshed.types import Json, Point, ToolImage, Variable

REFERENCE = re.compile(r"\$([A-Za-z][A-Za-z0-9_]*)")
_NUMBERS_ONLY = re.compile(r"[\s\d.,eE+\-\[\]()]*")
_SHOWN = 60
_LONGEST_TEXT = 200
_MOST_NUMBERS = 1_000_000


def check_arguments(
    method: Method,
    arguments: Mapping[str, Json],
    *,
    images: Sequence[ToolImage],
    variables: Mapping[str, Variable],
) -> dict[str, object]:
    """Arguments by parameter name, the world left out; raises ToolRefusal."""
    expected = {each.schema_name: each for each in method.visible}
    allowed = ", ".join(expected) or "none"
    for field, value in arguments.items():
        if field not in expected:
            raise ToolRefusal(
                "unknown_argument",
                f"{method.dotted} has no argument {_short(field)} (got {_short(value)}); "
                f"arguments: {allowed}",
            )
    for field, parameter in expected.items():
        if field not in arguments:
            raise ToolRefusal(
                "missing_argument",
                f"{method.dotted} needs {field} ({parameter.schema_type}); arguments: {allowed}",
            )
    return {
        parameter.name: _check(parameter, arguments[field], images, variables)
        for field, parameter in expected.items()
    }


def _check(
    parameter: Parameter,
    value: Json,
    images: Sequence[ToolImage],
    variables: Mapping[str, Variable],
) -> object:
    if parameter.role == "image":
        return _image(value, images)
    if parameter.role == "text":
        return _text(parameter.name, value)
    variable = _referenced(parameter, value, variables)
    if parameter.role == "number":
        return _number(parameter, value if variable is None else variable.value)
    if parameter.role in ("points", "point"):
        return _points(parameter, value, variable)
    assert parameter.array is not None
    if variable is not None:
        held = variable.value
        return held.pixels if isinstance(held, ToolImage) else held
    return _array(parameter.name, _literal(value), parameter.array)


def _image(value: Json, images: Sequence[ToolImage]) -> ToolImage:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad("image_index", value, "an integer, images are counted from 0")
    if not 0 <= value < len(images):
        raise ToolRefusal(
            "bad_image_index",
            f"image_index={_short(value)} but only {len(images)} images available in conversation",
        )
    return images[value]


def _text(field: str, value: Json) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST_TEXT:
        raise _bad(field, value, f"text of 1 to {_LONGEST_TEXT} characters")
    if REFERENCE.fullmatch(value):
        raise _bad(field, value, "plain text; variables do not go here")
    return value


def _referenced(
    parameter: Parameter, value: Json, variables: Mapping[str, Variable]
) -> Variable | None:
    if not isinstance(value, str) or not value.startswith("$"):
        return None
    match = REFERENCE.fullmatch(value)
    variable = variables.get(match[1]) if match else None
    if variable is None:
        known = ", ".join(f"${name}" for name in variables if not name.startswith("_"))
        raise ToolRefusal(
            "unknown_variable",
            f"{parameter.name}: no variable {_short(value)}; variables: {known or 'none yet'}",
        )
    kinds = _kinds(parameter)
    if variable.kind not in kinds:
        wanted = " or ".join(kinds) if kinds else "a literal value"
        raise ToolRefusal(
            "wrong_kind",
            f"{parameter.name}: ${variable.name} is of kind {variable.kind}; allowed: {wanted}",
        )
    return variable


def _kinds(parameter: Parameter) -> tuple[str, ...]:
    if parameter.array is not None:
        return parameter.array.kinds
    return ("number",) if parameter.role == "number" else ("points",)


def _number(parameter: Parameter, value: object) -> float:
    within = parameter.within
    allowed = f"a number from {within.low:g} to {within.high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(parameter.name, value, allowed)
    if not within.low <= value <= within.high:
        raise _bad(parameter.name, value, allowed)
    return float(value)


def _points(parameter: Parameter, value: Json, variable: Variable | None) -> object:
    """A list of Point, or one Point where the parameter takes one."""
    single = parameter.role == "point"
    allowed = "one (u, v) pair from 0 to 1" if single else "a list of (u, v) pairs from 0 to 1"
    source = _literal(value) if variable is None else variable.value
    pairs: object = source
    if isinstance(source, tuple) and all(isinstance(each, Point) for each in source):
        pairs = [[each.u, each.v] for each in source]
    elif isinstance(source, np.ndarray):
        pairs = source.tolist()
    if single and isinstance(pairs, list) and len(pairs) == 2 and not isinstance(pairs[0], list):
        pairs = [pairs]
    if not isinstance(pairs, list) or not pairs or (single and len(pairs) != 1):
        raise _bad(parameter.name, value, allowed)
    points = [_pair(parameter.name, each, allowed) for each in pairs]
    return points[0] if single else points


def _pair(field: str, value: object, allowed: str) -> Point:
    if not isinstance(value, list) or len(value) != 2:
        raise _bad(field, value, allowed)
    for each in value:
        if isinstance(each, bool) or not isinstance(each, int | float) or not 0 <= each <= 1:
            raise _bad(field, value, allowed)
    return Point(u=float(value[0]), v=float(value[1]))


def _literal(value: Json) -> Json:
    """Lists as they are; a string of numbers and brackets, the form that replies print, is read."""
    if isinstance(value, str) and _NUMBERS_ONLY.fullmatch(value):
        bracketed = value.replace("(", "[").replace(")", "]")
        try:
            parsed: Json = json.loads(bracketed)
        except (ValueError, RecursionError):
            return value
        return parsed
    return value


def _array(field: str, value: Json, wanted: ArrayOf) -> np.ndarray:
    low, high = wanted.within.low, wanted.within.high
    numbers = "booleans" if wanted.booleans else f"numbers from {low:g} to {high:g}"
    sizes = " x ".join("any" if size is None else str(size) for size in wanted.shape)
    kinds = "".join(f"a variable of kind {kind}, " for kind in wanted.kinds)
    allowed = f"{kinds}or a literal array of {numbers} of shape {sizes}"
    allowed = allowed.removeprefix("or ")
    if not isinstance(value, list):
        raise _bad(field, value, allowed)
    flat: list[bool | int | float] = []
    shape = _flatten(value, flat, len(wanted.shape))
    good = shape is not None and all(
        want is None or have == want for have, want in zip(shape, wanted.shape, strict=True)
    )
    is_bool = all(isinstance(each, bool) for each in flat)
    if not good or not flat or is_bool != wanted.booleans:
        raise _bad(field, value, allowed)
    # Not a number is in no range.
    if not is_bool and any(isinstance(each, bool) or not low <= each <= high for each in flat):
        raise _bad(field, value, allowed)
    return np.array(flat, dtype=np.bool_ if is_bool else np.float64).reshape(shape or ())


def _flatten(value: Json, flat: list[bool | int | float], depth: int) -> tuple[int, ...] | None:
    """Shape of nested lists, their numbers appended to ``flat``; None where they are ragged."""
    if depth == 0:
        if not isinstance(value, bool | int | float) or len(flat) >= _MOST_NUMBERS:
            return None
        flat.append(value)
        return ()
    if not isinstance(value, list):
        return None
    shapes = {_flatten(each, flat, depth - 1) for each in value}
    inner = next(iter(shapes), None)
    return None if len(shapes) != 1 or inner is None else (len(value), *inner)


def _bad(field: str, value: object, allowed: str) -> ToolRefusal:
    return ToolRefusal("bad_argument", f"{field}: got {_short(value)}; allowed: {allowed}")


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return f"an integer of about {value.bit_length() * 0.30103:.0f} digits"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
