"""Tools for verl's agent loops, under the class names that released tool files give.

verl is not needed to import this; where it is installed its own classes are used. A loop makes and
releases one instance per call, so variables, pictures and rewards belong to the trajectory, which
the loop hands over as ``agent_data``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toolshed import code_text, replies
from toolshed.blocking import run_now
from toolshed.chat import clean
from toolshed.code_text import Labels
from toolshed.config import known_name
from toolshed.errors import ConfigError, ToolFailure
from toolshed.integration.opened import opened
from toolshed.integration.trajectory import Ledger, Start, Trajectories, Trajectory, to_pil
from toolshed.schemas import ROUTER_NAME
from toolshed.types import CodeRun, Json, Status, ToolCall, ToolResult

if TYPE_CHECKING:
    from toolshed.integration.carriers import BaseTool, ToolResponse
    from toolshed.shed import Toolshed
else:
    try:
        from verl.tools.base_tool import BaseTool
        from verl.tools.schemas import ToolResponse
    except ImportError:
        from toolshed.integration.carriers import BaseTool, ToolResponse

__all__ = [
    "ToolResponse",
    "ToolshedCodeTool",
    "ToolshedMethodTool",
    "get_toolshed_tool_wrappers",
]

_CODE = "code_executor.exec"
_LABELS = Labels(result="Execution result", stdout="Output", stderr="Error")
_FAILED = "Error: the tool is not available"
_trajectories: weakref.WeakKeyDictionary[Toolshed, Trajectories] = weakref.WeakKeyDictionary()
"""Of each set of opened tools."""


class ToolSettings(BaseModel):
    """The key ``config`` of an entry of a verl tool file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["native"] = "native"
    router_name: str = ROUTER_NAME
    """Of released files; no router stands between these tools and their callers."""
    namespace: str | None = None
    """Ray namespace of running tools; that of the tool config where it is missing."""
    function_name: str = ""
    """Dotted name; the name in the schema where it is missing."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds that a call may take, from its making to its answer."""
    project_name: str | None = None
    experiment_name: str | None = None
    """Of released files, for traces that are not written here."""
    tools: str | None = None
    """Tool config, as a word or a path."""
    address: str | None = None
    """Address of running tools, or the file that has it."""
    host: Literal["local", "ray"] | None = None
    reward: float | None = None
    """Of a call that was answered: 0.1, of code 0.2."""
    reward_refused: float = 0.0
    reward_cap: float | None = None
    """The most that the calls of a trajectory earn: 1.0, code 2.0."""


@dataclass(kw_only=True, slots=True)
class _Instance:
    """Between ``create`` and ``release``: one call in verl's own loop."""

    given: dict[str, object]
    """What the data set gives to this tool."""
    alone: Trajectory | None = None
    """Where the loop hands no trajectory over."""
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    last_result: ToolResult | None = None


