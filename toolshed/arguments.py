"""From what a model wrote to what a back-end receives: strict, nothing guessed, nothing coerced.

Every refusal names the field, the value and what is allowed. A string that is ``$name`` as a
whole, or names something inside it (``references.py``), must be of a kind that the parameter takes.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from toolshed.errors import ToolRefusal
from toolshed.limits import LIST_ENTRIES, STRING_CHARS, TEXT_CHARS, check_json, integer_text
from toolshed.references import FREE_KINDS, is_reference, plain, resolve
from toolshed.tool import ArrayOf, Method, Parameter
from toolshed.types import Json, Point, Stored, ToolImage, Variable

_NUMBERS_ONLY = re.compile(r"[\s\d.,eE+\-\[\]()]*")
_SHOWN = 60


def check_arguments(
    method: Method,
    arguments: Mapping[str, Json],
    *,
    images: Sequence[ToolImage],
    variables: Mapping[str, Variable],
) -> dict[str, object]:
    """Arguments by parameter name, the hidden ones left out; raises ToolRefusal."""
    check_json(arguments)
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
        if field not in arguments and not parameter.optional:
            raise ToolRefusal(
                "missing_argument",
                f"{method.dotted} needs {field} ({_type(parameter)}); arguments: {allowed}",
            )
    return {
        parameter.name: _check(parameter, arguments[field], images, variables)
        for field, parameter in expected.items()
        if field in arguments
    }


def kind_read(
    method: Method, arguments: Mapping[str, Json], variables: Mapping[str, Variable]
) -> str:
    """Kind of the variable that checked arguments hand to the first array of a method."""
    for parameter in method.visible:
        if parameter.array is not None:
            written = arguments[parameter.schema_name]
            if isinstance(written, str) and is_reference(written):
                return resolve(parameter.name, written, variables).kind
            return "array"
    return ""


def _check(
    parameter: Parameter,
    value: Json,
    images: Sequence[ToolImage],
    variables: Mapping[str, Variable],
) -> object:
    match parameter.role:
        case "image":
            return _image("image_index", value, images)
        case "text":
            return _text(parameter.name, value)
        case "code":
            return _code(parameter.name, value)
        case "names":
            return _named(parameter.name, value, variables)
    variable = _referenced(parameter, value, variables)
    held = value if variable is None else variable.value
    if parameter.role == "picture":
        return held if variable is not None else _image(parameter.name, value, images)
    if parameter.role in ("number", "integer"):
        return _number(parameter, held)
    if parameter.role in ("points", "point"):
        return _points(parameter, value, variable)
    assert parameter.array is not None
    if variable is None or variable.kind == "list":
        listed = _literal(parameter.name, value) if variable is None else plain(held)
        return _array(parameter.name, listed, parameter.array)
    if variable.kind in FREE_KINDS:
        return _free_array(parameter.name, variable, parameter.array)
    return held.pixels if isinstance(held, ToolImage) else held


def _image(field: str, value: Json, images: Sequence[ToolImage]) -> ToolImage:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(field, value, "an integer, images are counted from 0")
    if not 0 <= value < len(images):
        raise ToolRefusal(
            "bad_image_index",
            f"{field}={_short(value)} but only {len(images)} images available in conversation",
        )
    return images[value]


def _text(field: str, value: Json) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > TEXT_CHARS:
        raise _bad(field, value, f"text of 1 to {TEXT_CHARS} characters")
    if re.fullmatch(r"\$[A-Za-z][A-Za-z0-9_]*", value):
        raise _bad(field, value, "plain text; variables do not go here")
    return value


def _code(field: str, value: Json) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad(field, value, f"a program of 1 to {STRING_CHARS} characters")
    return value


def _named(field: str, value: Json, variables: Mapping[str, Variable]) -> dict[str, object]:
    """What names stand for: values of variables, and literals as they are."""
    if not isinstance(value, dict):
        raise _bad(field, value, 'an object such as {"mask": "$segmentation_mask", "step": 2}')
    found: dict[str, object] = {}
    for name, written in value.items():
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise _bad(field, name, "Python names that begin with a letter")
        place = f"{field}.{name}"
        if isinstance(written, str) and is_reference(written):
            found[name] = resolve(place, written, variables).value
        else:
            _check_finite(place, written)
            found[name] = written
    return found


def _check_finite(field: str, value: Json) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad(field, value, "numbers; not a number and infinity are none")
    inside = value.values() if isinstance(value, dict) else value
    if isinstance(inside, str | int | float) or inside is None:
        return
    for each in inside:
        _check_finite(field, each)


def _referenced(
    parameter: Parameter, value: Json, variables: Mapping[str, Variable]
) -> Variable | None:
    if not isinstance(value, str) or not is_reference(value):
        return None
    variable = resolve(parameter.name, value, variables)
    kinds = _kinds(parameter)
    if variable.kind not in kinds and variable.kind not in _free_kinds(parameter):
        wanted = " or ".join(kinds) if kinds else "a literal value"
        raise ToolRefusal(
            "wrong_kind",
            f"{parameter.name}: ${variable.name} is of kind {variable.kind}; allowed: {wanted}",
        )
    return variable


def _kinds(parameter: Parameter) -> tuple[str, ...]:
    if parameter.array is not None:
        return parameter.array.kinds
    if parameter.role == "picture":
        return ("image",)
    return ("number",) if parameter.role in ("number", "integer") else ("points",)


def _free_kinds(parameter: Parameter) -> tuple[str, ...]:
    return FREE_KINDS if parameter.role in ("array", "points", "point") else ()


def _number(parameter: Parameter, value: object) -> float:
    within, whole = parameter.within, parameter.role == "integer"
    what = "an integer" if whole else "a number"
    allowed = f"{what} from {within.low:g} to {within.high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(parameter.name, value, allowed)
    if not within.low <= value <= within.high or (whole and not isinstance(value, int)):
        raise _bad(parameter.name, value, allowed)
    return value if whole else float(value)


def _points(parameter: Parameter, value: Json, variable: Variable | None) -> object:
    """A list of Point, or one Point where the parameter takes one."""
    single = parameter.role == "point"
    allowed = "one (u, v) pair from 0 to 1" if single else "a list of (u, v) pairs from 0 to 1"
    source: object = _literal(parameter.name, value) if variable is None else variable.value
    if isinstance(source, Stored):
        source = source.fetch()
    pairs: object = source
    if isinstance(source, tuple | list | np.ndarray) and variable is not None:
        if len(source) > LIST_ENTRIES:
            raise _bad(parameter.name, value, f"at most {LIST_ENTRIES} pairs, not {len(source)}")
        pairs = plain(source)
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


def _literal(field: str, value: Json) -> Json:
    """Lists as they are; a string of numbers and brackets, the form that replies print, is read."""
    if isinstance(value, str) and _NUMBERS_ONLY.fullmatch(value):
        bracketed = value.replace("(", "[").replace(")", "]")
        try:
            parsed: Json = json.loads(bracketed)
        except (ValueError, RecursionError):
            return value
        check_json({field: parsed})
        return parsed
    return value


def _array(field: str, value: Json, wanted: ArrayOf) -> np.ndarray:
    allowed = _allowed(wanted)
    if not isinstance(value, list):
        raise _bad(field, value, allowed)
    flat: list[bool | int | float] = []
    shape = _flatten(value, flat, len(wanted.shape))
    is_bool = all(isinstance(each, bool) for each in flat)
    if shape is None or not _fits(shape, wanted) or not flat or is_bool != wanted.booleans:
        raise _bad(field, value, allowed)
    low, high = wanted.within.low, wanted.within.high
    # Not a number is in no range.
    if not is_bool and any(isinstance(each, bool) or not low <= each <= high for each in flat):
        raise _bad(field, value, allowed)
    return np.array(flat, dtype=np.bool_ if is_bool else np.float64).reshape(shape)


def _free_array(field: str, variable: Variable, wanted: ArrayOf) -> np.ndarray:
    """An array that no tool vouches for, held to what a literal is held to."""
    held = variable.value.fetch() if isinstance(variable.value, Stored) else variable.value
    assert isinstance(held, np.ndarray), f"{variable.name} is of kind {variable.kind}"
    is_bool = held.dtype == np.bool_
    numbers = is_bool or held.dtype.kind in "iuf"
    if held.size and numbers and _fits(held.shape, wanted) and is_bool == wanted.booleans:
        low, high = wanted.within.low, wanted.within.high
        if is_bool:
            return held
        if bool(((held >= low) & (held <= high)).all()):
            return held.astype(np.float64)
    got = f"an array of {held.dtype} of shape {' x '.join(map(str, held.shape)) or 'none'}"
    raise ToolRefusal(
        "bad_argument", f"{field}: ${variable.name} is {got}; allowed: {_allowed(wanted)}"
    )


def _fits(shape: tuple[int, ...], wanted: ArrayOf) -> bool:
    return len(shape) == len(wanted.shape) and all(
        want is None or have == want for have, want in zip(shape, wanted.shape, strict=True)
    )


def _allowed(wanted: ArrayOf) -> str:
    low, high = wanted.within.low, wanted.within.high
    numbers = "booleans" if wanted.booleans else f"numbers from {low:g} to {high:g}"
    sizes = " x ".join("any" if size is None else str(size) for size in wanted.shape)
    kinds = "".join(f"a variable of kind {kind}, " for kind in wanted.kinds)
    return f"{kinds}or a literal array of {numbers} of shape {sizes}".removeprefix("or ")


def _flatten(value: Json, flat: list[bool | int | float], depth: int) -> tuple[int, ...] | None:
    """Shape of nested lists, their numbers appended to ``flat``; None where they are ragged."""
    if depth == 0:
        if not isinstance(value, bool | int | float):
            return None
        flat.append(value)
        return ()
    if not isinstance(value, list):
        return None
    shapes = {_flatten(each, flat, depth - 1) for each in value}
    inner = next(iter(shapes), None)
    return None if len(shapes) != 1 or inner is None else (len(value), *inner)


def _type(parameter: Parameter) -> str:
    written = parameter.schema_type
    return " or ".join(map(str, written)) if isinstance(written, list) else str(written)


def _bad(field: str, value: object, allowed: str) -> ToolRefusal:
    return ToolRefusal("bad_argument", f"{field}: got {_short(value)}; allowed: {allowed}")


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return integer_text(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
