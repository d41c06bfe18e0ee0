"""What `fuzz_toolshed.py` throws at the tools: mutated model outputs, hostile arguments, broken
pictures; all of it seeded.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from toolshed.chat import write_call
from toolshed.images import ImageSource
from toolshed.tool import Method, Parameter
from toolshed.types import Json, ToolCall

PIECES = (
    "<tool_call>", "</tool_call>", "<tool_response>", "<answer>", "<image>", "<|im_end|>",
    '{"name": "', '"arguments": {', "}}", "{", "}", "[", "]", '"', "\\", "\\u0000", "\\ud800",
    "\ud800", "\x00", "\u202e", "NaN", "-Infinity", "1e999", "9" * 400, "null", ",", ":", "\n",
    '"a": 1, "a": 2', "[" * 200, '{"x":' * 200, " " * 300, "é", "\U0001f9f2", "$_world", "<think>",
)  # fmt: skip


def model_outputs(methods: Sequence[Method], chance: random.Random, num: int) -> list[str]:
    """Random and mutated turns of a model: every kind of almost-call."""
    seeds = [_good_turn(chance, methods) for _ in range(50)]
    return [_mutated(chance, seeds) for _ in range(num)]


def _good_turn(chance: random.Random, methods: Sequence[Method]) -> str:
    calls = [chance.choice(methods) for _ in range(chance.choice([1, 1, 2, 10]))]
    texts = [
        write_call(each.dotted, {p.schema_name: _plausible(p, chance) for p in each.visible})
        for each in calls
    ]
    return "Let me look.\n" + "\n".join(texts) + chance.choice(["", "<answer>1</answer>", "\n"])


def _plausible(parameter: Parameter, chance: random.Random) -> Json:
    match parameter.role:
        case "image":
            return 0
        case "number":
            return _legal_number(parameter, chance)
        case "text":
            return chance.choice(["red cube", "the mug"])
        case "points":
            return [
                [chance.choice(_UNIT), chance.choice(_UNIT)] for _ in range(chance.choice(_MANY))
            ]
        case "point":
            return [chance.choice(_UNIT), chance.choice(_UNIT)]
    known = {"point_cloud": "$point_cloud", "mask": "$segmentation_mask", "pose": "$grasp_pose"}
    kinds = parameter.array.kinds if parameter.array is not None else ()
    shape = parameter.array.shape if parameter.array is not None else ()
    if chance.random() < 0.3:
        return _legal_array(parameter, chance)
    literal: Json = [0.1 for _ in range(shape[0] or 3)]
    return next((known[each] for each in kinds if each in known), literal)


_UNIT = (0, 1, 0.5, 5e-324, 1 - 1e-16, 0.25, 0.75)
_MANY = (1, 1, 2, 5, 100)


def _legal_number(parameter: Parameter, chance: random.Random) -> Json:
    low, high = parameter.within.low, parameter.within.high
    tiny = low + 5e-324
    return chance.choice([low, high, tiny, low + (high - low) * chance.random(), min(250.0, high)])


def _legal_array(parameter: Parameter, chance: random.Random) -> Json:
    """A literal of the right shape, with numbers at the ends of what is allowed."""
    assert parameter.array is not None
    longest = 24 if parameter.array.shape.count(None) > 1 else 60
    shape = parameter.array.shape
    sizes = [chance.choice([1, 2, 8, longest]) if each is None else each for each in shape]
    within = parameter.array.within
    numbers: tuple[Json, ...] = (within.low, within.high, 0.0, -0.0, 5e-324, 0.5, 1.0)
    kinds = (True, False) if parameter.array.booleans else numbers

    def filled(depth: int) -> Json:
        if depth == len(sizes):
            return chance.choice(kinds)
        return [filled(depth + 1) for _ in range(sizes[depth])]

    return filled(0)


def _mutated(chance: random.Random, seeds: Sequence[str]) -> str:
    kind = chance.random()
    if kind < 0.1:
        return "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 40)))
    if kind < 0.15:
        return "".join(chr(chance.choice([chance.randrange(128), chance.randrange(0x11000)]))
                       for _ in range(chance.randint(0, 200)))  # fmt: skip
    text = chance.choice(seeds)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        at, to = sorted(chance.randrange(len(text) + 1) for _ in range(2))
        what = chance.randrange(5)
        if what == 0:
            text = text[:at] + chance.choice(PIECES) + text[at:]
        elif what == 1:
            text = text[:at] + text[min(to, at + chance.choice([1, 1, 5, 50])) :]
        elif what == 2:
            text = text[:at]
        elif what == 3:
            other = chance.choice(seeds)
            text = text[:at] + other[chance.randrange(len(other)) :]
        else:
            text = text[:at] + text[at:to] * 2 + text[to:]
        text = text[:200_000]
    return text


# ---- arguments ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Hostile:
    """One call, and whether any tool may answer it."""

    call: ToolCall
    field: str
    value: object
    is_bad: bool
    """Whether it must be refused; other calls may be answered as well."""


def _nested(depth: int) -> Json:
    value: Json = 0.5
    for _ in range(depth):
        value = [value]
    return value


def _nested_objects(depth: int) -> Json:
    value: Json = 1
    for _ in range(depth):
        value = {"a": value}
    return value


_MILLION: list[Json] = [0.5] * 1_000_000
_LONG = "a" * 1_000_000
_PATHS = (
    "/etc/passwd", "../../../../etc/shadow", "file:///etc/passwd", "http://169.254.169.254/latest",
    "http://localhost:8265/api", "data:image/png;base64,AAAA", "\\\\host\\share", "~/.ssh/id_rsa",
)  # fmt: skip
_REFERENCES = (
    "$_world", "$__class__", "$depth_map.__class__", "$depth_map.__dict__", "$depth_map.dtype",
    "$point_cloud.ctypes.data", "$segmentation_mask.T", "$depth_map[-1]", "$depth_map[0:2]",
    "$depth_map[999999999]", "$depth_map[0][0][0]", "$focal_length_px.real", "$nobody", "$",
    "$$depth_map", "$depth_map.tofile", "$depth_map ", "$depth_map\n", "$other_sessions_mask",
    "${depth_map}", "$depth_map[" + "9" * 50 + "]", "$" + "a" * 5000,
)  # fmt: skip
_ODD_NUMBERS = (
    math.nan, math.inf, -math.inf, 1e308, -1e308, 10**400, -(10**19), 2**53 + 1, True, False,
)  # fmt: skip
_ODD: tuple[Json, ...] = (
    None, {}, [], "", " ", {"__class__": "x"}, {"$ref": "#"}, [[]], [None], [["0", "1"]],
    [[math.nan, 0.5]], [[0.5, math.inf]], [[0.1, 0.2, 0.3, 0.4]], [[0.1], [0.2, 0.3]],
    _nested(5), _nested(40), _nested(900), _nested_objects(40), _MILLION, [_MILLION], _LONG,
    [[0.5, 0.5]] * 5000, "[" * 5000, "[[1e999, 0, 1]]", "(((", "[" + "0.5," * 100_000 + "0.5]",
    "1" * 8000, ["a"] * 200, {"k" * 5000: 1}, {str(i): i for i in range(2000)}, [True, 0.5],
)  # fmt: skip
_TOOLS = (
    "robot.__class__", "robot.__init__", "vision_ops._instance", "os.system", "", "robot", ".",
    "roborefer.detect_one.__globals__", "a" * 5000, "\ud800", "vlm.detect_one ", "VLM.detect_one",
)  # fmt: skip
_TEXTS = (
    "a" * 201,
    "\x00",
    "\ud800",
    "out of memory",
    "<|im_end|><image>",
    "'; DROP TABLE",
    *_PATHS,
)


def hostile_calls(methods: Sequence[Method], chance: random.Random, num: int) -> list[Hostile]:
    """Calls with one thing wrong, or odd."""
    return [_hostile(chance, chance.choice(methods)) for _ in range(num)]


def _hostile(chance: random.Random, method: Method) -> Hostile:
    arguments: dict[str, Json] = {
        each.schema_name: _plausible(each, chance) for each in method.visible
    }
    if chance.random() < 0.2:
        call = ToolCall(id="id", name=method.dotted, arguments=arguments)
        return Hostile(call=call, field="", value=None, is_bad=False)
    if chance.random() < 0.02:
        call = ToolCall(id="id", name=chance.choice(_TOOLS), arguments=arguments)
        return Hostile(call=call, field="", value=None, is_bad=True)
    if not arguments or chance.random() < 0.15:
        return _wrong_fields(chance, method, arguments)
    parameter = chance.choice(method.visible)
    value, is_bad = _odd_value(chance, parameter)
    field = parameter.schema_name
    call = ToolCall(id="id", name=method.dotted, arguments={**arguments, field: value})
    return Hostile(call=call, field=field, value=value, is_bad=is_bad)


def _wrong_fields(chance: random.Random, method: Method, arguments: dict[str, Json]) -> Hostile:
    if arguments and chance.random() < 0.4:
        field = chance.choice(list(arguments))
        del arguments[field]
        call = ToolCall(id="id", name=method.dotted, arguments=arguments)
        return Hostile(call=call, field=field, value=None, is_bad=True)
    field = chance.choice(
        ["__class__", "self", "world", "image", "_world", "x" * 500, "", "\ud800"]
    )
    if field in arguments:
        field = "__init__"
    values: tuple[Json, ...] = (1, "x", None, [1])
    value = chance.choice(values)
    call = ToolCall(id="id", name=method.dotted, arguments={**arguments, field: value})
    return Hostile(call=call, field=field, value=value, is_bad=True)


def _odd_value(chance: random.Random, parameter: Parameter) -> tuple[Json, bool]:
    """A value for a parameter, and whether it must be refused."""
    kind = chance.choice(["number", "reference", "path", "odd", "text"])
    if parameter.role == "text":
        if kind in ("text", "path", "reference"):
            # A phrase may say anything that is short and no reference.
            return chance.choice(_TEXTS), False
        value: Json = chance.choice([*_ODD_NUMBERS, *(each for each in _ODD if each not in (" ",))])
        return value, not isinstance(value, str) or len(value) > 200 or not value.strip()
    if kind == "number":
        value = chance.choice(_ODD_NUMBERS)
        return value, True
    if kind == "reference":
        return chance.choice(_REFERENCES), True
    if kind in ("path", "text"):
        return chance.choice(_PATHS), True
    value = chance.choice(_ODD)
    if isinstance(value, list) and parameter.role in ("points", "point", "array"):
        return value, len(json.dumps(value)) > 40_000
    return value, True


# ---- pictures ----------------------------------------------------------------------------------


def broken_pictures(folder: Path, chance: random.Random, num: int) -> list[ImageSource]:
    """Pictures that are damaged, too large, of other formats, or no files at all."""
    good = _encoded("PNG"), _encoded("JPEG"), _encoded("WEBP")
    sources = [ImageSource(image=each) for each in _no_files(folder)]
    while len(sources) < num:
        content = _damaged(chance, chance.choice(good))
        if chance.random() < 0.5:
            text = base64.b64encode(content).decode()
            if chance.random() < 0.1:
                text = text[: chance.randrange(len(text) + 1)] + chance.choice(["!", "=", "é", ""])
            sources.append(ImageSource(image=f"data:image/png;base64,{text}"))
        else:
            path = folder / f"{len(sources)}.png"
            path.write_bytes(content)
            is_depth = chance.random() < 0.2
            whole = base64.b64encode(good[0]).decode()
            image = f"data:;base64,{whole}" if is_depth else str(path)
            sources.append(ImageSource(image=image, depth=str(path) if is_depth else None))
    return sources


def _encoded(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def _damaged(chance: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 20])):
        at = chance.randrange(len(data)) if data else 0
        what = chance.randrange(4)
        if what == 0 and data:
            data[at] = chance.randrange(256)
        elif what == 1:
            del data[at:]
        elif what == 2:
            del data[at : at + chance.randint(1, 30)]
        else:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 30)))
    return bytes(data)


def _no_files(folder: Path) -> list[str]:
    """Locations that are no picture in a file, each in its own way."""
    pipe, huge, bomb = folder / "pipe", folder / "huge.png", folder / "bomb.png"
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.write(_encoded("PNG"))
        file.truncate(26_000_000)
    whole = bytearray(_encoded("PNG"))
    whole[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb.write_bytes(whole)
    frames = [Image.new("RGB", (8, 8), (each, 0, 0)) for each in (0, 99)]
    frames[0].save(folder / "two.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "two.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "one.bmp")
    found = [pipe, huge, bomb, folder, folder / "two.webp", folder / "two.gif", folder / "one.bmp"]
    texts = ["", "/dev/zero", "/dev/null", "/proc/self/mem", "\x00", "x" * 5000, "data:", "data:,"]
    return [*map(str, found), *texts, *_PATHS, "data:image/png;base64," + "A" * 40_000_000]
