"""Stand-ins for what verl's tools are made of, with the same names, where verl is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolshed.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ToolResponse:
    """What a tool tells the loop; None stands for nothing of a kind."""

    text: str | None = None
    image: list[object] | None = None
    video: list[object] | None = None


class BaseTool:
    """Holds what the loop reads: the configuration, the schema and the name."""

    def __init__(self, config: dict[str, object], tool_schema: object) -> None:
        self.config = config
        self.tool_schema = tool_schema
        self.name = schema_name(tool_schema)


def schema_name(tool_schema: object) -> str:
    """Name of the function that a schema describes: a mapping, or verl's own schema class."""
    if isinstance(tool_schema, Mapping):
        function = tool_schema.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
    else:
        # verl's class is not ours to import.
        name = getattr(getattr(tool_schema, "function", None), "name", None)
    if not isinstance(name, str):
        raise ConfigError("a tool entry needs tool_schema.function.name")
    return name
