"""The program inside the sandbox: takes code over its one socket, binds its own hands, runs it.

A copy of this file and of ``codec.py`` lies in the box; of the rest of the library the box knows
nothing. Standard input is the socket: it brings code and variables, carries tool calls out, and
takes the result. Whatever the code does to this process is the code's own loss.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import linecache
import os
import platform
import resource
import struct
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

_CODE = "<code>"
_MAIN = os.getpid()
_PREPARED = ("json", "time", "math", "datetime", "random", "re")


def main() -> None:
    sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
    codec = importlib.import_module("codec")
    channel = Channel(os.dup(0), codec)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    start = channel.receive()
    bind_hands(start["limits"])
    # Every error of the code ends here, whatever it is derived from.
    sys.excepthook = lambda kind, error, trace: _end(channel, error=told(error))
    names = prepared_names(start["variables"], Tools(channel, start["tools"]))
    try:
        found = run(start["code"], start["mode"], names)
        _end(channel, result=found)
    except SystemExit:
        _end(channel)


def _end(channel: Channel, *, result: object = None, error: str = "") -> None:
    if os.getpid() != _MAIN:
        os._exit(0)  # a process that the code started: the result is its parent's
    kind, value = storable(result)
    text = "" if result is None else str(result)
    sys.stdout.flush()
    sys.stderr.flush()
    length, shown = len(text), text[:1000]
    channel.send(
        {"do": "end", "kind": kind, "value": value, "text": shown, "length": length, "error": error}
    )
    # Threads that the code left behind are not waited for.
    os._exit(0)


class Channel:
    """Frames of the codec over a descriptor."""

    def __init__(self, number: int, codec: types.ModuleType) -> None:
        self._number = number
        self._codec: Any = codec

    def send(self, message: object) -> None:
        for piece in self._codec.to_frame(message):
            view = memoryview(piece).cast("B")
            while view:
                view = view[os.write(self._number, view) :]

    def receive(self) -> Any:
        header, buffers = self._codec.frame_lengths(self._read(self._codec.FRAME_START))
        return self._codec.from_frame(bytes(self._read(header)), self._read(buffers))

    def _read(self, size: int) -> bytearray:
        found = bytearray()
        while len(found) < size:
            piece = os.read(self._number, min(size - len(found), 1 << 20))
            if not piece:
                raise SystemExit
            found += piece
        return found


# ---- the code ---------------------------------------------------------------------------------


def prepared_names(variables: dict[str, Any], tools: Tools) -> dict[str, Any]:
    numpy = importlib.import_module("numpy")
    names = {name: importlib.import_module(name) for name in _PREPARED}
    # What arrives are views that may not be written; the code gets its own.
    own = {
        name: numpy.array(value) if isinstance(value, numpy.ndarray) else value
        for name, value in variables.items()
    }
    given = {"np": numpy, "numpy": numpy, "tools": tools, "toolkit": tools}
    return {"__name__": "__main__", "__builtins__": builtins, **names, **given, **own}


def run(code: str, mode: str, names: dict[str, Any]) -> object:
    """Value of the last expression, else what the code calls ``result``. Compiled whole before
    anything runs, so that code with a syntax error does nothing."""
    linecache.cache[_CODE] = (len(code), None, code.splitlines(keepends=True), _CODE)
    if mode == "eval":
        return eval(compile(code.strip(), _CODE, "eval"), names)
    tree = ast.parse(code, _CODE)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        body = compile(ast.Module(tree.body[:-1], tree.type_ignores), _CODE, "exec")
        tail = compile(ast.Expression(last.value), _CODE, "eval")
        exec(body, names)
        found = eval(tail, names)
        return names.get("result") if found is None else found
    exec(compile(tree, _CODE, "exec"), names)
    return names.get("result")


def told(error: BaseException) -> str:
    """A traceback of the code's own lines."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == _CODE]
    lines = traceback.format_exception_only(type(error), error)
    if frames:
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames), *lines]
    return "".join(lines)


