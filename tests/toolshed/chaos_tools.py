"""Back-ends for the serving core and the chaos suite: they batch, starve, spin, hang and die."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np

from toolshed.errors import ToolRefusal
from toolshed.tool import ANY_NUMBER, Family, tool
from toolshed.types import DepthEstimate, IndexedValue, ToolImage

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


class Chaos(Family):
    """Misbehaves on demand. ``folder`` keeps a line for each execution: what, which, where."""

    name: ClassVar[str] = "chaos"
    is_lost: ClassVar[bool] = False
    """Whether this process has lost its pretended GPU."""

    def __init__(self, *, folder: str, load_s: float = 0.0) -> None:
        self._folder = Path(folder)
        with (self._folder / "loading").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(load_s)

    @tool
    def work(self, which: AnyNumber, seconds: AnyNumber) -> IndexedValue:
        """Work for a while, ten times longer in the process that a file named slow names.

        Args:
            which: Number of the call.
            seconds: How long.
        """
        self._note("work", which)
        slow = self._folder / "slow"
        is_slow = slow.exists() and slow.read_text() == str(os.getpid())
        time.sleep(seconds * (10 if is_slow else 1))
        return number(os.getpid())

    @tool
    def die(self, which: AnyNumber, times: AnyNumber) -> IndexedValue:
        """Kill the process at the first executions.

        Args:
            which: Number of the call.
            times: How many executions of it end so.
        """
        if self._note("die", which) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return number(os.getpid())

    @tool
    def hang(self, which: AnyNumber, how: str) -> IndexedValue:
        """Hang at the first execution.

        Args:
            which: Number of the call.
            how: sleep, spin or gil.
        """
        if self._note("hang", which) == 1:
            if how == "gil":
                # A C function called without giving up the lock of the interpreter.
                ctypes.PyDLL(None).sleep(60)
            until_s = time.monotonic() + 60
            while time.monotonic() < until_s:
                if how == "sleep":
                    time.sleep(60)
        return number(os.getpid())

    @tool
    def allocate(self, which: AnyNumber) -> IndexedValue:
        """Ask the machine for a petabyte.

        Args:
            which: Number of the call.
        """
        self._note("allocate", which)
        return number(float(np.ones(1 << 47).sum()))

    @tool
    def touch_gpu(self, which: AnyNumber) -> IndexedValue:
        """Lose the GPU for the rest of the process at the first execution.

        Args:
            which: Number of the call.
        """
        Chaos.is_lost |= self._note("touch_gpu", which) == 1
        if Chaos.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return number(os.getpid())

    @tool
    def see(self, which: AnyNumber, image: ToolImage) -> DepthEstimate:
        """Make a large array.

        Args:
            which: Number of the call.
            image: The picture.
        """
        self._note("see", which)
        return DepthEstimate(depth_m=np.ones((300, 300), dtype=np.float32), focal_length_px=1.0)

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """Only ``work`` goes together."""
        return "together" if method == "work" else None

    def batch(self, method: str, calls: Sequence[Mapping[str, object]]) -> list[IndexedValue]:
        numbers = [self._note("batch", float(str(each["which"]))) for each in calls]
        time.sleep(max(float(str(each["seconds"])) for each in calls))
        return [number(os.getpid()) for _ in numbers]

    def _note(self, what: str, which: float) -> int:
        """Keep that this runs; how often it has."""
        line = f"{what} {which:g}"
        with (self._folder / "runs").open("a") as file:
            file.write(f"{line} {os.getpid()}\n")
        lines = (self._folder / "runs").read_text().splitlines()
        return sum(each.rpartition(" ")[0] == line for each in lines)


class Together(Chaos):
    """The same, several calls at once where its config says so."""

    name: ClassVar[str] = "batches"


class Effects(Chaos):
    """The same, but no call may be executed twice."""

    name: ClassVar[str] = "effects"
    idempotent: ClassVar[bool] = False


class Doomed(Chaos):
    """Never starts."""

    name: ClassVar[str] = "doomed"

    def __init__(self, *, how: str) -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            raise SystemExit(3)
        if how == "weights":
            raise FileNotFoundError(2, "No such file or directory", "/weights/model.safetensors")
        import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401
