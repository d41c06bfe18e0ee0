"""What a session keeps for its model under ``$names``: its own, bounded, expiring."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from toolshed.arrays import num_bytes
from toolshed.errors import ToolRefusal
from toolshed.types import Variable

NUM_GONE = 256
"""Names that have gone of which a session remembers why; of more the first are as unknown as names
that never were."""


class Variables(Mapping[str, Variable]):
    """Variables by name. Reading one counts as its use.

    Where there are too many, the one that was not used for longest goes; a name that has gone is
    remembered, so that a model that still writes it reads what became of it. Hidden ones (the
    robot's world) do not count and never go.
    """

    def __init__(
        self,
        *,
        most: int,
        max_bytes: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most, self._max_bytes, self._seconds, self._clock = most, max_bytes, seconds, clock
        self._kept: OrderedDict[str, tuple[Variable, float]] = OrderedDict()
        self._gone: dict[str, str] = {}
        """Why, by name, in the order in which they went."""

    def __getitem__(self, name: str) -> Variable:
        self._expire()
        variable, _ = self._kept[name]
        self._kept[name] = (variable, self._clock())
        self._kept.move_to_end(name)
        return variable

    def __iter__(self) -> Iterator[str]:
        self._expire()
        return iter(list(self._kept))

    def __len__(self) -> int:
        self._expire()
        return len(self._kept)

    def check(self, variables: tuple[Variable, ...]) -> None:
        """Raise ToolRefusal where one of them is larger than a variable may be."""
        for each in variables:
            size = num_bytes(each.value)
            if size > self._max_bytes:
                raise ToolRefusal(
                    "too_large",
                    f"${each.name} would take {size / 1e6:.0f} MB; a variable may take "
                    f"{self._max_bytes / 1e6:.0f} MB; use a smaller picture",
                )

    def keep(self, variable: Variable) -> None:
        """Set a variable; of many the least used goes."""
        self._gone.pop(variable.name, None)
        self._kept[variable.name] = (variable, self._clock())
        self._kept.move_to_end(variable.name)
        shown = [name for name in self._kept if not name.startswith("_")]
        for name in shown[: max(0, len(shown) - self._most)]:
            self._drop(name, f"only {self._most} variables are kept at a time")

    def lose(self, name: str) -> None:
        """What was under this name is lost with the machine that held it."""
        if name in self._kept:
            self._drop(name, "the machine that held it is gone")

    def check_not_gone(self, name: str) -> None:
        """Raise ToolRefusal for a name that is no more, with the names that are."""
        self._expire()
        why = self._gone.get(name)
        if why is not None:
            there = ", ".join(f"${each}" for each in self._kept if not each.startswith("_"))
            raise ToolRefusal(
                "expired_variable",
                f"${name} has expired: {why}; call its tool again; variables: {there or 'none'}",
            )

    def clear(self) -> None:
        """Drop everything, as at the end of a session."""
        self._kept.clear()
        self._gone.clear()

    def _expire(self) -> None:
        """The least recently used come first, so the first that is young enough ends the search."""
        oldest_s = self._clock() - self._seconds
        for name, (_, used_s) in list(self._kept.items()):
            if name.startswith("_"):
                continue
            if used_s > oldest_s:
                return
            self._drop(name, f"nobody used it for {self._seconds / 60:g} minutes")

    def _drop(self, name: str, why: str) -> None:
        del self._kept[name]
        self._gone[name] = why
        while len(self._gone) > NUM_GONE:
            del self._gone[next(iter(self._gone))]