class _ToolshedTool(BaseTool):
    """What both tools have in common: instances, the session behind them, and how they answer."""

    _kind = ""
    _reward, _cap = 0.0, 0.0

    def __init__(self, config: dict[str, object], tool_schema: object) -> None:
        super().__init__(config, tool_schema)
        try:
            self.settings = ToolSettings.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{self.name}: config.{where}: {first['msg'].lower()}") from error
        self._instances: dict[str, _Instance] = {}

    async def create(
        self, instance_id: str | None = None, **kwargs: object
    ) -> tuple[str, ToolResponse]:
        """A new instance; ``create_kwargs`` may hold ``scene`` and ``images``, which the data set
        gives: ``{image, depth, focal_length_px}`` for each picture of the prompt."""
        given = kwargs.get("create_kwargs") or {}
        if not isinstance(given, Mapping):
            raise ConfigError("create_kwargs is no mapping")
        await self._shed()
        chosen = str(uuid.uuid4()) if instance_id is None else instance_id
        start = Start.read(given)
        if start.images:
            await asyncio.to_thread(start.check)
        self._instances[chosen] = _Instance(given=dict(given))
        return chosen, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: dict[str, object], **kwargs: object
    ) -> tuple[ToolResponse, float, dict[str, object]]:
        """Make one call of the trajectory ``agent_data``."""
        instance = self._instance(instance_id)
        agent_data = kwargs.get("agent_data")
        trajectory = await self._trajectory(instance, agent_data)
        await trajectory.load()
        # The loop's class is not ours; one without pictures has the session's alone.
        pictures = getattr(agent_data, "image_data", None)
        if agent_data is not None:
            trajectory.see([] if pictures is None else list(pictures))
        result = await self._call(trajectory, parameters)
        answered = self._answered(result)
        reward = self._reward_of(answered)
        instance.last_result = result
        instance.ledger = trajectory.ledger(self._kind)
        instance.ledger.enter(reward, answered=answered)
        response, metrics = self._told(result, instance.ledger, answered)
        metrics["variables"] = trajectory.tell(result.variables)
        return response, reward, metrics

    async def release(self, instance_id: str, **kwargs: object) -> None:
        """Forget an instance; its trajectory lives as long as the loop's record of it."""
        self._instance(instance_id)
        del self._instances[instance_id]

    def _instance(self, instance_id: str) -> _Instance:
        found = self._instances.get(instance_id)
        if found is None:
            raise ValueError(f"{self.name} has no instance {instance_id!r}; create it first")
        return found

    async def _trajectory(self, instance: _Instance, agent_data: object) -> Trajectory:
        shed = await self._shed()
        if agent_data is not None:
            kept = _trajectories.setdefault(shed, Trajectories())
            return kept.of(
                agent_data,
                lambda: Trajectory(shed, Start.of_record(agent_data, instance.given)),
            )
        if instance.alone is None:
            instance.alone = Trajectory(shed, Start.read(instance.given))
        return instance.alone

    async def _shed(self) -> Toolshed:
        given = self.settings
        shed = await opened(given.tools, given.address, given.host, given.namespace)
        known_name(self._function, shed.tools.methods, "tool")
        return shed

    @property
    def _function(self) -> str:
        """Dotted name of what is called."""
        return self.settings.function_name or self.name

    async def _call(self, trajectory: Trajectory, parameters: dict[str, object]) -> ToolResult:
        name, limit_s = self._function, self.settings.timeout
        written = {key: trajectory.as_written(value) for key, value in parameters.items()}
        call = ToolCall(id=uuid.uuid4().hex, name=name, arguments=written)
        wrong = _wrong_index(written, len(trajectory.session.images))
        if wrong is not None:
            return _without_answer(call, "refused", "bad_image_index", wrong)
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                result = await trajectory.session.call(call)
        except TimeoutError:
            result = None
        # A tool in this process cannot be interrupted, but it has spent its budget all the same.
        late = limit_s is not None and time.perf_counter() - started_s > limit_s
        if result is None or late:
            told = f"{name} took longer than {limit_s:g} s"
            return _without_answer(call, "failed", "timeout", told)
        return result

    def _answered(self, result: ToolResult) -> bool:
        """Whether the tool did its work; not to find what was asked for is an answer, too."""
        return result.status == "ok" or result.reason == "not_found"

    def _reward_of(self, answered: bool) -> float:
        reward = self._reward if self.settings.reward is None else self.settings.reward
        return reward if answered else self.settings.reward_refused

    def _text(self, result: ToolResult) -> str:
        return result.text

    def _told(
        self, result: ToolResult, ledger: Ledger, answered: bool
    ) -> tuple[ToolResponse, dict[str, object]]:
        metrics: dict[str, object] = {
            "toolshed_calls": ledger.num_calls,
            "function_name": result.name,
            "status": result.status,
            "reason": result.reason,
            "timings": dataclasses.asdict(result.timings),
        }
        if answered:
            pictures: list[object] = [to_pil(each) for each in result.images]
            # verl's own class takes no None for pictures.
            brought = {"image": pictures} if pictures else {}
            return ToolResponse(text=self._text(result), **brought), metrics
        message = result.text.removeprefix("Error: ")
        metrics["error"] = message
        # What broke in our machinery is for people; a model could only learn our accidents.
        text = _FAILED if result.status == "failed" else f"Error: {message}"
        return ToolResponse(text=text), metrics


