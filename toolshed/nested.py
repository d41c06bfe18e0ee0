"""Calls that a tool makes of other tools of its session: the same checks as for calls of the
model, a quota, and no cycles."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping

from toolshed.errors import ToolFailure
from toolshed.limits import CALL_DEPTH, NESTED_CALLS
from toolshed.tool import Method
from toolshed.types import Json, ToolCall, ToolImage, ToolResult

Make = Callable[[ToolCall, int], Awaitable[ToolResult]]
"""Makes the n-th call, counted from 1, as the session makes the model's."""


class NestedCalls:
    """The tools of a session, for the time of one call of a family with ``calls_tools``."""

    def __init__(
        self, call_id: str, chain: tuple[str, ...], methods: Mapping[str, Method], make: Make
    ) -> None:
        self.images: list[ToolImage] = []
        """Pictures that these calls brought into the conversation, in order."""
        self._call_id = call_id
        self._chain = chain
        self._methods = methods
        self._make = make
        self._count = itertools.count(1)

    @property
    def shown(self) -> dict[str, tuple[str, ...]]:
        """Names of the arguments of each tool that may be called, by dotted name."""
        return {
            name: tuple(each.schema_name for each in method.visible)
            for name, method in self._methods.items()
            if method.family not in self._chain
        }

    async def call(self, name: str, arguments: dict[str, Json]) -> ToolResult:
        """``ok`` or ``refused``; raises ToolFailure where machinery broke, so that the whole call
        fails and nobody takes the accident for the code's doing."""
        number = next(self._count)
        call = ToolCall(id=f"{self._call_id}.{number}", name=name, arguments=arguments)
        refusal = self._refusal(name, number)
        if refusal is not None:
            reason, text = refusal
            return ToolResult(
                call_id=call.id, name=name, status="refused", reason=reason, text=text
            )
        result = await self._make(call, number)
        self.images += result.images
        if result.status == "failed":
            raise ToolFailure(result.reason, f"{name}, called by {self._chain[-1]}: {result.text}")
        return result

    def _refusal(self, name: str, number: int) -> tuple[str, str] | None:
        if number > NESTED_CALLS:
            return "quota", f"call {number} of this run; allowed: {NESTED_CALLS} tool calls"
        family = name.partition(".")[0]
        if family in self._chain or len(self._chain) >= CALL_DEPTH:
            return "too_deep", (
                f"{name[:60]} called from {self._chain[-1]}; allowed: {CALL_DEPTH} levels of calls "
                "and no family that is at work already"
            )
        return None
