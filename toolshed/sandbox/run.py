"""One run in a sandbox: the box is made, the code talks over its socket, everything is gone again.

Nothing of the caller reaches the child: no environment, no descriptor but its three, no file but
copies of two programs. What comes back is bounded before it is read and is taken as data.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from toolshed import codec
from toolshed.errors import ToolFailure
from toolshed.sandbox.levels import (
    PROGRAMS,
    Box,
    Finished,
    Interpreter,
    Job,
    Limits,
    Sandbox,
    environment,
    spare_user,
)

Reply: TypeAlias = dict[str, Any]
Answerer: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[Reply]]
"""Answers a tool call of the code: ``{"status", "reason", "text", "value"}``."""

_HEADER_BYTES = 4 << 20
_TOLD_BYTES = 1 << 16
"""Of a launcher's report, and of what it says when it breaks."""
_GRACE_S = 15.0
"""How much longer than its wall limit a launcher may take before it counts as broken."""


async def run_job(
    sandbox: Sandbox, job: Job, answer: Answerer, limits: Limits | None = None
) -> Finished:
    """Run code once, in a child of its own. ToolFailure where the machine could not."""
    python = Interpreter.here()
    box = make_box(python, limits or Limits(), spare_user(python))
    try:
        return await _run(sandbox, python, box, job, answer)
    finally:
        _remove(box.folder.parent)


def make_box(python: Interpreter, limits: Limits, user: int | None) -> Box:
    """An empty working folder and, beside it, the child's programs."""
    home = Path(tempfile.mkdtemp(prefix="toolshed-code-")).resolve()
    box = Box(folder=home / "work", programs=home / "programs", user=user, limits=limits)
    box.folder.mkdir(mode=0o700)
    box.programs.mkdir(mode=0o755)
    shutil.copyfile(PROGRAMS / "child.py", box.programs / "child.py")
    shutil.copyfile(Path(codec.__file__), box.programs / "codec.py")
    for folder in python.numpy:
        (box.programs / Path(folder).name).symlink_to(folder)
    if user is not None:
        home.chmod(0o755)
        os.chown(box.folder, user, user)
    return box


@dataclass(kw_only=True, slots=True)
class _Started:
    """A launcher at work, and this side of what its child has."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    stdout: BinaryIO
    stderr: BinaryIO

    def stop(self) -> None:
        """Close the launcher's lifeline, on which it kills everything."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()


def _start(sandbox: Sandbox, python: Interpreter, box: Box) -> _Started:
    inner = [python.executable, "-I", "-S", "-B", str(box.programs / "child.py")]
    ours, theirs = socket.socketpair()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    numbers = (theirs.fileno(), out_write, err_write)
    limits = box.limits
    spec = {
        "command": sandbox.command(box, python, inner),
        "stdin": numbers[0],
        "stdout": numbers[1],
        "stderr": numbers[2],
        "env": environment(box),
        "folder": str(box.folder),
        "user": box.user,
        "skip": sandbox.skip,
        "limits": {
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "processes": limits.processes,
            "disk_bytes": limits.disk_bytes,
        },
    }
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(PROGRAMS / "launcher.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=numbers,
            env={},
            cwd="/",
        )
    finally:
        theirs.close()
        os.close(out_write)
        os.close(err_write)
    started = _Started(
        process=process,
        channel=ours,
        stdout=os.fdopen(out_read, "rb", 0),
        stderr=os.fdopen(err_read, "rb", 0),
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(spec).encode() + b"\n")
    process.stdin.flush()
    return started


async def _run(
    sandbox: Sandbox, python: Interpreter, box: Box, job: Job, answer: Answerer
) -> Finished:
    started = _start(sandbox, python, box)
    tasks: list[asyncio.Task[Any]] = []
    try:
        kept = _Output(limit=box.limits.output_bytes, over=started.stop)
        assert started.process.stdout is not None and started.process.stderr is not None
        talk = asyncio.create_task(_converse(started.channel, box, job, answer))
        out = asyncio.create_task(kept.read(started.stdout))
        err = asyncio.create_task(kept.read(started.stderr))
        report = asyncio.create_task(_all_of(started.process.stdout))
        trouble = asyncio.create_task(_all_of(started.process.stderr))
        tasks = [talk, out, err, report, trouble]
        async with asyncio.timeout(box.limits.wall_s + _GRACE_S):
            # A tool that failed, or a bug of ours, ends the run at once.
            await asyncio.wait({talk, report}, return_when=asyncio.FIRST_EXCEPTION)
            if report.done() or talk.exception() is not None:
                await talk
            said, told = await talk, _report(await report, await trouble)
            return _finished(said, told, await out, await err, kept)
    except TimeoutError:
        raise ToolFailure("timeout", "the sandbox's launcher did not end its run") from None
    finally:
        started.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        started.channel.close()
        await _gone(started.process)


