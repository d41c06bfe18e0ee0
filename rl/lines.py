"""A file of JSON lines that only grows: a line is written whole, and a torn one is cut off.

A killed process loses nothing but the line that it was writing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sft.run_dir import naming
from toolshed.errors import ConfigError
from toolshed.types import Json


class JsonLines:
    """Open for appending by one process at a time; ConfigError where another one has it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is being written by another process; wait for it to end"
            ) from None
        self._cut_torn_line()

    def read(self) -> Iterator[dict[str, Json]]:
        """All lines from the first; ConfigError naming one that is no JSON object."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError):
                    content = None
                if not isinstance(content, dict):
                    raise ConfigError(
                        f"{self.path} line {number} is no JSON object; mend or remove that line"
                    )
                yield content

    def append(self, content: Mapping[str, object]) -> None:
        """Write one line, whole or not at all."""
        line = json.dumps(content).encode("ascii") + b"\n"
        num_bytes = os.fstat(self._file).st_size
        with naming(self.path):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                # A disk that is full takes part of a line.
                os.ftruncate(self._file, num_bytes)
                raise

    def close(self) -> None:
        os.close(self._file)

    def _cut_torn_line(self) -> None:
        """Remove what stands behind the last newline."""
        size = end = os.fstat(self._file).st_size
        while end:
            begin = max(0, end - (1 << 16))
            newline = os.pread(self._file, end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            print(f"warning: {self.path} ended in a torn line, which is cut off", file=sys.stderr)
            os.ftruncate(self._file, end)
