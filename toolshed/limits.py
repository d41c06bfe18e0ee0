"""How much a model may send, in one place: texts, calls, arguments, pictures.

``docs/SECURITY.md`` prints this table; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolshed.errors import ToolRefusal
from toolshed.types import Json

MESSAGE_CHARS = 65_536
"""Of one assistant turn, scanned for calls."""
CALLS_PER_TURN = 8
CALL_CHARS = 32_768
"""Of the JSON of one call, and of all its arguments together."""
NAME_CHARS = 200
DEPTH = 16
"""Lists and objects inside each other, the object of all arguments counted."""
NODES = 1_000
"""Values in the arguments of one call, lists and objects counted as well."""
STRING_CHARS = 8_192
TEXT_CHARS = 200
"""Of an argument that is a phrase, for example an object's name."""
LIST_ENTRIES = 256
INTEGER = 2**53
IMAGE_BYTES = 25_000_000
"""Of a picture as it is stored or sent."""
IMAGE_PIXELS = 50_000_000
"""Of a picture as its header announces it, read before anything is decoded."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
IMAGE_FRAMES = 1
CLIENT_SESSIONS = 256
"""Of an MCP server, open at a time."""
CALL_IMAGES = 32
"""Pictures that an MCP client may hand in with one call."""
SESSION_IMAGES = 256
"""Pictures in one session of an MCP client."""
SESSION_IMAGE_BYTES = 256_000_000
"""Of the pictures of one such session, decoded: a file of 6 kB may hold 147 MB."""
SERVER_IMAGE_BYTES = 1_000_000_000
"""Of the pictures of all of them, decoded; room for one session's at least."""
NESTED_CALLS = 8
"""Tool calls that code of one call may make."""
CALL_DEPTH = 2
"""A tool that the model calls may call tools, and those call none."""


def check_json(arguments: Mapping[str, Json]) -> None:
    """Refuse arguments that are too large in any way, naming the field, the limit and the value.

    Safe on anything: nothing recurses, and counting stops at the first limit. What is no JSON is
    left to the checks of its field.
    """
    nodes, chars = 0, 0
    waiting: list[tuple[str, object, int]] = [("arguments", dict(arguments), 1)]
    while waiting:
        field, value, depth = waiting.pop()
        nodes += 1
        if nodes > NODES:
            raise _refusal(field, f"more than {NODES} values in one call", f"at most {NODES}")
        chars += _size(field, value, depth)
        if chars > CALL_CHARS:
            raise _refusal(
                field,
                f"arguments of more than {CALL_CHARS} characters",
                f"at most {CALL_CHARS} in one call",
            )
        if isinstance(value, list):
            waiting += [(f"{field}[{index}]", each, depth + 1) for index, each in enumerate(value)]
        elif isinstance(value, dict):
            start = "" if depth == 1 else f"{field}."
            waiting += [(f"{start}{str(key)[:40]}", each, depth + 1) for key, each in value.items()]


def _size(field: str, value: object, depth: int) -> int:
    """Characters that a value takes by itself; its own limits are checked."""
    if isinstance(value, str):
        if len(value) > STRING_CHARS:
            raise _refusal(field, f"text of {len(value)} characters", f"at most {STRING_CHARS}")
        return len(value) + 2
    if isinstance(value, list | dict):
        if depth > DEPTH:
            raise _refusal(field, f"nested {depth} levels deep", f"at most {DEPTH} levels")
        if len(value) > LIST_ENTRIES:
            what = "a list" if isinstance(value, list) else "an object"
            raise _refusal(field, f"{what} of {len(value)} entries", f"at most {LIST_ENTRIES}")
        return 2 + 2 * len(value) + sum(len(str(key)) + 2 for key in _keys(value))
    if isinstance(value, int) and abs(value) > INTEGER:
        raise _refusal(field, integer_text(value), f"integers from -{INTEGER} to {INTEGER}")
    return len(repr(value)) if isinstance(value, int | float) else 4


def _keys(value: list[object] | dict[object, object]) -> list[object]:
    return list(value) if isinstance(value, dict) else []


def integer_text(value: int) -> str:
    """An integer, or its size where it is too long to be printed."""
    if abs(value) <= 10**18:
        return str(value)
    return f"an integer of about {value.bit_length() * 0.30103:.0f} digits"


def _refusal(field: str, got: str, allowed: str) -> ToolRefusal:
    short = field if len(field) <= 60 else f"{field[:57]}..."
    return ToolRefusal("bad_argument", f"{short}: got {got}; allowed: {allowed}")
