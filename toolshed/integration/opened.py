"""The tools that an agent loop's process uses: opened once, shared by all of its tools."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Literal

from toolshed.config import ToolshedConfig, load_tools, replaced
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed

_Key = tuple[str | None, str | None, Literal["local", "ray"] | None, str | None]
_EVERYTHING = "v2"
"""Of this config every released tool file shows a part."""
_lock = threading.Lock()
_opened: dict[_Key, Toolshed] = {}
_provided: list[Toolshed] = []


def provide(shed: Toolshed | None) -> None:
    """Let entries that name neither tools nor an address use these tools, which stay yours."""
    _provided[:] = [] if shed is None else [shed]


async def opened(
    tools: str | None,
    address: str | None,
    host: Literal["local", "ray"] | None,
    namespace: str | None,
) -> Toolshed:
    """The tools of an entry; what has to be opened first is opened in a thread of its own."""
    if tools is None and address is None and _provided:
        return _provided[0]
    key = (tools, address, host, namespace)
    found = _opened.get(key)
    if found is not None:
        return found
    return await asyncio.to_thread(_open, key)


def close_all() -> None:
    """Close what was opened here."""
    with _lock:
        while _opened:
            _opened.popitem()[1].close()


def _open(key: _Key) -> Toolshed:
    with _lock:
        if key not in _opened:
            _opened[key] = Toolshed.open(_config(key))
        return _opened[key]


def _config(key: _Key) -> ToolshedConfig:
    tools, address, host, namespace = key
    config = load_tools(tools or _EVERYTHING)
    if namespace is not None:
        config = replaced(config, {"namespace": namespace})
    if host is not None:
        config = replaced(config, {"host": host})
    if address is None and tools is not None:
        return config
    where = address or _address_of_this_process()
    return replaced(config, {"host": "ray", "ray_address": where})


def _address_of_this_process() -> str:
    """Of the Ray cluster that this process is part of, as a loop's workers are."""
    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            return str(ray.get_runtime_context().gcs_address)
    raise ConfigError(
        "a tool entry names no tools: write config.tools (a word such as 'light', or a path), or "
        "config.address of running tools, or start it in the Ray cluster of running tools"
    )