class ToolshedMethodTool(_ToolshedTool):
    """One function of a tool config."""

    _kind, _reward, _cap = "method", 0.1, 1.0

    async def calc_reward(self, instance_id: str, **kwargs: object) -> float:
        """What the calls of the trajectory have earned so far, capped."""
        cap = self._cap if self.settings.reward_cap is None else self.settings.reward_cap
        return min(self._instance(instance_id).ledger.total_reward, cap)


class ToolshedCodeTool(_ToolshedTool):
    """``execute_python(code)``: a program, run by the family ``code_executor``."""

    _kind, _reward, _cap = "code", 0.2, 2.0

    @property
    def _function(self) -> str:
        return _CODE

    async def calc_reward(self, instance_id: str, **kwargs: object) -> float:
        """The share of programs without errors, times what all of them would have earned."""
        ledger = self._instance(instance_id).ledger
        cap = self._cap if self.settings.reward_cap is None else self.settings.reward_cap
        if ledger.num_calls == 0:
            return 0.0
        share = ledger.num_answered / ledger.num_calls
        return share * min(self._reward_of(True) * ledger.num_calls, cap)

    def _answered(self, result: ToolResult) -> bool:
        run = result.value
        return result.status == "ok" and not (isinstance(run, CodeRun) and run.stderr.strip())

    def _text(self, result: ToolResult) -> str:
        run = result.value
        if not isinstance(run, CodeRun):
            return result.text
        kept = "" if run.result is None else replies.hint_of(f"$result ({code_text.form(run)})")
        return clean(code_text.released(run, kept, _LABELS))

    def _told(
        self, result: ToolResult, ledger: Ledger, answered: bool
    ) -> tuple[ToolResponse, dict[str, object]]:
        response, metrics = super()._told(result, ledger, answered)
        if result.status == "ok" and not answered:
            # A program that ended with an error has been run, and its output tells why.
            response = ToolResponse(text=self._text(result))
        return response, metrics


def _without_answer(call: ToolCall, status: Status, reason: str, text: str) -> ToolResult:
    return ToolResult(call_id=call.id, name=call.name, status=status, reason=reason, text=text)


def _wrong_index(arguments: Mapping[str, Json], num_images: int) -> str | None:
    """The published text for an index that is none."""
    if "image_index" not in arguments:
        return None
    index = arguments["image_index"]
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < num_images:
        return None
    shown = json.dumps(index)[:60]
    return f"image_index={shown} but only {num_images} images available in conversation"


def get_toolshed_tool_wrappers(
    router_name: str = ROUTER_NAME,
    namespace: str | None = None,
    *,
    tools: str | None = None,
    address: str | None = None,
) -> dict[str, Callable[..., ToolResult]]:
    """Every tool as a function of keyword arguments, by dotted name.

    All of them share one session, so that one reads the variables of another. They block until the
    answer is there. Raises ConfigError where there are no such tools.
    """
    shed = run_now(opened(tools, address, None, namespace))
    session = shed.session()

    def function(name: str) -> Callable[..., ToolResult]:
        def call(**arguments: Json) -> ToolResult:
            made = ToolCall(id=uuid.uuid4().hex, name=name, arguments=arguments)
            result = session.call_now(made)
            if result.status == "failed":
                raise ToolFailure(result.reason, result.text)
            return result

        call.__name__ = name
        return call

    return {spec.name: function(spec.name) for spec in shed.specs}


def _gone(name: str, instead: str) -> Callable[..., NoReturn]:
    def removed(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"{name} is no longer there; {instead}")

    return removed


_EXPORT = "write the tool file with: toolshed schemas CONFIG --format verl"
get_toolshed_tool_schemas = _gone("get_toolshed_tool_schemas", _EXPORT)
get_verl_tool_schemas = _gone("get_verl_tool_schemas", _EXPORT)
create_verl_tool_configs = _gone("create_verl_tool_configs", _EXPORT)
