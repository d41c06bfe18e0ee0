"""What is asked of a provider and what it answers, whichever protocol is spoken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from rl.policy.native_turns import NativeTools, NativeTurn
from rl.policy.pictures import Format
from rl.policy.prices import TokenUsage
from rl.types import Finish, SamplingParams
from toolshed.errors import ToolFailure
from toolshed.types import Json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One turn that is asked for."""

    model: str
    turns: tuple[NativeTurn, ...]
    tools: NativeTools
    sampling: SamplingParams
    seed: int
    image_format: Format
    left_out: frozenset[str] = frozenset()
    """Fields of the request that this model rejects."""
    kept: Mapping[int, Json]
    """By the number of an assistant turn: what its ``Told.kept`` was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One turn as it was answered."""

    text: str
    """In our form, calls written as text."""
    finish: Finish
    usage: TokenUsage | None
    """None where the server keeps no account."""
    kept: Json = None
    """The provider's own, which it wants back with this turn: signatures of hidden reasoning."""


class Dialect(Protocol):
    """One protocol of asking; functions of its arguments alone."""

    path: str
    """Of its requests, behind the base URL."""
    optional: tuple[str, ...]
    """Fields that a model may reject and is then asked without."""

    def headers(self, key: str) -> dict[str, str]: ...

    def body(self, ask: Ask) -> dict[str, Json]:
        """The request; ConfigError where a picture cannot be sent."""
        ...

    def read(self, content: Json, tools: NativeTools) -> Told:
        """The answer; ToolFailure where it is none."""
        ...


def read_as(kind: TypeAdapter[T], content: Json) -> T:
    """A provider's JSON in the type that we read, further keys ignored; ToolFailure otherwise."""
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ToolFailure("bad_response", f"{place}: {first['msg']}") from None
