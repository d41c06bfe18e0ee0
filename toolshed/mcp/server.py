"""``toolshed serve --mcp``: the tools of a config for any client of the Model Context Protocol.

Calls go through a Session, so they are checked and end as they do for a model: a refusal is an
error of the tool, which a client's model reads; only an unknown tool is one of the protocol.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import functools
import io
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from toolshed.config import ToolshedConfig, load_tools, replaced
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.front_door import (
    add_token_flags,
    bound,
    check_interface,
    guarded,
    read_token,
    url,
)
from toolshed.limits import CALL_IMAGES
from toolshed.mcp.sessions import Pictures, Sessions
from toolshed.registry import contract_of
from toolshed.schemas import mangled
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolCall, ToolImage, ToolResult, ToolSpec

_MAX_BODY_BYTES = 64 << 20
_UNKNOWN_TOOL = -32602
"""Code that the protocol has for invalid parameters, a tool's name among them."""
_OWN = ("session", "images", "scene")


def main(arguments: Sequence[str]) -> int:
    """Serve until the client goes or an interrupt comes."""
    options = _parser().parse_args(arguments)
    place = None if options.http is None else _place(options.http)
    token = read_token(options.token, options.token_file)
    if place is not None:
        check_interface("--http", place[0], token)
    _need_sdk()
    with Toolshed.open(_config(options)) as shed:
        server = Server(shed, Pictures(options.root))
        if place is None:
            server.serve_stdio()
        else:
            server.serve_http(place, token)
    return 0


class Server:
    """The tools of an opened shed as the protocol has them."""

    def __init__(self, shed: Toolshed, pictures: Pictures) -> None:
        for spec in shed.specs:
            properties = spec.parameters["properties"]
            assert isinstance(properties, dict)
            taken = [name for name in _OWN if name in properties]
            if taken:
                raise ConfigError(
                    f"{spec.name} has a parameter {taken[0]!r}, which is the server's"
                )
        self._shed = shed
        self._pictures = pictures
        self._sessions = Sessions(shed)
        self._names = {mangled(spec.name): spec for spec in shed.specs}

    def tools(self) -> list[Any]:
        """As listed to clients, in the order of the file."""
        from mcp import types

        return [
            types.Tool(
                name=name,
                title=spec.name,
                description=f"{spec.description}\n{self._lifetime()}",
                input_schema=self._input_schema(spec),
                output_schema=_OUTPUT_SCHEMA,
                annotations=types.ToolAnnotations(
                    read_only_hint=not self._contract(spec).stateful,
                    idempotent_hint=self._contract(spec).idempotent,
                    open_world_hint=False,
                ),
            )
            for name, spec in self._names.items()
        ]

    async def call(self, name: str, arguments: dict[str, Json]) -> Any:
        """The result of one call; MCPError where there is no such tool."""
        from mcp import MCPError

        spec = self._names.get(name)
        if spec is None:
            listed = ", ".join(self._names)
            raise MCPError(_UNKNOWN_TOOL, f"unknown tool {name[:60]!r}; tools: {listed}")
        own = {key: arguments[key] for key in _OWN if arguments.get(key) is not None}
        rest = {key: value for key, value in arguments.items() if key not in _OWN}
        try:
            handle, session = self._session(own)
        except ToolRefusal as refusal:
            return _refused(refusal)
        call = ToolCall(id=uuid.uuid4().hex, name=spec.name, arguments=rest)
        result = await session.call(call)
        return _told(result, handle, session)

    def _session(self, own: dict[str, Json]) -> tuple[str, Session]:
        if "session" in own:
            if "scene" in own:
                raise ToolRefusal("bad_argument", "scene is given where a session begins")
            session = self._sessions.find(own["session"])
            session.images.extend(self._images(own, session))
            return str(own["session"]), session
        scene = own.get("scene")
        if isinstance(scene, bool) or not isinstance(scene, int | None):
            raise ToolRefusal("bad_argument", f"scene: got {scene!r:.60}; allowed: a whole number")
        return self._sessions.open(self._images(own, None), scene)

    def _images(self, own: dict[str, Json], session: Session | None) -> list[ToolImage]:
        """What a call hands in. Also without: the pictures that tools brought are counted."""
        given = own.get("images", [])
        return self._pictures.read(given, functools.partial(self._sessions.admit, session))

    def _input_schema(self, spec: ToolSpec) -> dict[str, Json]:
        properties = spec.parameters["properties"]
        assert isinstance(properties, dict)
        own = {key: value for key, value in _OWN_SCHEMAS.items() if self._needs(spec, key)}
        return {**spec.parameters, "properties": {**properties, **own}}

    def _needs(self, spec: ToolSpec, name: str) -> bool:
        return name != "scene" or self._contract(spec).stateful

    def _contract(self, spec: ToolSpec) -> Any:
        return contract_of(spec.family, self._shed.config.families[spec.family].backend)

    def _lifetime(self) -> str:
        return f"Sessions expire {self._sessions.minutes:g} minutes after their last use."

    # ---- transports ------------------------------------------------------------------------

    def serve_stdio(self) -> None:
        """Until standard input ends."""
        import anyio
        from mcp import stdio_server

        async def serve() -> None:
            server = self._sdk_server()
            async with stdio_server() as (reading, writing):
                await server.run(reading, writing, server.create_initialization_options())

        anyio.run(serve)

    def serve_http(self, place: tuple[str, int], token: str | None) -> None:
        """Until interrupted; prints where, for a port of 0 the one that was found."""
        import uvicorn

        host, port = place
        listening = bound(f"--http {host}:{port}", host, port)
        app = self._sdk_server().streamable_http_app(
            host=host, max_request_body_size=_MAX_BODY_BYTES
        )
        found = url(host, listening.getsockname()[1])
        print(f"tools: MCP at {found}/mcp", file=sys.stderr, flush=True)
        settings = uvicorn.Config(guarded(app, token), log_level="warning", access_log=False)
        uvicorn.Server(settings).run(sockets=[listening])

    def _sdk_server(self) -> Any:
        from mcp import types
        from mcp.server.lowlevel import Server as SdkServer

        async def list_tools(context: object, params: object) -> Any:
            return types.ListToolsResult(tools=self.tools())

        async def call_tool(context: object, params: Any) -> Any:
            return await self.call(params.name, params.arguments or {})

        return SdkServer(
            "toolshed",
            instructions=f"{_INSTRUCTIONS} {self._lifetime()}",
            on_list_tools=list_tools,
            on_call_tool=call_tool,
        )


