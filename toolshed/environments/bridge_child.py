"""The far end of the bridge: constructs one back-end and answers for it over a socket.

Runs under Python 3.10 and later with numpy alone, beside whatever the back-end itself needs. Every
error goes back as plain words; the child outlives bugs of its back-end, and never its parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
import resource
import select
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from toolshed.backend import Batching, constructed
from toolshed.codec import FRAME_START, CodecError, frame_lengths, from_frame, to_frame
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal

Told = dict[str, Any]
"""A message: plain data, and the carriers of this library."""


def main() -> None:
    """Serve until the parent closes the socket; ``sys.argv``: numbers of socket and lifeline, and
    the limit of memory in bytes, 0 for none."""
    connection, lifeline, max_bytes = (int(word) for word in sys.argv[1:4])
    _die_with_parent(lifeline)
    if max_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
    # What a back-end prints is for the log; nothing may wait for a reader of stdout.
    os.dup2(2, 1)
    with socket.socket(fileno=connection) as parent, contextlib.suppress(EOFError):
        _serve(parent)


def _die_with_parent(lifeline: int) -> None:
    """End at once when the parent is gone, even inside C code that holds the interpreter.

    The kernel sends SIGIO when the other end of the pipe closes, and unhandled that ends a process.
    PR_SET_PDEATHSIG would end this one with the *thread* that started it.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was gone before we listened
        sys.exit(1)


def _serve(parent: socket.socket) -> None:
    hello = receive(parent)
    made: list[Any] = []

    def start() -> Told:
        made.append(_construct(hello))
        batches = isinstance(made[0], Batching)
        return {"batches": batches, "python": platform.python_version(), "numpy": np.__version__}

    answer = _guarded(start)
    write(parent, to_frame(answer))
    if answer["status"] != "ok":
        return
    methods = {name: getattr(made[0], name) for name in hello["methods"]}
    while True:
        question = receive(parent)
        _reply(parent, functools.partial(_answer, made[0], methods, question))


def _construct(hello: Told) -> Any:
    instance = constructed(hello["location"], hello["arguments"])
    for name in hello["methods"]:
        if not callable(getattr(instance, name, None)):
            raise ConfigError(f"{hello['location']} has no method {name!r}")
    return instance


def _reply(parent: socket.socket, work: Callable[[], Told]) -> None:
    answer = _guarded(work)
    try:
        frame = to_frame(answer)
    except CodecError as error:
        frame = to_frame(_bug(error))
    write(parent, frame)


def _answer(instance: Any, methods: Mapping[str, Any], asked: Told) -> Told:
    method = asked["method"]
    if asked["kind"] == "call":
        return {"value": methods[method](**asked["arguments"])}
    return {"values": _batch(instance, methods[method], method, asked["calls"])}


def _batch(
    instance: Any, alone: Callable[..., Any], method: str, calls: Sequence[Mapping[str, Any]]
) -> list[Told]:
    """Answers in order; calls are put together by the back-end's own keys, which only it knows."""
    groups: list[tuple[object, list[int]]] = []
    for number, arguments in enumerate(calls):
        key = instance.batch_key(method, arguments)
        fitting = [group for known, group in groups if key is not None and known == key]
        if fitting:
            fitting[0].append(number)
        else:
            groups.append((key, [number]))
    answers: list[Told] = [{} for _ in calls]
    for key, numbers in groups:
        if key is None:
            answers[numbers[0]] = _guarded_refusal(alone, calls[numbers[0]])
            continue
        outcomes = instance.batch(method, [calls[number] for number in numbers])
        if len(outcomes) != len(numbers):
            raise RuntimeError(f"{method}: {len(outcomes)} answers for {len(numbers)} calls")
        for number, outcome in zip(numbers, outcomes, strict=True):
            answers[number] = _outcome(outcome)
    return answers


def _guarded_refusal(method: Callable[..., Any], arguments: Mapping[str, Any]) -> Told:
    try:
        return _outcome(method(**arguments))
    except ToolRefusal as refusal:
        return _outcome(refusal)


def _outcome(outcome: Any) -> Told:
    if isinstance(outcome, ToolRefusal):
        return {"status": "refused", "reason": outcome.reason, "text": outcome.text}
    return {"status": "ok", "value": outcome}


# ---- errors as words ---------------------------------------------------------------------------


def _guarded(work: Callable[[], Told]) -> Told:
    """What the work brought, or whose error it was."""
    try:
        return {"status": "ok", **work()}
    except ToolRefusal as error:
        return {"status": "refused", "reason": error.reason, "text": error.text}
    except ToolFailure as error:
        return {"status": "failed", "reason": error.reason, "text": error.text}
    except ConfigError as error:
        return {"status": "config", "text": str(error)}
    except MemoryError as error:
        return {"status": "memory", "text": str(error) or "out of memory"}
    except TimeoutError as error:
        return {"status": "timeout", "text": str(error)}
    except Exception as error:  # a bug of the back-end, which the parent raises again
        # torch names its own so, and does not derive it from MemoryError.
        if type(error).__name__ == "OutOfMemoryError":
            return {"status": "memory", "text": str(error)}
        return _bug(error)


def _bug(error: BaseException) -> Told:
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"status": "bug", "type": type(error).__name__, "text": str(error), "traceback": told}


# ---- messages ----------------------------------------------------------------------------------


def write(
    connection: socket.socket,
    pieces: Sequence[bytes | memoryview],
    deadline_s: float | None = None,
) -> None:
    """Write the pieces of a frame; TimeoutError after the deadline (of ``time.monotonic``)."""
    for piece in pieces:
        connection.settimeout(_left_s(deadline_s))
        connection.sendall(piece)


def receive(connection: socket.socket, deadline_s: float | None = None) -> Told:
    """Read a message; EOFError where the other end is gone, TimeoutError after the deadline."""
    header_length, buffers_length = frame_lengths(bytes(_read(connection, FRAME_START, deadline_s)))
    header = bytes(_read(connection, header_length, deadline_s))
    message = from_frame(header, _read(connection, buffers_length, deadline_s))
    if not isinstance(message, dict):
        raise CodecError(f"a message is a mapping, got {type(message).__name__}")
    return message


def _read(connection: socket.socket, length: int, deadline_s: float | None) -> memoryview:
    # Memory that nobody clears first: a picture or a cloud is tens of megabytes.
    room: Any = np.empty(length, np.uint8)
    view = memoryview(room)
    place = 0
    while place < length:
        connection.settimeout(_left_s(deadline_s))
        count = connection.recv_into(view[place:])
        if count == 0:
            raise EOFError("the other end of the bridge is gone")
        place += count
    return view


def _left_s(deadline_s: float | None) -> float | None:
    if deadline_s is None:
        return None
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
