"""Tools for vision-language models: what they see, who answers, and one session per episode.

The names below are loaded when they are first used; importing the package loads none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolshed.chat import parse_calls, system_prompt, write_call, write_replies
    from toolshed.config import ToolshedConfig, check_home, load_tools
    from toolshed.errors import ConfigError, ToolFailure, ToolRefusal, ToolshedError
    from toolshed.images import ImageSource, load_image
    from toolshed.session import Session
    from toolshed.shed import Toolshed
    from toolshed.tool import Family
    from toolshed.toolset import ToolSet
    from toolshed.types import Message, ToolCall, ToolImage, ToolResult, ToolSpec

_HOMES = {
    "chat": ["parse_calls", "system_prompt", "write_call", "write_replies"],
    "config": ["ToolshedConfig", "check_home", "load_tools"],
    "errors": ["ConfigError", "ToolFailure", "ToolRefusal", "ToolshedError"],
    "images": ["ImageSource", "load_image"],
    "session": ["Session"],
    "shed": ["Toolshed"],
    "tool": ["Family"],
    "toolset": ["ToolSet"],
    "types": ["Message", "ToolCall", "ToolImage", "ToolResult", "ToolSpec"],
}

__all__ = [
    "ConfigError",
    "Family",
    "ImageSource",
    "Message",
    "Session",
    "ToolCall",
    "ToolFailure",
    "ToolImage",
    "ToolRefusal",
    "ToolResult",
    "ToolSet",
    "ToolSpec",
    "Toolshed",
    "ToolshedConfig",
    "ToolshedError",
    "check_home",
    "load_image",
    "load_tools",
    "parse_calls",
    "system_prompt",
    "write_call",
    "write_replies",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return vars(importlib.import_module(f"toolshed.{module}"))[name]
    raise AttributeError(f"module 'toolshed' has no attribute {name!r}")
