"""Code: a short Python program over what other tools have kept, run where it can do no harm."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from toolshed.tool import Family, NamedValues, Program, SessionTools, tool
from toolshed.types import CodeRun


class CodeExecutor(Family):
    """Runs code in a fresh child process per call, so no call sees what another one left."""

    name: ClassVar[str] = "code_executor"
    # Code may call the robot, so a run is not to be repeated.
    idempotent: ClassVar[bool] = False
    calls_tools: ClassVar[bool] = True

    @tool
    @abstractmethod
    async def exec(
        self, tools: SessionTools, code: Program, variables: NamedValues | None = None
    ) -> CodeRun:
        """Run a Python program; it gives back what it prints and its last value.

        The value is that of the last line, where that is an expression, or else of the name result.
        A number, list, array or picture is kept as the variable $result.
        json, math, random, re, time, datetime and np (numpy) are there; other tools are called as
        tools.<tool>.<function>(...), with names of variables written as "$name".

        Args:
            code: The program, for example "np.median(depth[mask])".
            variables: Names that the program uses, such as {"depth": "$depth_map", "limit": 0.5}.
        """

    @tool
    @abstractmethod
    async def eval(
        self, tools: SessionTools, expression: Program, variables: NamedValues | None = None
    ) -> CodeRun:
        """Compute one Python expression; a number, list, array or picture is kept as $result.

        json, math, random, re, time, datetime and np (numpy) are there.

        Args:
            expression: The expression, for example "np.linalg.norm(a - b)".
            variables: Names that it uses, such as {"a": "$obb_corners_3d[0]", "b": [0, 0, 1]}.
        """
