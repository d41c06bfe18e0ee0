"""The call log: one JSON line per call, appended by one write, so that several programs may share a
file and a program that is killed loses nothing but the line that it was writing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from toolshed.errors import ConfigError
from toolshed.types import CodeRun, Json, StoredArray, ToolCall, ToolResult

_quoted = json.encoder.encode_basestring_ascii
_argument_text = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


class CallLog:
    """Appends to one file; ConfigError where it cannot be opened.

    What happens to the file later is no call's business: where a line cannot be written, one
    warning is printed and the call goes on.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).expanduser().absolute()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise ConfigError(
                f"call_log: {self._path} cannot be written ({error.strerror}); name another file, "
                "or leave call_log out"
            ) from error
        self._is_torn = not _ends_whole(self._file)
        self.num_lost = 0
        """Lines that could not be written."""

    def append(self, session: str, call: ToolCall, result: ToolResult) -> None:
        """Write the line of one call; raises nothing but bugs."""
        line = call_line(session, call, result)
        # Another program's torn line ends here, so that it does not swallow this one.
        data = ("\n" + line if self._is_torn else line).encode("ascii")
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self._lose(error.strerror)
            return
        self._is_torn = written < len(data)
        if self._is_torn:
            self._lose("only part of a line was written")

    def close(self) -> None:
        """Calls that are still under way may end after this; their lines are lost."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _lose(self, why: str | None) -> None:
        self.num_lost += 1
        if self.num_lost == 1 and self._file >= 0:
            text = f"tools: call log {self._path}: {why}; calls go on, their lines are lost"
            print(text, file=sys.stderr, flush=True)


def call_line(session: str, call: ToolCall, result: ToolResult) -> str:
    """One line with its newline. Times in milliseconds, ``time`` in seconds since 1970; ``sandbox``
    where a program was run.

    Written by hand, because the general encoder takes three times as long, and this is every call.
    """
    timings = result.timings
    values = [each.value for each in result.variables]
    kept = sum(each.nbytes for each in values if isinstance(each, np.ndarray | StoredArray))
    run = result.held
    sandbox = f',"sandbox":{_quoted(run.level)}' if isinstance(run, CodeRun) else ""
    return (
        f'{{"time":{time.time():.3f},"session":{_quoted(session)},"call":{_quoted(call.id)},'
        f'"tool":{_quoted(call.name)},"status":"{result.status}",'
        f'"reason":{_quoted(result.reason)},'
        f'"queue_ms":{1e3 * timings.queue_s:.3f},"transfer_ms":{1e3 * timings.transfer_s:.3f},'
        f'"run_ms":{1e3 * timings.run_s:.3f},"encode_ms":{1e3 * timings.encode_s:.3f},'
        f'"total_ms":{1e3 * timings.total_s:.3f},'
        f'"argument_chars":{_argument_chars(call.arguments)},"reply_chars":{len(result.text)},'
        f'"kept_bytes":{kept},"images":{len(result.images)},"retries":{result.num_retries}{sandbox}}}\n'
    )


def read_calls(path: str | Path) -> Iterator[dict[str, Json]]:
    """The whole lines of a log, oldest first; torn ones are left out."""
    with Path(path).open(encoding="ascii", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict) and line.endswith("\n"):
                yield content


def _argument_chars(arguments: dict[str, Json]) -> int | str:
    """Length of the arguments as JSON; ``null`` where a program passed what JSON cannot hold."""
    try:
        return len(_argument_text(arguments))
    except (TypeError, ValueError, RecursionError):
        return "null"


def _ends_whole(file: int) -> bool:
    size = os.fstat(file).st_size
    return size == 0 or os.pread(file, 1, size - 1) == b"\n"
