"""Where the rows of a data file lie: its elements or lines by byte, found without holding the file.

A file is a JSON list, or JSON lines. Byte order marks before a file or a line are passed over:
files that were joined have them in the middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from sft.transcript import RejectedRow
from toolshed.errors import ConfigError
from toolshed.types import Json

Container: TypeAlias = Literal["list", "lines", "parquet"]
ROW_BYTES = 64 << 20
"""A longer row is rejected unread: a picture inside it is over the limit of pictures."""
_CHUNK_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
_HEAD_BYTES = 1 << 16
_OUTSIDE = re.compile(rb'[^"\[\]{},]*+')
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def container_of(path: Path) -> Container:
    """What a file is, by its first bytes; ConfigError where it is none of the three."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(f"transcripts {path} do not exist; make them with rl.collect") from error
    except IsADirectoryError as error:
        raise ConfigError(f"transcripts {path} are a folder; name a file in it") from error
    if head.startswith(b"PAR1"):
        return "parquet"
    first = head[_begin(head) :][:1]
    if first == b"[":
        return "list"
    if first == b"{":
        return "lines"
    if not head.strip():
        raise ConfigError(f"transcripts {path} are empty; get them again or name another file")
    raise ConfigError(
        f"transcripts {path} are no JSON: they begin with {first!r}; give a JSON list, JSON lines "
        "or a parquet"
    )


def places(file: BinaryIO, path: Path, *, chunk_bytes: int = 0) -> Iterator[tuple[int, int]]:
    """(first byte, number of bytes) of each row; blank lines are none.

    Raises ConfigError where a list is torn, or something follows it.
    """
    chunk_bytes = chunk_bytes or _CHUNK_BYTES
    if container_of(path) == "lines":
        yield from _lines(file, chunk_bytes)
    else:
        yield from _Elements(file, path, chunk_bytes).places()


def decoded(row: bytes) -> dict[str, Json]:
    """A row's object; RejectedRow where it is none."""
    try:
        text = row[_begin(row) :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise RejectedRow("no UTF-8", f"no UTF-8: {error}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RejectedRow("no JSON", f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise RejectedRow("no object", f"{content!r:.40} is no object")
    return content


def _begin(head: bytes) -> int:
    """Where content begins, behind marks and blanks."""
    begin = 0
    while True:
        before = begin
        while head.startswith(_BOM, begin):
            begin += len(_BOM)
        while begin < len(head) and head[begin] in _BLANKS:
            begin += 1
        if begin == before:
            return begin


def _lines(file: BinaryIO, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    begin = offset = 0
    is_blank = True
    while chunk := file.read(chunk_bytes):
        position = 0
        while (end := chunk.find(b"\n", position)) >= 0:
            if not (is_blank and _is_blank(chunk[position:end])):
                yield begin, offset + end - begin
            is_blank = True
            position, begin = end + 1, offset + end + 1
        is_blank = is_blank and _is_blank(chunk[position:])
        offset += len(chunk)
    if not is_blank:
        yield begin, offset - begin


def _is_blank(text: bytes) -> bool:
    return not text.replace(_BOM, b"").strip()


class _Elements:
    """Walks over the elements of a JSON list, chunk by chunk: brackets are counted and strings are
    passed over, so that whatever is between two commas of the list is one element, valid or not."""

    def __init__(self, file: BinaryIO, path: Path, chunk_bytes: int) -> None:
        self._file, self._path, self._chunk_bytes = file, path, chunk_bytes
        self._depth = self._num_rows = 0
        self._is_string = self._is_escaped = self._has_content = False
        self._begin = 0
        self._is_closed = False

    def places(self) -> Iterator[tuple[int, int]]:
        offset = 0
        while chunk := self._file.read(self._chunk_bytes):
            for end in self._ends(chunk, offset):
                yield self._begin, end - self._begin
                self._begin = end + 1
                self._num_rows += 1
            offset += len(chunk)
        if not self._is_closed:
            raise ConfigError(
                f"transcripts {self._path} are torn: they end in row {self._num_rows}, after "
                f"{offset} bytes; get them again"
            )

    def _ends(self, chunk: bytes, offset: int) -> Iterator[int]:
        """Where elements end in this chunk."""
        position = 0
        while position < len(chunk):
            if self._is_string:
                position = self._pass_string(chunk, position)
                continue
            end = _OUTSIDE.match(chunk, position).end()  # type: ignore[union-attr]
            if end > position:
                self._see(chunk[position:end], offset + position)
            if end == len(chunk):
                return
            position = end + 1
            if self._mark(chunk[end : end + 1], offset + end):
                yield offset + end
                self._has_content = False

    def _pass_string(self, chunk: bytes, position: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return position + 1
        position = _INSIDE.match(chunk, position).end()  # type: ignore[union-attr]
        if position < len(chunk):
            self._is_escaped = chunk[position : position + 1] == b"\\"
            self._is_string = self._is_escaped
        return position + 1

    def _see(self, text: bytes, offset: int) -> None:
        """Text between marks: content of an element, unless it is blank."""
        if self._depth == 1 and not self._has_content:
            self._has_content = bool(text.strip(_BLANKS))
        elif self._is_closed and text.strip(_BLANKS):
            raise self._going_on(offset)

    def _mark(self, mark: bytes, offset: int) -> bool:
        """Whether an element ends at this mark."""
        if self._is_closed:
            raise self._going_on(offset)
        if mark == b",":
            return self._depth == 1
        if mark in b"]}":
            self._depth -= 1
            if self._depth:
                return False
            if mark != b"]":
                raise ConfigError(
                    f"transcripts {self._path} are no JSON: their list is closed by }} at byte "
                    f"{offset}; get them again"
                )
            self._is_closed = True
            # A list that ends in a comma has an element that is none.
            return self._has_content or self._num_rows > 0
        if self._depth == 0:
            self._begin = offset + 1
        else:
            self._has_content = True
        if mark == b'"':
            self._is_string = True
        else:
            self._depth += 1
        return False

    def _going_on(self, offset: int) -> ConfigError:
        return ConfigError(
            f"transcripts {self._path} go on at byte {offset} after their list has ended; get them "
            "again, or split them"
        )
