"""The tool service as a program sees it: a Toolshed, and one Session per episode.

``Session.call`` has exactly one outcome per call and raises for nothing that a model or a machine
did: ``ok``, ``refused`` (the model reads why) or ``failed`` (our machinery broke). Bugs propagate.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast

from toolshed import replies
from toolshed.arguments import check_arguments
from toolshed.chat import clean
from toolshed.config import ToolshedConfig, load_tools, replaced
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.backend import IMAGE_INDEX, WORLD, Answer, Request
from toolshed.caching import RememberingHost
from toolshed.hosting import Host, LocalHost, served_families
from toolshed.registry import backend_of
from toolshed.tool import Method
from toolshed.toolset import ToolSet
from toolshed.types import Timings, ToolCall, ToolImage, ToolResult, ToolSpec, Variable

if TYPE_CHECKING:
    from toolshed.tabletop.state import WorldState

__all__ = ["Session", "ToolSet", "Toolshed"]


class Toolshed:
    """Opened tools. Sessions are cheap; the tools behind them are shared."""

    def __init__(self, config: ToolshedConfig, tools: ToolSet, host: Host) -> None:
        self.config = config
        self.tools = tools
        self._host = host

    @classmethod
    def open(
        cls,
        config: str | Path | ToolshedConfig,
        *,
        host: Literal["local", "ray"] | None = None,
        show: Sequence[str] | None = None,
    ) -> Toolshed:
        """Start (or attach to) the families that have a tool shown, and wait until they answer."""
        loaded = config if isinstance(config, ToolshedConfig) else load_tools(config)
        if host is not None:
            loaded = replaced(loaded, {"host": host})
        tools = ToolSet.of(loaded, show)
        families = served_families(loaded, tools)
        opened: Host
        if loaded.host == "ray":
            from toolshed.ray_host import RayHost

            opened = RayHost(loaded, families)
        else:
            opened = LocalHost(families)
        remembered = [each.name for each in families if each.config.cache and each.idempotent]
        return cls(loaded, tools, RememberingHost(opened, remembered))

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """What the model is shown, in the order of the file."""
        return self.tools.specs

    @property
    def schema_text(self) -> str:
        return self.tools.schema_text

    @property
    def schema_hash(self) -> str:
        return self.tools.schema_hash

    def session(self, images: Sequence[ToolImage] = (), *, scene: int | None = None) -> Session:
        """One episode: the pictures of its question, and the seed of the world it may act in."""
        return Session(self.config, self.tools, self._host, images, scene)

    async def aclose(self) -> None:
        await self._host.aclose()

    def close(self) -> None:
        self._host.close()

    def __enter__(self) -> Toolshed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Toolshed:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class Session:
    """One episode's calls. Sibling calls may be awaited together: each sees the variables that
    were there when it was made, and of two that write one name the later call wins."""

    def __init__(
        self,
        config: ToolshedConfig,
        tools: ToolSet,
        host: Host,
        images: Sequence[ToolImage],
        scene: int | None,
    ) -> None:
        self.images: list[ToolImage] = list(images)
        """Pictures of the question, then those that tools brought."""
        self.variables: dict[str, Variable] = {}
        self._config = config
        self._tools = tools
        self._host = host
        self._scene = scene
        self._order = itertools.count()
        self._written: dict[str, int] = {}
        self._in_turn = asyncio.Lock()
        self._under_way: list[asyncio.Event] = []
        """One per call, oldest first; set when the call has left what it brought."""

    @property
    def world(self) -> WorldState | None:
        """The world as the last robot call left it; None where the question has none."""
        if self._scene is None:
            return None
        if WORLD not in self.variables:
            from toolshed.tabletop.state import initial_state

            state = initial_state(self._scene)
            self.variables[WORLD] = Variable(name=WORLD, kind="world", value=state)
        return cast("WorldState", self.variables[WORLD].value)

    async def call(self, call: ToolCall) -> ToolResult:
        """Make one call; see the module for what it raises, which is nothing but bugs."""
        earlier, done = tuple(self._under_way), asyncio.Event()
        self._under_way.append(done)
        try:
            return await self._made(call, earlier)
        finally:
            self._under_way.remove(done)
            done.set()

    async def _made(self, call: ToolCall, earlier: Sequence[asyncio.Event]) -> ToolResult:
        started_s = time.perf_counter()
        order = next(self._order)
        looked_for = call.arguments.get("obj_name")
        try:
            method = self._method(call.name)
            arguments = check_arguments(
                method, call.arguments, images=self.images, variables=self.variables
            )
            kind = self._kind_read(method, call)
            answer = await self._answer(method, arguments, kind)
        except ToolRefusal as refusal:
            name = looked_for if isinstance(looked_for, str) else None
            return ToolResult(
                call_id=call.id,
                name=call.name,
                status="refused",
                reason=refusal.reason,
                text=clean(replies.render_refusal(refusal, self._config.replies, name)),
                timings=Timings(total_s=time.perf_counter() - started_s),
            )
        except ToolFailure as failure:
            return ToolResult(
                call_id=call.id,
                name=call.name,
                status="failed",
                reason=failure.reason,
                text=failure.text,
                timings=Timings(total_s=time.perf_counter() - started_s),
            )
        if answer.images:
            # Pictures are numbered in the order of the calls, which is how the model reads them.
            for event in earlier:
                await event.wait()
        return self._accepted(call, order, answer, started_s)

    def _method(self, name: str) -> Method:
        method = self._tools.methods.get(name)
        if method is None:
            listed = ", ".join(self._tools.methods)
            raise ToolRefusal("unknown_tool", f"unknown tool {name[:60]!r}; tools: {listed}")
        return method

    def _kind_read(self, method: Method, call: ToolCall) -> str:
        """Kind of the variable that a call hands to the first array of its method."""
        for parameter in method.visible:
            written = call.arguments[parameter.schema_name]
            if parameter.array is not None:
                is_name = isinstance(written, str) and written.startswith("$")
                return self.variables[str(written)[1:]].kind if is_name else "array"
        return ""

    async def _answer(
        self, method: Method, arguments: dict[str, object], kind_read: str
    ) -> Answer:
        request = Request(
            family=method.family, method=method.name, arguments=arguments, kind_read=kind_read
        )
        worlds = [each.name for each in method.parameters if each.role == "world"]
        if not worlds:
            return await self._host.call(request)
        async with self._in_turn:
            given = {**arguments, worlds[0]: self._acted_in(method.family)}
            answer = await self._host.call(dataclasses.replace(request, arguments=given))
            for after in answer.variables:
                if after.name == WORLD:
                    self.variables[WORLD] = after
            return answer

    def _acted_in(self, family: str) -> WorldState | ToolImage | None:
        """What a robot gets to see and change; nothing where it stands in a room of its own."""
        acts_in = backend_of(family, self._config.families[family].backend).acts_in
        if acts_in == "room":
            return None
        given = self.images[0] if acts_in == "picture" and self.images else self.world
        if given is None:
            raise ToolRefusal("no_world", "there is no robot in this conversation")
        return given

    def _accepted(
        self, call: ToolCall, order: int, answer: Answer, started_s: float
    ) -> ToolResult:
        text = answer.text
        if answer.images:
            text = text.replace(IMAGE_INDEX, str(len(self.images)))
        self.images.extend(answer.images)
        for variable in answer.variables:
            # The world was set in the order of its calls, which is the order of the actions.
            if variable.name != WORLD and order >= self._written.get(variable.name, -1):
                self._written[variable.name] = order
                self.variables[variable.name] = variable
        return ToolResult(
            call_id=call.id,
            name=call.name,
            status="ok",
            text=clean(text),
            held=answer.value,
            variables=answer.variables,
            images=answer.images,
            timings=Timings(
                queue_s=answer.queue_s,
                transfer_s=answer.transfer_s,
                run_s=answer.run_s,
                encode_s=answer.encode_s,
                total_s=time.perf_counter() - started_s,
            ),
        )
