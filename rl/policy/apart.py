"""A policy in a process of its own, so that several compute at the same time.

The near end is ``PolicyApart``; ``python -m rl.policy.apart FD`` is the far end, a
``TransformersPolicy`` that reads turns from a socket and ends when it closes. Messages are pickles
behind their length: both ends are this program.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.policy.base import PolicyFailure, Prompt
from rl.types import Completion, SamplingParams
from toolshed.errors import ConfigError

DIED = "policy_died"
"""Reason of turns that were lost with their process."""
_ROOT = Path(__file__).resolve().parents[2]
_LENGTH = struct.Struct("!Q")
_PATIENCE_S = 5.0
"""For a process to end after its socket has closed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """What the process loads."""

    folder: Path
    device: str
    dtype: str
    threads: int
    num_slots: int
    """Trajectories in flight at most."""
    max_length: int
    """Places of the cache for one trajectory."""
    max_pixels: int = 0
    """As of ``Renderer.load``."""


class PolicyApart:
    """A checkpoint on one device, in a process of its own."""

    def __init__(self, loading: Loading) -> None:
        """Start the process; ``wait`` says when it has loaded."""
        self.version = 0
        self.device = loading.device
        self._socket, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rl.policy.apart", str(far.fileno())],
                pass_fds=(far.fileno(),),
                stdin=subprocess.DEVNULL,
                # Standard output is the command's own.
                stdout=sys.stderr.fileno() if _is_file(sys.stderr) else None,
                env={**os.environ, "PYTHONPATH": _python_path()},
            )
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Completion]] = {}
        self._opening = asyncio.Lock()
        """Held until there are streams: the first turns come together."""
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._is_lost = False
        _send_now(self._socket, loading)

    def wait(self) -> None:
        """Until the weights are there; ConfigError for a wrong checkpoint, PolicyFailure where the
        process died of something else, which it has told on standard error."""
        told = _receive_now(self._socket)
        if told is None:
            code = self._process.wait()
            text = f"the policy's process on {self.device} ended with code {code} while it loaded"
            raise PolicyFailure(DIED, f"{text}; its last words are above")
        if isinstance(told, str):
            raise ConfigError(told)

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        writer = await self._connected()
        if self._is_lost:
            raise self._failure()
        number = next(self._numbers)
        done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        # Neither the words, which are tokens already, nor the truth are needed there.
        question = replace(prompt.question, messages=(), images=(), target=None, extra={})
        lean = replace(prompt, question=question, messages=())
        _write(writer, ("generate", number, lean, sampling))
        try:
            return await done
        finally:
            self._waiting.pop(number, None)

    def release(self, trajectory: str) -> None:
        if self._writer is not None and not self._is_lost:
            _write(self._writer, ("release", trajectory))

    async def aclose(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        if self._writer is not None:
            self._writer.close()
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the process; also before it has loaded."""
        self._is_lost = True
        self._socket.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._opening:
            if self._writer is None:
                # A copy, so that the streams and this object may each close their own.
                reader, self._writer = await asyncio.open_unix_connection(sock=self._socket.dup())
                self._listener = asyncio.ensure_future(self._listen(reader))
        return self._writer

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while (told := await _receive(reader)) is not None:
            number, answer = told
            done = self._waiting.get(number)
            if done is None or done.done():
                continue
            if isinstance(answer, str):
                done.set_exception(ConfigError(answer))
            else:
                done.set_result(answer)
        self._is_lost = True
        for done in self._waiting.values():
            if not done.done():
                done.set_exception(self._failure())

    def _failure(self) -> PolicyFailure:
        code = self._process.poll()
        how = "" if code is None else f" (code {code})"
        return PolicyFailure(DIED, f"the policy's process on {self.device} ended{how}")


def _is_file(stream: Any) -> bool:
    try:
        stream.fileno()
    except (AttributeError, OSError):
        return False
    return True


def _python_path() -> str:
    there = os.environ.get("PYTHONPATH")
    return f"{_ROOT}:{there}" if there else str(_ROOT)


# ---- messages -----------------------------------------------------------------------------------


def _framed(message: object) -> bytes:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _write(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(_framed(message))


async def _receive(reader: asyncio.StreamReader) -> Any:
    """The next message; None where the other end is gone."""
    try:
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return pickle.loads(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _send_now(end: socket.socket, message: object) -> None:
    end.sendall(_framed(message))


def _receive_now(end: socket.socket) -> Any:
    head = end.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    body = end.recv(size, socket.MSG_WAITALL)
    return pickle.loads(body) if len(body) == size else None


# ---- the far end --------------------------------------------------------------------------------


def main(fd: int) -> None:
    """Load what the first message says, then answer turns until the socket closes."""
    # An interrupt of the command is its affair; this process ends with the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = socket.socket(fileno=fd)
    loading = _receive_now(end)
    if loading is None:
        return
    try:
        policy = _load(loading)
    except ConfigError as error:
        _send_now(end, str(error))
        return
    try:
        _send_now(end, True)
        asyncio.run(_serve(policy, end))
    except BrokenPipeError:
        return


def _load(loading: Loading) -> Any:
    import torch

    from rl.policy.transformers import TransformersPolicy
    from sft.model import load_model
    from sft.render import Renderer

    torch.set_num_threads(loading.threads)
    model = load_model(loading.folder, dtype=getattr(torch, loading.dtype), device=loading.device)
    return TransformersPolicy(
        model,
        Renderer.load(loading.folder, max_pixels=loading.max_pixels),
        num_slots=loading.num_slots,
        max_length=loading.max_length,
    )


async def _serve(policy: Any, end: socket.socket) -> None:
    """Answer until the near end is gone. A bug in a turn ends the process with its traceback."""
    reader, writer = await asyncio.open_unix_connection(sock=end)
    turns: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:

        async def answer(number: int, prompt: Prompt, sampling: SamplingParams) -> None:
            told: Completion | str
            try:
                told = await policy.generate(prompt, sampling)
            except ConfigError as error:
                told = str(error)
            _write(writer, (number, told))

        while (asked := await _receive(reader)) is not None:
            if asked[0] == "generate":
                turns[asked[2].trajectory] = group.create_task(answer(*asked[1:]))
                continue
            turn = turns.pop(asked[1], None)
            if turn is not None:
                # Given up in the middle of a turn, whose row may be freed when nobody waits for it.
                turn.cancel()
                await asyncio.wait([turn])
            policy.release(asked[1])
        for turn in turns.values():
            turn.cancel()
    writer.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
