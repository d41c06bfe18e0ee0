"""Contracts: a typed, documented method of a ``Family`` is a tool; here it gets its spec.

The annotation of a parameter says what a model may write there (``Marker`` classes below), its
docstring entry says what the model is told. Pictures appear in the schema as ``image_index``,
always last; arrays as strings, because the model passes ``"$name"``; the world and a session's
tools not at all. What has a default may be left out.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, Protocol, TypeAlias, TypeVar

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
    ToolResult,
    ToolSpec,
)

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])
Role: TypeAlias = Literal[
    "text",
    "code",
    "number",
    "integer",
    "array",
    "points",
    "point",
    "image",
    "picture",
    "names",
    "world",
    "tools",
]
_HIDDEN: tuple[Role, ...] = ("world", "tools")
_TYPES: dict[Role, Json] = {
    "number": "number",
    "integer": "integer",
    "image": "integer",
    "picture": ["integer", "string"],
    "names": "object",
}


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


@dataclass(frozen=True, slots=True)
class Code:
    """Marks a text that is a program: longer than a phrase, and ``$`` means nothing in it."""


@dataclass(frozen=True, slots=True)
class AnyPicture:
    """Marks a picture given by its number or by a variable that holds one."""


@dataclass(frozen=True, slots=True)
class Named:
    """Marks an object of names and what they stand for: variables or literals."""


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
Program = Annotated[str, Code()]
Picture = Annotated[ToolImage, AnyPicture()]
NamedValues = Annotated[dict[str, object], Named()]


class SessionTools(Protocol):
    """A session's tools, as a tool of that session may call them: the same checks as for calls of
    the model, and a quota."""

    @property
    def shown(self) -> dict[str, tuple[str, ...]]:
        """Names of the arguments of each tool, by dotted name."""

    async def call(self, name: str, arguments: dict[str, Json]) -> ToolResult:
        """``ok`` or ``refused``; raises ToolFailure where machinery broke."""


class Family(ABC):
    """Tools that share one model, and so one replica; the base of every contract."""

    name: ClassVar[str]
    """First half of the published names."""
    stateful: ClassVar[bool] = False
    """Whether calls of one session must run one after the other."""
    idempotent: ClassVar[bool] = True
    """Whether a call may be tried again after its replica broke."""
    calls_tools: ClassVar[bool] = False
    """Whether its calls may call tools of their session; such a family works beside the caller."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One parameter of a tool, with everything that a check of its argument needs."""

    name: str
    role: Role
    description: str
    within: Within = ANY_NUMBER
    """Of a number."""
    array: ArrayOf | None = None
    optional: bool = False

    @property
    def schema_name(self) -> str:
        return "image_index" if self.role == "image" else self.name

    @property
    def schema_type(self) -> Json:
        return _TYPES.get(self.role, "string")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One tool as its contract declares it; ``parameters`` in the order of the signature."""

    family: str
    name: str
    description: str
    parameters: tuple[Parameter, ...]
    is_small: bool = False
    """Whether its values hold no large arrays."""
    listed_only: bool = False
    """Whether it is shown only by a config that lists it."""
    visible: tuple[Parameter, ...] = field(init=False)
    """What the schema shows, pictures last."""

    def __post_init__(self) -> None:
        shown = [each for each in self.parameters if each.role not in _HIDDEN]
        ordered = tuple(sorted(shown, key=lambda each: each.role == "image"))
        object.__setattr__(self, "visible", ordered)

    @property
    def dotted(self) -> str:
        return f"{self.family}.{self.name}"


def tool(method: FunctionT) -> FunctionT:
    """Mark a method of a contract as a tool."""
    method.__dict__["is_tool"] = True
    return method


def listed_tool(method: FunctionT) -> FunctionT:
    """Mark a method as a tool that is shown only by a config that lists it."""
    method.__dict__["listed_only"] = True
    return tool(method)


@functools.cache
def methods_of(contract: type[Family]) -> dict[str, Method]:
    """Every tool of a contract by method name, in the order of definition."""
    found: dict[str, Method] = {}
    for base in reversed(contract.__mro__):
        for name, member in vars(base).items():
            if inspect.isfunction(member) and "is_tool" in vars(member):
                found[name] = _read(contract, member)
    return found


def specs_of(contract: type[Family], shown: Sequence[str] | None = None) -> list[ToolSpec]:
    """Specs of the methods named, in that order; where none are named, of all that need no
    naming."""
    methods = methods_of(contract)
    unknown = [name for name in shown or () if name not in methods]
    if unknown:
        raise ConfigError(
            f"{contract.name} has no method {unknown[0]!r}; it has {', '.join(methods)}"
        )
    if shown is None:
        shown = [name for name, method in methods.items() if not method.listed_only]
    return [_spec(methods[name]) for name in shown]


def _spec(method: Method) -> ToolSpec:
    properties: dict[str, Json] = {
        each.schema_name: {"type": each.schema_type, "description": each.description}
        for each in method.visible
    }
    required: list[Json] = [each.schema_name for each in method.visible if not each.optional]
    return ToolSpec(
        name=method.dotted,
        description=method.description,
        parameters={"type": "object", "properties": properties, "required": required},
    )


_SMALL = (Detections, IndexedValue, OrientedBox, GraspEstimate)


class _World:
    """Stands in for the annotation ``WorldState``, whose module needs the extra ``[light]``."""


def _read(contract: type[Family], function: Callable[..., object]) -> Method:
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
    signature = inspect.signature(function).parameters
    parameters = [
        _parameter(
            name, hints[name], told.get(name, f"Parameter {name}"), each.default is not each.empty
        )
        for name, each in signature.items()
        if name != "self"
    ]
    if contract.calls_tools != any(each.role == "tools" for each in parameters):
        raise ConfigError(
            f"{function.__qualname__}: a family with calls_tools, and no other, takes SessionTools"
        )
    return Method(
        family=contract.name,
        name=function.__name__,
        is_small=hints.get("return") in _SMALL,
        description="\n".join(part for part in parts if part),
        parameters=tuple(parameters),
        listed_only="listed_only" in vars(function),
    )


def _parameter(name: str, hint: object, description: str, optional: bool) -> Parameter:
    role, within, array = _role(hint)
    if role is None:
        raise ConfigError(
            f"parameter {name!r} is annotated {hint!r}, which no tool argument can be"
        )
    return Parameter(
        name=name,
        role=role,
        description=description,
        within=within,
        array=array,
        optional=optional,
    )


def _role(hint: object) -> tuple[Role | None, Within, ArrayOf | None]:
    """What an annotation makes of a parameter."""
    # ``| None`` is how an optional one says that it was left out.
    inside = [each for each in typing.get_args(hint) if each is not type(None)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return _role(inside[0]) if len(inside) == 1 else (None, ANY_NUMBER, None)
    if typing.get_origin(hint) is Annotated:
        for marker in typing.get_args(hint)[1:]:
            if isinstance(marker, Within):
                return ("integer" if inside[0] is int else "number"), marker, None
            if isinstance(marker, ArrayOf):
                return "array", ANY_NUMBER, marker
            if isinstance(marker, Code | AnyPicture | Named):
                return _MARKED[type(marker)], ANY_NUMBER, None
    roles: list[tuple[object, Role]] = [
        (str, "text"),
        (float, "number"),
        (ToolImage, "image"),
        (list[Point], "points"),
        (Point, "point"),
        (_World, "world"),
        (SessionTools, "tools"),
    ]
    return next((role for known, role in roles if hint == known), None), ANY_NUMBER, None


_MARKED: dict[type, Role] = {Code: "code", AnyPicture: "picture", Named: "names"}
