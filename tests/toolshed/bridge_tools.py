"""Test-only back-ends for the far end of the bridge: numpy and the standard library alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import TextReply, Variable


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


class Probing:
    """Says what it is told, and misbehaves on demand."""

    def __init__(self, trouble: str = "") -> None:
        if trouble == "config":
            raise ConfigError("trouble: no such weights; give others")
        if trouble == "memory":
            raise MemoryError("CUDA out of memory")
        if trouble == "type":
            len(5)  # type: ignore[arg-type]
        if trouble == "crash":
            print("the weights are broken", file=sys.stderr, flush=True)
            os._exit(7)
        if trouble == "hang":
            time.sleep(60)
        print("a line on stdout disturbs nobody")

    def echo(self, **values: Any) -> TextReply:
        """The arguments, as variables."""
        kept = tuple(Variable(name=name, kind="number", value=values[name]) for name in values)
        return TextReply(text=f"{np.__version__} {sys.version_info[1]}", variables=kept)

    def pid(self) -> TextReply:
        return TextReply(text=str(os.getpid()))

    def environment(self, name: str) -> TextReply:
        return TextReply(text=os.environ.get(name, "unset"))

    def write(self, array: Any) -> TextReply:
        array[...] = 0
        return TextReply(text="written")

    def unsendable(self) -> Any:
        return {1, 2}

    def misbehave(self, how: str, seconds: float = 0.0) -> TextReply:
        if how == "refuse":
            raise ToolRefusal("not_found", "not found: cup")
        if how == "fail":
            raise ToolFailure("robot_offline", "nobody answers")
        if how == "bug":
            raise ZeroDivisionError("a bug")
        if how == "own bug":
            raise type("Strange", (Exception,), {})("a bug")
        if how == "memory":
            raise OutOfMemoryError("CUDA out of memory")
        if how == "timeout":
            raise TimeoutError("the robot did not answer")
        if how == "allocate":
            np.ones(2**33, np.uint8)
        if how == "sleep":
            time.sleep(seconds)
        if how == "hold the interpreter":
            pow(3, 10**9)  # minutes in C that never lets go
        if how == "exit":
            print("about to give up", file=sys.stderr, flush=True)
            os._exit(3)
        return TextReply(text="fine")


class Batched:
    """Adds numbers, several at once; calls of unlike parity do not go together, 0 goes alone."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch_key(self, method: str, arguments: Mapping[str, Any]) -> object:
        return None if arguments["number"] == 0 else arguments["number"] % 2

    def batch(
        self, method: str, calls: Sequence[Mapping[str, Any]]
    ) -> list[TextReply | ToolRefusal]:
        self.sizes.append(len(calls))
        return [self._added(each["number"]) for each in calls]

    def add(self, number: int) -> TextReply:
        self.sizes.append(1)
        found = self._added(number)
        if isinstance(found, ToolRefusal):
            raise found
        return found

    def _added(self, number: int) -> TextReply | ToolRefusal:
        if number == 13:
            return ToolRefusal("unlucky", "13 is refused")
        return TextReply(text=f"{number + 1} in a batch of {self.sizes[-1]}")