async def _gone(process: subprocess.Popen[bytes]) -> None:
    """Wait until the launcher has ended, which it does when everything else has."""
    for _ in range(1200):
        if process.poll() is not None:
            return
        await asyncio.sleep(0.01)
    process.kill()
    process.wait()


def _report(text: bytes, trouble: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        words = trouble.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ToolFailure("sandbox", f"the sandbox's launcher broke: {words[-1]}") from None
    return found


def _finished(
    said: dict[str, Any] | None, report: dict[str, Any], stdout: bytes, stderr: bytes, kept: _Output
) -> Finished:
    ended = report["reason"]
    if kept.is_over:
        ended = "output"
    elif ended in ("ended", "left"):
        ended = "ended" if said is not None else "died"
    said = (said or {}) if ended == "ended" else {}
    error = str(said.get("error", ""))
    return Finished(
        ended=ended,
        kind=str(said.get("kind", "")),
        result=said.get("value"),
        text=str(said.get("text", "")),
        text_length=said["length"] if isinstance(said.get("length"), int) else 0,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace") + error,
        wall_s=report["wall_s"],
        cpu_s=report["cpu_s"],
        memory_bytes=report["memory_bytes"],
    )


# ---- the socket -------------------------------------------------------------------------------


async def _converse(
    channel: socket.socket, box: Box, job: Job, answer: Answerer
) -> dict[str, Any] | None:
    """Hand over the job, answer calls, and return what the code said at its end; None where it
    ended without a word, or said something that is none."""
    channel.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=channel)
    limits = box.limits
    tasks = None if box.user is None else limits.processes
    start = {
        "code": job.code,
        "mode": job.mode,
        "variables": dict(job.variables),
        "tools": {name: list(fields) for name, fields in job.tools.items()},
        "limits": {
            "cpu_s": limits.cpu_s,
            "memory_bytes": limits.memory_bytes,
            "disk_bytes": limits.disk_bytes,
            "tasks": tasks,
        },
    }
    try:
        await _send(writer, start)
        while True:
            said = await _receive(reader, limits.result_bytes)
            match said:
                case {"do": "end"}:
                    return {str(key): value for key, value in said.items()}
                case {"do": "call", "name": str(name), "arguments": dict(arguments)}:
                    await _send(writer, await answer(name, arguments))
                case _:
                    return None
    except (asyncio.IncompleteReadError, ConnectionError, codec.CodecError):
        return None
    finally:
        writer.close()


async def _send(writer: asyncio.StreamWriter, message: object) -> None:
    for piece in codec.to_frame(message):
        writer.write(piece)
    await writer.drain()


async def _receive(reader: asyncio.StreamReader, most_bytes: int) -> Any:
    header, buffers = codec.frame_lengths(await reader.readexactly(codec.FRAME_START))
    if header > _HEADER_BYTES or buffers > most_bytes:
        raise codec.CodecError(
            f"{header} + {buffers} bytes, at most {_HEADER_BYTES} + {most_bytes}"
        )
    return codec.from_frame(await reader.readexactly(header), await reader.readexactly(buffers))


# ---- output -----------------------------------------------------------------------------------


class _Output:
    """What a run prints, to a limit that both of its streams share."""

    def __init__(self, *, limit: int, over: Callable[[], None]) -> None:
        self.is_over = False
        self._left = limit
        self._over = over

    async def read(self, file: BinaryIO) -> bytes:
        kept = bytearray()
        reader = await _reader(file)
        while piece := await reader.read(1 << 16):
            kept += piece[: self._left]
            self._left -= len(piece)
            if self._left < 0 and not self.is_over:
                self.is_over = True
                self._over()
            self._left = max(self._left, 0)
        return bytes(kept)


async def _all_of(file: Any) -> bytes:
    """Everything that a launcher says, to its end; of much its last words."""
    kept = b""
    reader = await _reader(file)
    while piece := await reader.read(1 << 16):
        kept = (kept + piece)[-_TOLD_BYTES:]
    return kept


async def _reader(file: Any) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


# ---- cleaning ---------------------------------------------------------------------------------


def _remove(home: Path) -> None:
    """Remove a box, whatever rights the code left on its folders; links are not followed."""
    if not home.exists():
        return
    for folder, names, _ in os.walk(home):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)
    shutil.rmtree(home)
