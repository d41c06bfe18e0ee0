"""The index of a data file: where each row lies that can be learned from, and what is known of it.

A file is read once, row by row. What is found lies in the cache as arrays that are mapped into
memory, beside ``rejected.jsonl``, which has a line for each row that is left out. Training then
reads rows by their place. An index stands while its file, and the code that made it, are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sft import parquet_rows
from sft.cache import alone_with
from sft.formats.table import AUTO, Format, format_named, recognised
from sft.index_draft import ROW, IndexDraft
from sft.row_facts import PictureFacts, facts_of, mentions
from sft.rows import ROW_BYTES, container_of, decoded, places
from sft.run_dir import draft_folder
from sft.transcript import PICTURE_FAULTS, Reading, RejectedRow, Transcript
from toolshed.errors import ConfigError
from toolshed.types import Json

REJECTED = "rejected.jsonl"
_TOLD = "index.json"
_HEAD_ROWS = 16
_CODE = ("formats/*.py", "row*.py", "transcript.py", "parquet_rows.py", "index*.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What decides which rows of a file are learned from, and as what."""

    reading: Reading
    format: str = AUTO
    leave_out: tuple[str, ...] = ()
    """Families whose tools a conversation may not mention."""
    score_above: float | None = None
    """Rows with a score must have a higher one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A file in numbers."""

    format: str
    rows: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Rows by what is wrong with them."""
    filtered: dict[str, int] = field(default_factory=dict)
    """Rows by what the config leaves out."""
    pictures: int = 0
    """Distinct ones that lie in files."""
    tokens: int = 0
    """Of all accepted rows, estimated."""
    tools: dict[str, int] = field(default_factory=dict)
    """Accepted rows that call each tool."""
    first: str = ""
    """The first rejected row and what is wrong with it."""


class Index:
    """The accepted rows of a file, numbered from 0; ``open_index`` makes one."""

    def __init__(self, folder: Path, recipe: Recipe, summary: Summary, rows_file: Path) -> None:
        self.folder, self.summary = folder, summary
        self.rows: npt.NDArray[np.void] = _mapped(folder / "rows.npy")
        """Of type ``index_draft.ROW``."""
        self.texts = Ragged(_mapped(folder / "texts.npy"), _mapped(folder / "text_ends.npy"))
        self.pictures = Ragged(
            _mapped(folder / "pictures.npy"), _mapped(folder / "picture_ends.npy")
        )
        self._recipe, self._format = recipe, format_named(summary.format)
        self._reading = _with_roots(recipe.reading, self._format)
        self._path, self._file = rows_file, os.open(rows_file, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self.rows)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def transcript(self, number: int) -> Transcript:
        """Read a row again; ConfigError where the file is no longer what it was."""
        place = self.rows[number]
        content = os.pread(self._file, int(place["length"]), int(place["begin"]))
        if zlib.crc32(content) != int(place["check"]):
            raise ConfigError(
                f"{self._path} was changed while it was trained on: row {int(place['row'])} is "
                "another; put it back, or begin again with another out="
            )
        return self._format.read(decoded(content), int(place["row"]), self._reading)

    @property
    def digest(self) -> str:
        """Changes with the rows, their order and their pictures."""
        digest = hashlib.sha256(np.ascontiguousarray(self.rows["check"]).tobytes())
        digest.update(np.ascontiguousarray(self.pictures.values).tobytes())
        return digest.hexdigest()


class Ragged:
    """Some numbers for each row."""

    def __init__(self, values: npt.NDArray[np.uint64], ends: npt.NDArray[np.int64]) -> None:
        self.values, self._ends = values, ends

    def __getitem__(self, row: int) -> npt.NDArray[np.uint64]:
        return self.values[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])]


def open_index(recipe: Recipe, cache: Path) -> Index:
    """The index of a file, made where there is none that stands; processes wait for each other.

    Raises ConfigError where the file is not there, torn, in none of the formats, or written to.
    """
    path = recipe.reading.path
    container = container_of(path)
    folder = cache / "sft" / _key(recipe)
    stamp, asked_s = _stamp(path), time.time()
    found = _whole(folder, stamp, recipe)
    if found is None or _may_be_mended(found, asked_s):
        with alone_with(folder, "data.cache", f"no index of {path} can be made"):
            found = _whole(folder, stamp, recipe)
            if found is None or _may_be_mended(found, asked_s):
                source = path
                if container == "parquet":
                    source = _unpacked(path, folder.with_name(f"{folder.name}.unpacked"))
                _make(recipe, source, folder, stamp)
                found = _whole(folder, stamp, recipe)
    if found is None:
        raise ConfigError(f"{path} is being written to; start again when it is finished")
    return found


def read_all(recipe: Recipe) -> Iterator[Transcript]:
    """The rows of a JSON file as they are, pictures checked; nothing is kept. Raises ConfigError
    naming the first bad row and what is wrong with it."""
    path = recipe.reading.path
    if container_of(path) == "parquet":
        raise ConfigError(f"transcripts {path} are a parquet, which needs an index")
    chosen = _chosen(recipe, path)
    form = format_named(chosen)
    reading, pictures = _with_roots(recipe.reading, form), PictureFacts()
    for number, (_, length, content) in enumerate(_contents(path)):
        try:
            transcript = form.read(_object(content, length), number, reading)
            facts_of(transcript, pictures)
        except RejectedRow as rejected:
            raise ConfigError(f"row {number} of {path}: {rejected}") from rejected
        yield transcript


# ---- making -------------------------------------------------------------------------------------


def _make(recipe: Recipe, source: Path, folder: Path, stamp: list[Json]) -> None:
    path = recipe.reading.path
    try:
        with draft_folder(folder) as draft:
            summary = _fill(recipe, source, draft)
            _check_still(path, stamp)
            record = {"stamp": stamp, "rows_file": str(source), "summary": asdict(summary)}
            (draft / _TOLD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    except ConfigError:
        # A file that is half written looks torn.
        _check_still(path, stamp)
        raise


def _check_still(path: Path, stamp: list[Json]) -> None:
    if _stamp(path) != stamp:
        raise ConfigError(f"{path} is being written to; start again when it is finished")


def _fill(recipe: Recipe, source: Path, draft: Path) -> Summary:
    """Write everything but what says that the index is whole."""
    from tqdm import tqdm

    chosen = _chosen(recipe, source)
    form = format_named(chosen)
    reading, pictures = _with_roots(recipe.reading, form), PictureFacts()
    shown = {"total": source.stat().st_size, "unit": "B", "unit_scale": True, "delay": 5}
    title = f"reading {recipe.reading.path.name}"
    with (
        (draft / REJECTED).open("w", encoding="utf-8") as rejections,
        tqdm(**shown, desc=title, disable=None) as bar,
    ):
        made = IndexDraft(rejections)
        for number, (begin, length, content) in enumerate(_contents(source)):
            bar.update(begin + length - bar.n)
            try:
                row = _fitting(_object(content, length), recipe)
                transcript = form.read(row, number, reading)
                if recipe.leave_out and mentions(transcript, recipe.leave_out):
                    raise _Filtered(f"mentions tools of {', '.join(recipe.leave_out)}")
                facts = facts_of(transcript, pictures)
            except RejectedRow as rejected:
                is_wrong = not isinstance(rejected, _Filtered)
                made.leave_out(number, begin, rejected.reason, str(rejected), is_wrong=is_wrong)
            else:
                made.accept(number, begin, length, zlib.crc32(content), facts)
    return Summary(format=chosen, pictures=len(pictures), **made.finish(draft))


def _object(content: bytes, length: int) -> dict[str, Json]:
    if length > ROW_BYTES:
        raise RejectedRow("a row that is too long", f"{length} bytes; at most {ROW_BYTES}")
    return decoded(content)


class _Filtered(RejectedRow):
    """A good row that the config does not want."""


def _fitting(row: dict[str, Json], recipe: Recipe) -> dict[str, Json]:
    least, score = recipe.score_above, row.get("score")
    if least is None or "score" not in row:
        return row
    if not isinstance(score, int | float):
        raise RejectedRow("score is no number", f"score is {score!r:.40}, no number")
    if not score > least:
        raise _Filtered(f"score is not above {least:g}")
    return row


def _contents(source: Path) -> Iterator[tuple[int, int, bytes]]:
    """(first byte, length, bytes) of each row; the bytes of one that is too long are none."""
    with source.open("rb") as file, source.open("rb") as reader:
        num_rows = 0
        for begin, length in places(file, source):
            num_rows += 1
            is_read = length <= ROW_BYTES
            yield begin, length, os.pread(reader.fileno(), length, begin) if is_read else b""
    if not num_rows:
        raise ConfigError(
            f"transcripts {source} must be a JSON list with at least one conversation"
        )


def _chosen(recipe: Recipe, source: Path) -> str:
    """The format that the config names, or that the first rows are in."""
    if recipe.format != AUTO:
        return recipe.format
    head: list[dict[str, Json]] = []
    for _, _, content in itertools.islice(_contents(source), _HEAD_ROWS):
        try:
            head.append(decoded(content))
        except RejectedRow as rejected:
            wrong = rejected
    if not head:
        raise ConfigError(f"row 0 of {recipe.reading.path}: {wrong}")
    found = recognised(head)
    if not found:
        raise ConfigError(
            f"transcripts {recipe.reading.path} are in no known format: their first row has the "
            f"keys {', '.join(head[0]) or 'of nothing'}; a JSON list, JSON lines or a parquet of "
            "conversations (docs/DATA.md) is needed"
        )
    return found


def _with_roots(reading: Reading, form: Format) -> Reading:
    """With the format's own folders where the config names none."""
    if reading.depth and form is not format_named("llava"):
        raise ConfigError(
            f"transcripts {reading.path} show no depth pictures, which only llava has; leave "
            f"depth={reading.depth!r} out"
        )
    found = form.roots(reading)
    if reading.images != Path():
        return Reading(
            path=found.path, images=reading.images, depth=found.depth, system=found.system
        )
    return found