# ---- results --------------------------------------------------------------------------------


def _told(result: ToolResult, handle: str, session: Session) -> Any:
    from mcp import types

    # What broke is for people; a client's model could not mend it.
    text = "the tool is not available" if result.status == "failed" else result.text
    summary: dict[str, Json] = {
        "session": handle,
        "status": result.status,
        "reason": result.reason,
        "variables": [f"${name}" for name in session.variables if not name.startswith("_")],
        "num_images": len(session.images),
        "timings": {key: round(value, 6) for key, value in _timings(result).items()},
    }
    if result.status == "failed":
        print(f"{result.name}: {result.reason}: {result.text}", file=sys.stderr, flush=True)
    content = [
        types.TextContent(text=text),
        *map(_image_content, result.images),
        types.TextContent(text=f"session: {handle}"),
    ]
    return types.CallToolResult(
        content=content, structured_content=summary, is_error=result.status != "ok"
    )


def _timings(result: ToolResult) -> dict[str, float]:
    return dataclasses.asdict(result.timings)


def _refused(refusal: ToolRefusal) -> Any:
    from mcp import types

    told = [types.TextContent(text=f"Error: {refusal.text}")]
    summary: dict[str, Json] = {"status": "refused", "reason": refusal.reason}
    return types.CallToolResult(content=told, structured_content=summary, is_error=True)


def _image_content(image: ToolImage) -> Any:
    from mcp import types

    file = io.BytesIO()
    Image.fromarray(image.pixels).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return types.ImageContent(data=data, mime_type="image/png")


_PICTURE_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "image": {"type": "string", "description": "Data URI, or path of a file on the server."},
        "depth": {"type": "string", "description": "16-bit PNG in millimetres of the same size."},
        "focal_length_px": {"type": "number", "description": "Focal length of the camera."},
    },
    "required": ["image"],
}
_OWN_SCHEMAS: dict[str, Json] = {
    "session": {
        "type": "string",
        "description": "Handle from an earlier reply, whose pictures and $variables this call is "
        "to see; leave it out to begin a new session.",
    },
    "images": {
        "type": "array",
        "items": _PICTURE_SCHEMA,
        "maxItems": CALL_IMAGES,
        "description": "Pictures that join the session before this call, counted on from its own.",
    },
    "scene": {
        "type": "integer",
        "description": "Seed of the robot's world, where a session begins.",
    },
}
_OUTPUT_SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {
        "session": {"type": "string"},
        "status": {"type": "string", "enum": ["ok", "refused", "failed"]},
        "reason": {"type": "string"},
        "variables": {"type": "array", "items": {"type": "string"}},
        "num_images": {"type": "integer"},
        "timings": {"type": "object"},
    },
    "required": ["status", "reason"],
}
_INSTRUCTIONS = (
    "Tools for looking at pictures, measuring in them and acting. The first call begins a session: "
    "hand the pictures over in its argument images, and name the session that the reply tells in "
    "later calls, so that they see the same pictures and the $variables of earlier calls."
)


# ---- what was typed -------------------------------------------------------------------------


def _config(options: argparse.Namespace) -> ToolshedConfig:
    config = load_tools(options.config)
    if options.address is not None:
        return replaced(config, {"host": "ray", "ray_address": options.address})
    return config


def _place(text: str) -> tuple[str, int]:
    host, mark, port = text.rpartition(":")
    if not mark or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"--http {text!r} is no HOST:PORT, such as 127.0.0.1:8000")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _need_sdk() -> None:
    try:
        import mcp  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "serve --mcp needs the protocol's SDK: pip install 'spacetools[mcp]'"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toolshed serve --mcp",
        description="Serve the tools of a config to clients of the Model Context Protocol: over "
        "standard input and output, or over HTTP.",
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="word such as 'light', or path of a tool YAML"
    )
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        default=None,
        help="serve over HTTP; other interfaces than the loopback only with --token",
    )
    add_token_flags(parser)
    parser.add_argument(
        "--root",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder whose pictures clients may name by path; may be repeated (default: none, "
        "pictures come as data URIs)",
    )
    parser.add_argument(
        "--address", default=None, help="address of running tools, or the file that has it"
    )
    return parser


if __name__ == "__main__":
    from toolshed.command import run_command

    sys.exit(run_command(lambda: main(sys.argv[1:]), "toolshed"))