def storable(value: Any) -> tuple[str, Any]:
    """Kind and plain form of a result that a session can keep; an empty kind for any other."""
    numpy = importlib.import_module("numpy")
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, bool):
        return "", None
    if isinstance(value, int | float):
        return ("number", value) if abs(value) <= 2**53 else ("", None)
    if type(value).__module__.partition(".")[0] == "PIL" and callable(
        vars(type(value)).get("load")
    ):
        value = numpy.asarray(value.convert("RGB"))
    if isinstance(value, numpy.ndarray):
        if value.dtype.kind not in "biuf":
            return "", None
        picture = value.dtype == numpy.uint8 and value.ndim == 3 and value.shape[2] == 3
        return ("image" if picture else "array"), value
    if isinstance(value, list | tuple):
        listed = plain(value)
        return ("", None) if listed is None else ("list", listed)
    return "", None


def plain(value: Any) -> Any:
    """Lists of JSON values as such; None where something else is among them."""
    numpy = importlib.import_module("numpy")
    if isinstance(value, numpy.generic | numpy.ndarray):
        value = value.tolist()
    if isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, list | tuple):
        return None
    found = [plain(each) for each in value]
    return None if any(each is None for each in found) else found


# ---- tools ------------------------------------------------------------------------------------


class ToolError(Exception):
    """A tool declined a call; ``reason`` is a word, the message says why."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Reply(types.SimpleNamespace):
    """What a tool returned: its fields by name, and ``text``, what the model would have read."""


class Tools:
    """The session's tools, ``tools.FAMILY.METHOD(...)``; ``"$name"`` is a session variable."""

    def __init__(self, channel: Channel, shown: dict[str, list[str]]) -> None:
        families: dict[str, dict[str, Callable[..., Reply]]] = {}
        for dotted, fields in shown.items():
            family, _, method = dotted.partition(".")
            families.setdefault(family, {})[method] = _tool(channel, dotted, fields)
        for family, methods in families.items():
            setattr(self, family, types.SimpleNamespace(**methods))
        self.Error = ToolError

    def __getattr__(self, name: str) -> Any:
        known = ", ".join(each for each in vars(self) if each != "Error") or "none"
        raise AttributeError(f"no tools of family {name!r}; families: {known}")


def _tool(channel: Channel, dotted: str, fields: list[str]) -> Callable[..., Reply]:
    def call(*values: object, **named: object) -> Reply:
        if len(values) > len(fields):
            raise TypeError(f"{dotted} takes {', '.join(fields) or 'no arguments'}")
        given = dict(zip(fields, values, strict=False))
        twice = [name for name in named if name in given]
        if twice:
            raise TypeError(f"{dotted}: {twice[0]} is given twice")
        arguments = {name: _sent(dotted, name, each) for name, each in {**given, **named}.items()}
        channel.send({"do": "call", "name": dotted, "arguments": arguments})
        reply = channel.receive()
        if reply["status"] != "ok":
            raise ToolError(reply["reason"], reply["text"])
        return Reply(**{**reply["value"], "text": reply["text"]})

    call.__name__ = call.__qualname__ = dotted
    return call


def _sent(dotted: str, name: str, value: Any) -> Any:
    found = value if value is None or isinstance(value, dict) else plain(value)
    if found is None and value is not None:
        raise TypeError(
            f"{dotted}: {name} is no JSON value and no array but {type(value).__name__}"
        )
    return found


# ---- hands ------------------------------------------------------------------------------------


def bind_hands(limits: dict[str, Any]) -> None:
    """Give up, for good, what the code must not have. The launcher watches what this cannot."""
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_CPU, int(limits["cpu_s"]) + 1)
    _set(resource.RLIMIT_FSIZE, limits["disk_bytes"])
    _set(resource.RLIMIT_NOFILE, 128)
    _set(resource.RLIMIT_DATA, limits["memory_bytes"])
    if limits["tasks"] is not None:
        _set(resource.RLIMIT_NPROC, limits["tasks"])
    libc = ctypes.CDLL(None, use_errno=True)
    drop_capabilities(libc)
    deny_calls(libc)


