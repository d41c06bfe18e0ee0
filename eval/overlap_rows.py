"""Rows of training and evaluation files as overlap sees them: texts and pictures, one at a time.

Read are parquets in the released layout, JSONL, and JSON lists (ShareGPT). A file is never held as
a whole: of JSON one row, of a parquet one page, which its writer made of at most some 1,000 rows.
Whatever is no such row is a ConfigError that names it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rl.questions.data import data_uri
from toolshed.errors import ConfigError

SUFFIXES = (".parquet", ".jsonl", ".json")
_BATCH_ROWS = 8
_CHUNK_CHARS = 1 << 16
_BUFFER_BYTES = 1 << 20
"""Else a row group is held as a whole, and a file may be one row group."""
_COLUMNS = ("prompt", "images", "image", "extra_info", "conversations", "messages", "question")
_ASKERS = ("user", "human")

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One row of a data set."""

    place: str
    """``FILE row N``, counted from 0, or ``FILE line N``, counted from 1."""
    texts: tuple[str, ...]
    """What is asked, in each wording that the row holds."""
    pictures: tuple[str, ...]
    """Absolute paths and data URIs."""


def read_items(path: Path, root: Path | None = None) -> Iterator[Item]:
    """The rows of a file in order; relative pictures mean ``root``, or else the file's folder."""
    if not path.is_file():
        raise ConfigError(f"{path} is no file; give parquet, JSONL or JSON files")
    folder = (path.absolute().parent if root is None else root).absolute()
    rows = _ROWS.get(path.suffix)
    if rows is None:
        raise ConfigError(f"{path} is none of {', '.join(SUFFIXES)}; rename or convert it")
    for place, row in rows(path):
        yield _item(place, row, folder)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            held = file.schema_arrow.names
            columns = [name for name in _COLUMNS if name in held]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield f"{path} row {number}", row
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path} is not a readable parquet file: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path} line {number}"
            try:
                yield place, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{place} is no JSON ({error}); mend it or take it out"
                ) from error


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON list, decoded one after the other."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, row in enumerate(_elements(file)):
                yield f"{path} row {number}", row
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON list of rows ({error}); mend it") from error


def _elements(file: TextIO) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text = file.read(_CHUNK_CHARS).lstrip("\ufeff \t\r\n")
    if text[:1] != "[":
        raise ValueError("it does not begin with [")
    text, wanted = text[1:], _CHUNK_CHARS
    is_first, at_end = True, False
    while True:
        if len(text) < wanted and not at_end:
            more = file.read(wanted)
            text, at_end = text + more, not more
        try:
            begin = _begin(text, is_first=is_first)
            if text[begin : begin + 1] == "]":
                if text[begin + 1 :].strip() or file.read().strip():
                    raise ValueError("text follows the list")
                return
            element, end = decoder.raw_decode(text, begin)
        except ValueError:
            # An element that is not whole yet; twice as much each time, so that long ones are
            # not decoded again for every chunk.
            if at_end:
                raise
            wanted = 2 * max(wanted, len(text))
            continue
        yield element
        is_first, wanted = False, _CHUNK_CHARS
        text = text[end:]


def _begin(text: str, *, is_first: bool) -> int:
    """Where the next element or the closing bracket begins."""
    spaces = len(text) - len(text.lstrip())
    if is_first or text[spaces : spaces + 1] == "]":
        return spaces
    if text[spaces : spaces + 1] != ",":
        raise ValueError("a comma or ] must follow an element")
    rest = text[spaces + 1 :].lstrip()
    if rest[:1] == "]":
        raise ValueError("an element must follow a comma")
    return len(text) - len(rest)


_ROWS = {".parquet": _parquet_rows, ".jsonl": _jsonl_rows, ".json": _json_rows}


def _item(place: str, row: Any, folder: Path) -> Item:
    if not isinstance(row, dict):
        raise ConfigError(f"{place} is no object; each row is a question or a conversation")
    texts = tuple(dict.fromkeys(_texts(row)))
    if not any(text.strip() for text in texts):
        raise ConfigError(
            f"{place} asks nothing: it has none of conversations, messages, prompt, question and "
            "extra_info.question with a text"
        )
    try:
        pictures = tuple(_locate(entry, folder) for entry in _entries(row))
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"{place}: images must be paths, data URIs or objects with image, path or bytes"
        ) from error
    return Item(place=place, texts=texts, pictures=pictures)


def _texts(row: Row) -> Iterator[str]:
    """The question by itself, as the prompt's last user turn, and as a conversation's first one:
    later user turns there are tool replies."""
    extra = row.get("extra_info")
    for holder in (row, extra if isinstance(extra, dict) else {}):
        if isinstance(holder.get("question"), str):
            yield holder["question"]
    if isinstance(row.get("prompt"), str):
        yield row["prompt"]
    asked = _asked(row.get("prompt"))
    if asked:
        yield asked[-1]
    for name in ("conversations", "messages"):
        asked = _asked(row.get(name))
        if asked:
            yield asked[0]


def _asked(turns: Any) -> list[str]:
    if not isinstance(turns, list):
        return []
    said = [turn for turn in turns if isinstance(turn, dict)]
    texts = [
        turn.get("value") or turn.get("content")
        for turn in said
        if (turn.get("from") or turn.get("role")) in _ASKERS
    ]
    return [text for text in texts if isinstance(text, str)]


def _entries(row: Row) -> list[Any]:
    """``images`` before ``image``: the published boppose and bopgrasp name a file in ``image`` that
    is nowhere. A recorded answer only tells a name."""
    if "raw_answer" in row:
        return []
    held = row.get("images") if row.get("images") is not None else row.get("image")
    if held is None:
        return []
    return held if isinstance(held, list) else [held]


def _locate(entry: Any, folder: Path) -> str:
    if isinstance(entry, dict):
        if isinstance(entry.get("bytes"), bytes):
            return data_uri(entry["bytes"])
        entry = entry.get("image") or entry["path"]
    if not isinstance(entry, str):
        raise TypeError(entry)
    return entry if entry.startswith("data:") else str(folder / entry)