def _unpacked(path: Path, folder: Path) -> Path:
    with draft_folder(folder) as draft:
        parquet_rows.unpack(path, draft, folder)
    return folder / parquet_rows.ROWS


# ---- finding ------------------------------------------------------------------------------------


def _key(recipe: Recipe) -> str:
    reading = recipe.reading
    words: Sequence[object] = (
        reading.path.absolute(), reading.images, reading.depth, recipe.format, recipe.leave_out,
        recipe.score_above,
        reading.system,
    )  # fmt: skip
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()[:24]


def _stamp(path: Path) -> list[Json]:
    """Changes whenever the file, or the code that reads it, does."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino, _code_hash()]


@lru_cache(maxsize=1)
def _code_hash() -> str:
    room = Path(__file__).parent
    files = sorted(path for pattern in _CODE for path in room.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def _whole(folder: Path, stamp: list[Json], recipe: Recipe) -> Index | None:
    """An index that was made and stands; None where there is none."""
    try:
        record = json.loads((folder / _TOLD).read_text(encoding="utf-8"))
        if record["stamp"] != stamp:
            return None
        summary = Summary(**record["summary"])
        found = Index(folder, recipe, summary, Path(record["rows_file"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return found if len(found) == summary.accepted and found.rows.dtype == ROW else None


def _may_be_mended(index: Index, asked_s: float) -> bool:
    """Whether rows are out for their pictures, which may have been put there since it was made."""
    is_older = (index.folder / _TOLD).stat().st_mtime < asked_s
    return is_older and any(index.summary.rejected.get(reason) for reason in PICTURE_FAULTS)


def _mapped(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    return array