def _set(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    found = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (found, found))


def drop_capabilities(libc: ctypes.CDLL) -> None:
    """Of root; nobody else has any."""
    for number in range(64):
        libc.prctl(24, number, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


# Sockets, shared memory that no limit counts, other processes, keys, mounts, name spaces, io_uring.
# fmt: off
_DENIED: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, (
        41, 42, 49, 29, 64, 68, 319, 447, 101, 310, 311, 424, 434, 438, 62, 200, 129, 297,
        248, 249, 250, 165, 166, 155, 161, 272, 308, 304, 321, 323, 298, 425, 428, 442,
        141, 251, 256, 279, 312, 440, 448,
    )),
    "aarch64": (0xC00000B7, (
        198, 203, 200, 194, 190, 186, 279, 447, 117, 270, 271, 424, 434, 438, 129, 130, 138, 240,
        217, 218, 219, 40, 39, 41, 51, 97, 268, 265, 280, 282, 241, 425, 428, 442,
        140, 30, 238, 239, 272, 440, 448,
    )),
}
# fmt: on

_SIGNAL: dict[str, int] = {"x86_64": 234, "aarch64": 131}
"""tgkill, by which a program also raises signals of its own: for the own process alone."""
_ABOUT: dict[str, tuple[int, ...]] = {
    "x86_64": (302, 203, 144, 142, 314),
    "aarch64": (261, 122, 119, 118, 274),
}
"""prlimit64, sched_setaffinity and the like: about the own process, also called 0, alone."""
_OWNERS: dict[str, tuple[tuple[int, tuple[int, ...]], ...]] = {
    "x86_64": ((72, (8, 10, 15)), (16, (0x8901, 0x8902))),
    "aarch64": ((25, (8, 10, 15)), (29, (0x8901, 0x8902))),
}
"""fcntl and ioctl, which name who is sent a signal, any signal, when a pipe has news."""
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_LOAD, _EQUAL, _ABOVE, _END = 0x20, 0x15, 0x35, 0x06
_Step = tuple[int, int, int, int]


def deny_calls(libc: ctypes.CDLL) -> bool:
    """Deny system calls that no computation needs; whether this machine could."""
    known = _DENIED.get(platform.machine())
    if known is None:
        return False
    architecture, numbers = known
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_END, 0, 0, _KILL)]
    program += [(_LOAD, 0, 0, 0), *_conditions(platform.machine(), os.getpid())]
    program += [(_ABOVE, len(numbers) + 1, 0, 0x40000000)]
    program += [(_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(_END, 0, 0, _ALLOW), (_END, 0, 0, _DENY)]
    packed = b"".join(struct.pack("<HBBI", *each) for each in program)
    text = ctypes.create_string_buffer(packed, len(packed))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    filled = Program(len(program), ctypes.cast(text, ctypes.c_void_p))
    if libc.prctl(38, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(22, 2, ctypes.byref(filled), 0, 0) == 0)


def _conditions(machine: str, own: int) -> list[_Step]:
    """What is denied for some arguments alone; a process that the code starts is another one."""
    steps = _unless(_SIGNAL[machine], 0, (own,), hit=_ALLOW, miss=_DENY)
    for number in _ABOUT[machine]:
        steps += _unless(number, 0, (0, own), hit=_ALLOW, miss=_DENY)
    for number, commands in _OWNERS[machine]:
        steps += _unless(number, 1, commands, hit=_DENY, miss=_ALLOW)
    return steps


def _unless(
    number: int, argument: int, values: tuple[int, ...], *, hit: int, miss: int
) -> list[_Step]:
    """Ends with ``hit`` for a call whose argument is one of the values, else with ``miss``; goes on
    for other calls. Both machines are little-endian: the lower half, all that the kernel reads of
    these arguments, comes first."""
    tests = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    steps = [(_LOAD, 0, 0, 16 + 8 * argument), *tests, (_END, 0, 0, miss), (_END, 0, 0, hit)]
    return [(_EQUAL, 0, len(steps), number), *steps]


if __name__ == "__main__":
    main()
