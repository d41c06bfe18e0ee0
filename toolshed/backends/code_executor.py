"""Code in a sandbox: variables handed in, the session's tools within reach, limits told as such."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import numpy as np

from toolshed.budget import Budget, Places, current_budget
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.images import make_image
from toolshed.sandbox.levels import LEVELS, Ended, Finished, Job, Level, Limits, choose
from toolshed.sandbox.run import Reply, run_job
from toolshed.tool import SessionTools
from toolshed.tools.code import CodeExecutor
from toolshed.types import CodeRun, Json, Point, Stored, ToolImage, Variable

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL | re.I)
_FAIR_SHARE = 0.9
"""A program that had this share of its wall time was too slow by itself; one that had less because
its call had waited met a limit of the machine."""
_REACHED: dict[Ended, str] = {
    "cpu": "ran for more than {cpu_s:g} s of processor time",
    "wall": "took longer than {wall_s:g} s",
    "memory": "held more than {memory_mb} MB of memory",
    "processes": "started more than {processes} processes and threads",
    "disk": "wrote more than {disk_mb} MB, or too many files",
    "output": "printed more than {output_mb} MB",
}


class SandboxedCode(CodeExecutor):
    """``require_level`` is the weakest sandbox that will do; ``max_running`` runs at a time."""

    def __init__(self, *, require_level: str | None = None, max_running: int = 4) -> None:
        if require_level is not None and require_level not in LEVELS:
            raise ConfigError(
                f"code_executor: require_level {require_level!r} is none of {', '.join(LEVELS)}"
            )
        if max_running < 1:
            raise ConfigError(f"code_executor: max_running = {max_running}; at least 1")
        self._sandbox = choose(LEVELS.get(require_level) if require_level is not None else None)
        self._limits = Limits()
        self._places = Places(max_running)

    def level(self) -> Level:
        """The sandbox that code is run in."""
        return self._sandbox.level

    async def exec(
        self, tools: SessionTools, code: str, variables: dict[str, object] | None = None
    ) -> CodeRun:
        return await self._run("exec", without_fences(code), tools, variables)

    async def eval(
        self, tools: SessionTools, expression: str, variables: dict[str, object] | None = None
    ) -> CodeRun:
        return await self._run("eval", without_fences(expression), tools, variables)

    async def _run(
        self,
        mode: Literal["exec", "eval"],
        code: str,
        tools: SessionTools,
        variables: dict[str, object] | None,
    ) -> CodeRun:
        calls: list[str] = []

        async def answer(name: str, arguments: dict[str, Any]) -> Reply:
            calls.append(name)
            return await _answer(tools, name, arguments)

        budget = current_budget()
        await self._places.take(budget)
        try:
            job = Job(
                code=code,
                mode=mode,
                variables={name: plain_value(each) for name, each in (variables or {}).items()},
                tools=tools.shown,
            )
            limits, is_fair = self._limits_of(budget)
            found = await run_job(self._sandbox, job, answer, limits)
        finally:
            self._places.give_back()
        if found.ended == "wall" and not is_fair:
            told = f"the program had {limits.wall_s:.3g} s left of {budget.seconds:g} s"
            raise ToolFailure("timeout", f"{told}; its call waited {budget.queue_s:.3g} s")
        _check_end(mode, found, limits)
        return CodeRun(
            result=_result(found),
            text=found.text,
            text_length=found.text_length,
            stdout=found.stdout,
            stderr=found.stderr,
            level=self._sandbox.level,
            calls=tuple(calls),
        )

    def _limits_of(self, budget: Budget) -> tuple[Limits, bool]:
        """The limits of a run that starts now: it may last as long as the budget does. And whether
        the program is to blame where that is too short for it."""
        whole_s = min(self._limits.wall_s, budget.seconds)
        wall_s = min(whole_s, budget.left_s)
        return dataclasses.replace(self._limits, wall_s=wall_s), wall_s >= _FAIR_SHARE * whole_s


def _check_end(mode: str, found: Finished, limits: Limits) -> None:
    """A run that was ended at a limit is refused: its code was wrong, the machine was not."""
    field = "code" if mode == "exec" else "expression"
    if found.ended == "died":
        raise ToolRefusal("died", f"{field}: the program ended without a result{_tail(found)}")
    told = _REACHED.get(found.ended)
    if told is not None:
        sizes = {
            "memory_mb": limits.memory_bytes >> 20,
            "disk_mb": limits.disk_bytes >> 20,
            "output_mb": limits.output_bytes >> 20,
            "wall_s": round(limits.wall_s, 1),
        }
        reached = told.format(**{**dataclasses.asdict(limits), **sizes})
        raise ToolRefusal(f"limit_{found.ended}", f"{field}: the program {reached} and was stopped")


def without_fences(code: str) -> str:
    """Code without the Markdown fence around it; of several blocks the last."""
    blocks = _FENCED.findall(code)
    return str(blocks[-1]) if blocks else code


def plain_value(value: object) -> object:
    """A session's value as code gets it: JSON values, and arrays for arrays and pictures."""
    if isinstance(value, Stored):
        value = value.fetch()
    if isinstance(value, Variable):
        return plain_value(value.value)
    if isinstance(value, ToolImage):
        return value.pixels
    if isinstance(value, Point):
        return [value.u, value.v]
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    if isinstance(value, dict):
        return {name: plain_value(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
        return {name: plain_value(getattr(value, name)) for name in names}
    return value


async def _answer(tools: SessionTools, name: str, arguments: dict[str, Json]) -> Reply:
    result = await tools.call(name, arguments)
    fields = plain_value(result.value) if result.status == "ok" else {}
    # A text reply's variables have names of their own.
    if isinstance(fields, dict) and isinstance(fields.get("variables"), list):
        fields["variables"] = {each.name: plain_value(each) for each in result.variables}
    return {
        "status": result.status,
        "reason": result.reason,
        "text": result.text,
        "value": fields,
    }


def _result(found: Finished) -> float | list[Json] | np.ndarray | ToolImage | None:
    """The result, held to what its kind says: it comes from code that may say anything."""
    value = found.result
    match found.kind:
        case "number" if isinstance(value, int | float) and not isinstance(value, bool):
            return value if abs(value) <= 2**53 else None
        case "list" if isinstance(value, list) and _is_json(value):
            return value
        case "array" if isinstance(value, np.ndarray):
            return value
        case "image" if isinstance(value, np.ndarray):
            if value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3 and value.size:
                return make_image(value)
    return None


def _is_json(value: object) -> bool:
    """Whether lists hold lists, numbers and texts alone."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif not isinstance(each, bool | int | float | str):
            return False
    return True


def _tail(found: Finished) -> str:
    last = found.stderr.strip().splitlines()[-1:]
    return f"; its last words: {last[0][:200]}" if last else ""
