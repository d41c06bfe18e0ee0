"""The near end of the bridge: a back-end whose work is done by a child process in another
interpreter, for stacks that cannot join the cluster (another Python, pydantic 1, awkward pins).

Refusals, failures and bugs arrive as what they would be in this process. A child that hangs beyond
a call's limit is killed; one that died is started again by the next call.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import IO

from toolshed.backend import Outcome
from toolshed.codec import CodecError, to_frame
from toolshed.environments.bridge_child import Told, receive, write
from toolshed.environments.preflight import without_python_settings
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import Json

_TAIL_BYTES = 3000
_PATIENCE_S = 2.0
"""For a child to end by itself, and for the last words of one that did."""
_START = (
    # The caller's folder last, as a worker has it: what lies there must not hide the installed.
    "import os, sys; sys.path[:] = sys.path[1:] + [os.getcwd()]; "
    "from toolshed.environments.bridge_child import main; main()"
)
_BUGS: dict[str, type[Exception]] = {
    each.__name__: each
    for each in (
        ArithmeticError,
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        LookupError,
        NotImplementedError,
        OSError,
        OverflowError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
        ZeroDivisionError,
    )
}


class Bridged:
    """Answers for the back-end at ``location``, which lives in the child. One call at a time."""

    def __init__(
        self,
        *,
        interpreter: str,
        location: str,
        arguments: Mapping[str, Json],
        methods: Sequence[str],
        variables: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        start_timeout_s: float = 120.0,
        memory_gb: float | None = None,
    ) -> None:
        """Start the child and let it construct the back-end; raises what that raises.

        ``variables`` are environment variables of the child; ``memory_gb`` bounds its address
        space, which CUDA does not bear.
        """
        self._hello: Told = {
            "location": location,
            "arguments": dict(arguments),
            "methods": list(methods),
        }
        self._start_child = partial(
            _Child, interpreter, dict(variables or {}), int((memory_gb or 0) * 2**30)
        )
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._child, told = self._started()
        self._batches = bool(told["batches"])

    def __getattr__(self, name: str) -> Callable[..., Outcome]:
        # Methods are found by name, as on any back-end; which there are, the config says.
        if name.startswith("_") or name not in self._hello["methods"]:
            raise AttributeError(name)
        return partial(self._call, name)

    def batch_key(self, method: str, arguments: Mapping[str, object]) -> object:
        """All calls of a method may travel together: the child parts them by its own keys."""
        return "bridge" if self._batches else None

    def batch(
        self, method: str, calls: Sequence[Mapping[str, object]]
    ) -> Sequence[Outcome | ToolRefusal]:
        """One answer per call, in order."""
        asked = {"kind": "batch", "method": method, "calls": [dict(each) for each in calls]}
        told = self._ask(asked)["values"]
        return [
            ToolRefusal(each["reason"], each["text"])
            if each["status"] == "refused"
            else each["value"]
            for each in told
        ]

    def close(self) -> None:
        """End the child."""
        self._child.stop()

    def _call(self, method: str, **arguments: object) -> Outcome:
        found: Outcome = self._ask({"kind": "call", "method": method, "arguments": arguments})[
            "value"
        ]
        return found

    def _ask(self, question: Told) -> Told:
        deadline_s = time.monotonic() + self._timeout_s
        if not self._lock.acquire(timeout=self._timeout_s):
            raise TimeoutError(f"the bridge was busy for {self._timeout_s:g} s")
        try:
            if not self._child.is_alive():
                self._child.stop()
                self._child, _ = self._started()
                # Loading has a limit of its own, which is longer than that of a call.
                deadline_s = time.monotonic() + self._timeout_s
            return self._child.ask(question, deadline_s, f"{self._timeout_s:g} s")
        finally:
            self._lock.release()

    def _started(self) -> tuple[_Child, Told]:
        child = self._start_child()
        deadline_s = time.monotonic() + self._start_timeout_s
        with contextlib.ExitStack() as undo:
            undo.callback(child.stop)
            told = child.ask(self._hello, deadline_s, f"{self._start_timeout_s:g} s to load")
            undo.pop_all()
        return child, told


class _Child:
    """A running child process."""

    def __init__(self, interpreter: str, variables: dict[str, str], max_bytes: int) -> None:
        ours, theirs = socket.socketpair()
        lifeline, held = os.pipe()
        words = [str(theirs.fileno()), str(lifeline), str(max_bytes)]
        try:
            self._process = subprocess.Popen(
                [interpreter, "-c", _START, *words],
                env={**without_python_settings(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), lifeline),
                # A Ctrl-C is for the parent, which ends the child in its own time.
                start_new_session=True,
            )
        except OSError as error:
            os.close(held)
            ours.close()
            raise ConfigError(f"{interpreter} cannot be run: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._socket = ours
        self._tail = bytearray()
        # It must not hold this object, which would then live as long as the child.
        self._reader = threading.Thread(
            target=_read_log, args=(self._process.stdout, self._tail), daemon=True
        )
        self._reader.start()
        self.stop = weakref.finalize(self, _end, self._process, ours, held)

    def is_alive(self) -> bool:
        return self.stop.alive and self._process.poll() is None

    def ask(self, question: Told, deadline_s: float, limit: str) -> Told:
        """The answer, or what it says to raise."""
        frame = to_frame(question)
        try:
            write(self._socket, frame, deadline_s)
            told = receive(self._socket, deadline_s)
        except TimeoutError:
            self.stop()
            raise TimeoutError(f"no answer within {limit}; the child was killed") from None
        except (EOFError, ConnectionError):
            raise ToolFailure("bridge_died", self._last_words()) from None
        except CodecError as error:
            # Nobody knows where the next message begins.
            self.stop()
            raise ToolFailure("bridge_garbled", f"{error}; the child was killed") from error
        if told["status"] != "ok":
            raise _error_of(told)
        return told

    def _last_words(self) -> str:
        try:
            code = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            code = self._process.wait()
        self._reader.join(_PATIENCE_S)
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        said = self._tail.decode("utf-8", "replace").strip()
        return f"the child process ended {how}; it last said: {said or 'nothing'}"


def _read_log(log: IO[bytes], tail: bytearray) -> None:
    """Pass on what the child prints, and keep its last words."""
    with log:
        while piece := os.read(log.fileno(), 4096):
            tail += piece
            del tail[:-_TAIL_BYTES]
            os.write(2, piece)


def _end(process: subprocess.Popen[bytes], connection: socket.socket, lifeline: int) -> None:
    connection.close()
    try:
        process.wait(0.05)
    except subprocess.TimeoutExpired:
        # The whole session: what the child started itself goes with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    os.close(lifeline)


def _error_of(told: Told) -> Exception:
    status, text = told["status"], told["text"]
    if status == "refused":
        return ToolRefusal(told["reason"], text)
    if status == "failed":
        return ToolFailure(told["reason"], text)
    if status == "config":
        return ConfigError(text)
    if status == "memory":
        return MemoryError(text)
    if status == "timeout":
        return TimeoutError(text)
    kind = _BUGS.get(told["type"])
    error = RuntimeError(f"{told['type']}: {text}") if kind is None else kind(text)
    error.add_note(f"in the child process:\n{told['traceback']}")
    return error
