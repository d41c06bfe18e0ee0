"""Where verl is installed its own classes are used; here by stand-ins with its rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_VERL = """
from pydantic import BaseModel, model_validator

class ToolResponse(BaseModel):
    text: str | None = None
    image: list | None = None
    video: list | None = None

    @model_validator(mode="before")
    @classmethod
    def lists(cls, values):
        assert all(isinstance(values.get(key, []), list) for key in ("image", "video"))
        return values

class OpenAIFunctionSchema(BaseModel):
    name: str

class OpenAIFunctionToolSchema(BaseModel):
    type: str
    function: OpenAIFunctionSchema
"""
_BASE = """
class BaseTool:
    def __init__(self, config, tool_schema):
        self.config, self.tool_schema = config, tool_schema
        self.name = tool_schema.function.name
"""
_USE = """
import asyncio
from toolshed.integration.verl import ToolResponse, ToolshedMethodTool
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse as Theirs
assert ToolResponse is Theirs and issubclass(ToolshedMethodTool, BaseTool)
schema = {"type": "function", "function": {"name": "robot.capture_image"}}
made = ToolshedMethodTool({"tools": "light"}, OpenAIFunctionToolSchema.model_validate(schema))

async def loop():
    instance, first = await made.create(create_kwargs={"scene": 7})
    assert first == Theirs()
    return await made.execute(instance, {})

response, reward, metrics = asyncio.run(loop())
print(response.text, len(response.image), reward, metrics["status"])
"""


def test_verls_own_classes_are_used_where_it_is_installed(tmp_path: Path) -> None:
    tools = tmp_path / "verl" / "tools"
    tools.mkdir(parents=True)
    (tools / "schemas.py").write_text(_VERL)
    (tools / "base_tool.py").write_text(_BASE)
    done = subprocess.run(
        [sys.executable, "-c", _USE],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "Captured image: 448×336 pixels. 1 0.1 ok", done.stderr
