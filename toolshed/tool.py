"""Contracts: a typed, documented method of a ``Family`` is a tool; here it gets its spec.

The annotation of a parameter says what a model may write there (``Marker`` classes below), its
docstring entry says what the model is told. Pictures appear in the schema as ``image_index``,
always last; arrays as strings, because the model passes ``"$name"``; the world not at all.
"""

from __future__ import annotations

import functools
import inspect
import typing
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from toolshed.errors import ConfigError
from toolshed.types import (
    Detections,
    GraspEstimate,
    IndexedValue,
    Json,
    OrientedBox,
    Point,
    ToolImage,
    ToolSpec,
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
Role: TypeAlias = Literal["text", "number", "array", "points", "point", "image", "world"]


@dataclass(frozen=True, slots=True)
class Within:
    """A number in a closed range."""

    low: float
    high: float


ANY_NUMBER = Within(-1e6, 1e6)
"""Beyond what any tool needs, and products of such numbers stay finite."""


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array: a variable of one of these kinds, or a literal of this shape (None is any size)."""

    kinds: tuple[str, ...]
    shape: tuple[int | None, ...]
    booleans: bool = False
    within: Within = ANY_NUMBER
    """Of every number of a literal."""


FARTHEST_M = 1000.0
"""What lies farther from a camera than this is no place that a tool can work with."""
_METRES = Within(-FARTHEST_M, FARTHEST_M)

UnitFloat = Annotated[float, Within(0.0, 1.0)]
FocalLength = Annotated[float, Within(1.0, 100_000.0)]
PointCloud = Annotated[
    npt.NDArray[np.float32], ArrayOf(("point_cloud",), (None, 3), within=_METRES)
]
Mask = Annotated[npt.NDArray[np.bool_], ArrayOf(("mask",), (None, None), booleans=True)]
Pose = Annotated[npt.NDArray[np.float64], ArrayOf(("pose",), (4, 4), within=_METRES)]
MetricPoint = Annotated[npt.NDArray[np.float64], ArrayOf((), (3,), within=_METRES)]
PixelData = Annotated[
    npt.NDArray[np.generic], ArrayOf(("depth_map", "mask", "image"), (None, None))
]


class Family(ABC):
    """Tools that share one model, and so one replica; the base of every contract."""

    name: ClassVar[str]
    """First half of the published names."""
    stateful: ClassVar[bool] = False
    """Whether calls of one session must run one after the other."""
    idempotent: ClassVar[bool] = True
    """Whether a call may be tried again after its replica broke."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of a tool, with everything that a check of its argument needs."""

    name: str
    role: Role
    description: str
    within: Within = ANY_NUMBER
    """Of a number."""
    array: ArrayOf | None = None

    @property
    def schema_name(self) -> str:
        return "image_index" if self.role == "image" else self.name

    @property
    def schema_type(self) -> str:
        return {"number": "number", "image": "integer"}.get(self.role, "string")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One tool as its contract declares it; ``parameters`` in the order of the signature."""

    family: str
    name: str
    description: str
    parameters: tuple[Parameter, ...]
    is_small: bool = False
    """Whether its values hold no large arrays."""
    visible: tuple[Parameter, ...] = field(init=False)
    """What the schema shows, pictures last."""

    def __post_init__(self) -> None:
        shown = [each for each in self.parameters if each.role != "world"]
        ordered = tuple(sorted(shown, key=lambda each: each.role == "image"))
        object.__setattr__(self, "visible", ordered)

    @property
    def dotted(self) -> str:
        return f"{self.family}.{self.name}"


def tool(method: FunctionT) -> FunctionT:
    """Mark a method of a contract as a tool."""
    method.__dict__["is_tool"] = True
    return method


@functools.cache
def methods_of(contract: type[Family]) -> dict[str, Method]:
    """Every tool of a contract by method name, in the order of definition."""
    found: dict[str, Method] = {}
    for base in reversed(contract.__mro__):
        for name, member in vars(base).items():
            if inspect.isfunction(member) and "is_tool" in vars(member):
                found[name] = _read(contract.name, member)
    return found


def specs_of(contract: type[Family], shown: Sequence[str] | None = None) -> list[ToolSpec]:
    """Specs of the methods named, in that order; of all methods where none are named."""
    methods = methods_of(contract)
    unknown = [name for name in shown or () if name not in methods]
    if unknown:
        raise ConfigError(
            f"{contract.name} has no method {unknown[0]!r}; it has {', '.join(methods)}"
        )
    return [_spec(methods[name]) for name in (methods if shown is None else shown)]


def _spec(method: Method) -> ToolSpec:
    properties: dict[str, Json] = {
        each.schema_name: {"type": each.schema_type, "description": each.description}
        for each in method.visible
    }
    required: list[Json] = list(properties)
    return ToolSpec(
        name=method.dotted,
        description=method.description,
        parameters={"type": "object", "properties": properties, "required": required},
    )


_SMALL = (Detections, IndexedValue, OrientedBox, GraspEstimate)


class _World:
    """Stands in for the annotation ``WorldState``, whose module needs the extra ``[light]``."""


def _read(family: str, function: Callable[..., object]) -> Method:
    # Tool environments need neither a schema nor the package that reads docstrings.
    import docstring_parser

    document = docstring_parser.parse(inspect.getdoc(function) or "")
    if not document.short_description:
        raise ConfigError(
            f"{function.__qualname__} has no docstring, so no model can be told of it"
        )
    told = {entry.arg_name: (entry.description or "").split("\n")[0] for entry in document.params}
    hints = typing.get_type_hints(function, localns={"WorldState": _World}, include_extras=True)
    parts = [document.short_description, document.long_description]
    return Method(
        family=family,
        name=function.__name__,
        is_small=hints.get("return") in _SMALL,
        description="\n".join(part for part in parts if part),
        parameters=tuple(
            _parameter(name, hints[name], told.get(name, f"Parameter {name}"))
            for name in inspect.signature(function).parameters
            if name != "self"
        ),
    )


def _parameter(name: str, hint: object, description: str) -> Parameter:
    if typing.get_origin(hint) is Annotated:
        for marker in typing.get_args(hint)[1:]:
            if isinstance(marker, Within):
                return Parameter(name=name, role="number", description=description, within=marker)
            if isinstance(marker, ArrayOf):
                return Parameter(name=name, role="array", description=description, array=marker)
    roles: list[tuple[object, Role]] = [
        (str, "text"),
        (float, "number"),
        (ToolImage, "image"),
        (list[Point], "points"),
        (Point, "point"),
        (_World, "world"),
    ]
    for known, role in roles:
        if hint == known:
            return Parameter(name=name, role=role, description=description)
    raise ConfigError(f"parameter {name!r} is annotated {hint!r}, which no tool argument can be")
