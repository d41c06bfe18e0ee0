"""Back-ends for the serving core and the chaos suite: they batch, starve, spin, hang and die."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from toolshed.errors import ToolRefusal
from toolshed.tool import ANY_NUMBER, Family, tool
from toolshed.types import IndexedValue

HERE = "tests.toolshed.chaos_tools"
AnyNumber = Annotated[float, ANY_NUMBER]
POISON, REFUSED = 13.0, 14.0


class OutOfMemoryError(RuntimeError):
    """Named like torch's, which is how it is known without torch."""


def number(value: float) -> IndexedValue:
    return IndexedValue(u=0.0, v=0.0, value=float(value), kind="")


class Squares(Family):
    """Squares numbers, several at once; ``room`` of them fit into its memory."""

    name: ClassVar[str] = "squares"
    sizes: ClassVar[list[int]] = []
    """Of every batch asked for, in order."""

    def __init__(self, *, room: float = 1e9, takes_s: float = 0.0) -> None:
        self._room, self._takes_s = room, takes_s

    @tool
    def square(self, x: AnyNumber) -> IndexedValue:
        """Square a number.

        Args:
            x: The number.
        """
        return _shown(self._squares([x])[0])

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Negative numbers go alone."""
        return "together" if float(str(arguments["x"])) >= 0 else None

    def batch(
        self, method: str, calls: Sequence[Mapping[str, object]]
    ) -> list[IndexedValue | ToolRefusal]:
        return self._squares([float(str(each["x"])) for each in calls])

    def _squares(self, numbers: list[float]) -> list[IndexedValue | ToolRefusal]:
        Squares.sizes.append(len(numbers))
        time.sleep(self._takes_s)
        if len(numbers) > self._room:
            raise OutOfMemoryError(f"tried to allocate {len(numbers)} GiB")
        if POISON in numbers:
            raise ValueError("poison")
        return [
            ToolRefusal("odd", f"no square of {each}: out of memory")
            if each == REFUSED
            else number(each * each)
            for each in numbers
        ]


def _shown(outcome: IndexedValue | ToolRefusal) -> IndexedValue:
    if isinstance(outcome, ToolRefusal):
        raise outcome
    return outcome
