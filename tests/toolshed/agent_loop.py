"""An agent loop as verl's users have one, without a model: turns of calls, pictures, variables."""

from __future__ import annotations

import asyncio
import json
import re

from PIL import Image

from toolshed.integration import verl
from toolshed.integration.verl import ToolshedMethodTool
from toolshed.schemas import schemas_of

_REFERENCE = re.compile(r"\$([A-Za-z_]\w*)")


class AgentData:
    """What a loop keeps of one trajectory."""

    def __init__(self, *pictures: Image.Image) -> None:
        self.image_data: list[object] = list(pictures)
        self.context_vars: dict[str, object] = {}
        self.tools_kwargs: dict[str, dict[str, object]] = {}
        self.metrics: list[dict[str, object]] = []


def method_tool(name: str, **settings: object) -> ToolshedMethodTool:
    """As a loader of tool files makes one."""
    (entry,) = [
        each["tool_schema"]
        for each in json.loads(json.dumps(schemas_of("light", "verl")))
        if each["config"]["function_name"] == name
    ]
    return ToolshedMethodTool({"type": "native", "tools": "light", **settings}, entry)


async def turn(
    data: AgentData,
    *calls: tuple[ToolshedMethodTool, dict[str, object]],
    resolve: bool = False,
    scene: int | None = 7,
) -> list[tuple[str, float]]:
    """One turn: an instance for every call, all together, then pictures and variables kept."""

    async def one(
        made: ToolshedMethodTool, parameters: dict[str, object]
    ) -> tuple[verl.ToolResponse, float, dict[str, object]]:
        instance, _ = await made.create(create_kwargs={} if scene is None else {"scene": scene})
        try:
            if resolve:
                parameters = {key: _resolved(data, value) for key, value in parameters.items()}
            return await made.execute(instance, parameters, agent_data=data)
        finally:
            await made.release(instance)

    results = await asyncio.gather(*(one(*call) for call in calls))
    for response, _, metrics in results:
        data.image_data.extend(response.image or [])
        data.metrics.append(metrics)
        kept = metrics["variables"]
        assert isinstance(kept, list)
        data.context_vars |= {each["name"]: each["value"] for each in kept}
    return [(str(response.text), reward) for response, reward, _ in results]


def _resolved(data: AgentData, value: object) -> object:
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return data.context_vars.get(match[1], value) if match else value
