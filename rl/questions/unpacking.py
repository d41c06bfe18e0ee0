"""Pictures that a data file holds inside, written out once: questions then name files.

An unpacked set is a folder of the cache, called by the hash of the data and of the code that reads
it: ``rows.jsonl``, one row a line in the released layout with its pictures' names and sizes, and
the pictures as they were. It appears whole or not at all; processes wait for each other.
"""

from __future__ import annotations

import binascii
import hashlib
import inspect
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.cache import alone_with
from sft.cache import cache_folder as own_cache_folder
from sft.run_dir import draft_folder
from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from rl.questions.data import Row

FORMAT = 2
_ROWS = "rows.jsonl"
_COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}


class PlainPaths(Exception):
    """A row names its pictures' files: there is nothing to unpack."""


def cache_folder(word: str) -> Path:
    """Where unpacked sets lie: ``word``, or else ``$XDG_CACHE_HOME/spacetools`` or
    ``~/.cache/spacetools``."""
    return own_cache_folder(word, "cache")


def file_sha256(path: Path) -> str:
    """Of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(
    path: Path, sha256: str, rows: Callable[[Path], Iterator[Row]], cache: Path
) -> tuple[Path, list[dict[str, Any]]]:
    """Folder and rows of a data file whose pictures are inside; unpacks it where that was not done.

    Raises PlainPaths where they are not, and ConfigError where a picture is damaged or ``cache``
    cannot be written.
    """
    folder = cache / "unpacked" / f"{sha256[:24]}-{_code_hash(rows)[:8]}"
    found = _whole(folder)
    if found is None:
        _check_embedded(path, rows)
        with alone_with(folder, "cache", "pictures cannot be unpacked"):
            found = _whole(folder)
            if found is None:
                with draft_folder(folder) as draft:
                    _unpack(path, rows, draft)
                found = _whole(folder)
    if found is None:
        raise ConfigError(f"{folder} was changed while it was made; run again")
    return folder, found


def _check_embedded(path: Path, rows: Callable[[Path], Iterator[Row]]) -> None:
    """PlainPaths where the first row names files: such a set needs no cache."""
    for row in itertools.islice(rows(path), 1):
        for source in map(_source, row["images"] or ()):
            if isinstance(source["image"], str) and not source["image"].startswith("data:"):
                raise PlainPaths(path)


def _source(entry: str | Row) -> dict[str, Any]:
    """A picture's entry with ``image``: location or encoded bytes."""
    source = {"image": entry} if isinstance(entry, str) else dict(entry)
    if source.get("image") is None and isinstance(source.get("bytes"), bytes):
        source["image"] = source["bytes"]
    return source


def _code_hash(rows: Callable[[Path], Iterator[Row]]) -> str:
    """Changes with the adapter, so that a set unpacked by an older one is not taken for its."""
    source = inspect.getsourcefile(inspect.unwrap(getattr(rows, "func", rows)))
    code = Path(source).read_bytes() if source else b""
    return hashlib.sha256(code + bytes([FORMAT])).hexdigest()


# ---- writing ----------------------------------------------------------------------------------


def _unpack(path: Path, rows: Callable[[Path], Iterator[Row]], folder: Path) -> None:
    num_rows = 0
    with (folder / _ROWS).open("w", encoding="utf-8") as file:
        for index, row in enumerate(rows(path)):
            kept = {name: row[name] for name in _COLUMNS if name in row}
            kept["images"], kept["sizes"] = _pictures(row, index, path, folder)
            file.write(json.dumps(kept) + "\n")
            num_rows += 1
        file.write(json.dumps({"num_rows": num_rows}) + "\n")


def _pictures(
    row: Row, index: int, path: Path, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Entries that name files of ``folder``, and how large those are."""
    entries: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    for entry in row["images"] or ():
        source = _source(entry)
        kept = {"focal_length_px": source.get("focal_length_px")}
        for part in ("image", "depth"):
            if source.get(part) is not None:
                encoded = _encoded(source[part], f"{path} row {index}")
                name = _write(encoded, folder, path, index)
                kept[part] = name
                sizes[name] = len(encoded)
        entries.append(kept)
    return entries, sizes


def _encoded(picture: str | bytes, place: str) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if not picture.startswith("data:"):
        raise PlainPaths(place)
    try:
        return binascii.a2b_base64(picture[picture.index(",") + 1 :], strict_mode=True)
    except ValueError as error:
        raise ConfigError(
            f"{place}: its picture is no base64 ({error}); get the data again"
        ) from error


def _write(encoded: bytes, folder: Path, path: Path, index: int) -> str:
    """One file for all rows that share a picture, so that it is decoded once for them."""
    from toolshed.images import ImageSource, check_image

    ending = next((name for start, name in _ENDINGS.items() if encoded.startswith(start)), "bin")
    file = folder / f"{hashlib.sha256(encoded).hexdigest()[:24]}.{ending}"
    if file.exists():
        return file.name
    file.write_bytes(encoded)
    try:
        check_image(ImageSource(image=str(file)))
    except ConfigError as error:
        raise ConfigError(f"{path} row {index}: {error}; get the data again") from error
    return file.name


# ---- reading ----------------------------------------------------------------------------------


def _whole(folder: Path) -> list[dict[str, Any]] | None:
    """All rows of an unpacked set; None where it is not there or not as it was made."""
    try:
        lines = (folder / _ROWS).read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        there = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except (OSError, ValueError):
        return None
    if not found or found.pop() != {"num_rows": len(lines) - 1}:
        return None
    for row in found:
        if any(there.get(name) != size for name, size in row.pop("sizes").items()):
            return None
    return found
