"""Tool schemas in the forms that other programs read, and the one place where names lose their dot.

Nothing is opened, and every form is made anew: what one reader does to it no other reader sees.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, TypeAlias

from toolshed.config import ToolshedConfig, load_tools
from toolshed.toolset import ToolSet
from toolshed.types import Json, ToolSpec

Form: TypeAlias = Literal["openai", "anthropic", "mcp", "verl"]
METHOD_TOOL = "toolshed.integration.verl.ToolshedMethodTool"
"""Class that a verl configuration names."""
ROUTER_NAME, NAMESPACE = "toolshed_router", "toolshed"
_DOT, _UNDERSCORES = ".", "__"


def mangled(name: str) -> str:
    """``family__method``, for readers that take no dot in a name; other names stay as they are."""
    return name.replace(_DOT, _UNDERSCORES, 1)


def dotted(name: str) -> str:
    """``family.method`` again; a name that has its dot stays as it is."""
    return name if _DOT in name else name.replace(_UNDERSCORES, _DOT, 1)


def schemas_of(word: str, form: Form, *, mangle: bool = False) -> list[Json]:
    """Schemas of a tool config in the order of its file; ``word`` is a word or a path.

    Raises ConfigError where the config is wrong.
    """
    config = load_tools(word)
    specs = ToolSet.of(config).specs
    if form == "verl":
        return [_verl(spec, config, word) for spec in specs]
    return [_FORMS[form](spec, mangle) for spec in specs]


def function_of(spec: ToolSpec, name: str | None = None) -> dict[str, Json]:
    """The form of OpenAI's interface, under the dotted name unless another one is given."""
    function: dict[str, Json] = {
        "name": spec.name if name is None else name,
        "description": spec.description,
        "parameters": copy.deepcopy(spec.parameters),
    }
    return {"type": "function", "function": function}


def _openai(spec: ToolSpec, mangle: bool) -> Json:
    return function_of(spec, mangled(spec.name) if mangle else None)


def _anthropic(spec: ToolSpec, mangle: bool) -> Json:
    return {
        "name": mangled(spec.name),
        "description": spec.description,
        "input_schema": copy.deepcopy(spec.parameters),
    }


def _mcp(spec: ToolSpec, mangle: bool) -> Json:
    return {
        "name": mangled(spec.name),
        "description": spec.description,
        "inputSchema": copy.deepcopy(spec.parameters),
    }


_FORMS: dict[str, Callable[[ToolSpec, bool], Json]] = {
    "openai": _openai,
    "anthropic": _anthropic,
    "mcp": _mcp,
}


def _verl(spec: ToolSpec, config: ToolshedConfig, word: str) -> Json:
    """An entry of a verl tool file, whose loader takes dotted names."""
    settings: dict[str, Json] = {
        "type": "native",
        "router_name": ROUTER_NAME,
        "namespace": config.namespace,
        "function_name": spec.name,
        "timeout": round(config.families[spec.family].timeout_s),
        "tools": word,
    }
    return {"class_name": METHOD_TOOL, "config": settings, "tool_schema": function_of(spec)}
