"""Evaluation rows: one JSON line per question and draw, appended as each finishes.

Invariants: a line is handed to the system whole before the next, so that a killed process loses
none, and one for which there is no room leaves nothing; bytes after the last newline are torn and
cut off with a warning, any other line that is no row is an error; of several lines with one key the
scored one counts, so that failures of our machinery are asked again and never scored as wrong.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from rl.rewards import AnswerState
from rl.show.episode import Episode
from sft.run_dir import naming
from toolshed.errors import ConfigError

log = logging.getLogger(__name__)

Draw = Literal["greedy"] | int


class RowKey(NamedTuple):
    """What may exist only once in a file."""

    benchmark: str
    question_id: str
    draw: Draw
    repeat: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRow:
    """One question, asked once."""

    benchmark: str
    """Key of ``eval.benchmarks.BENCHMARKS``."""
    task: str
    """Column of the tables: a part of the benchmark, or its own name."""
    question_id: str
    draw: Draw
    """``greedy``, or the number of the sampled draw."""
    repeat: int = 0
    """Number of the whole run that this row belongs to, where a run is repeated."""
    question_type: str
    """Of ``eval.scoring.question_type``; empty where a question fits no type or several."""
    state: AnswerState | Literal[""]
    """How the answer could be read; empty where nothing was scored."""
    answer: str | None
    target: JsonValue
    score: float | None
    """What the benchmark counts, in [0, 1]; None where our machinery broke."""
    reward: float | None
    stop_reason: str
    num_calls: int
    """Well-formed calls."""
    seconds: float
    seed: int
    """Of this draw; it decides every sampled token."""
    schema_hash: str
    """Of the tools that were offered."""
    policy: str
    """Which weights answered."""
    question_hash: str
    """Of what was asked and scored (``rl.identity``)."""
    failure: str = ""
    attempt: int = 0
    """How often our machinery had broken this question before."""
    episode: Episode

    @property
    def key(self) -> RowKey:
        return RowKey(self.benchmark, self.question_id, self.draw, self.repeat)

    @property
    def failed(self) -> bool:
        """Whether our machinery broke; such a row is neither right nor wrong."""
        return self.score is None


_ROW = TypeAdapter(EvalRow)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    rows: list[EvalRow]
    num_good_bytes: int


class RowLog:
    """A rows file open for appending by one process at a time; use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is being written by another run; wait for it or give another out="
            ) from None
        try:
            read = _read(path)
        except ConfigError:
            os.close(self._file)
            raise
        os.ftruncate(self._file, read.num_good_bytes)
        self._rows = {row.key: row for row in settled(read.rows)}
        self._num_broken = Counter(row.key for row in read.rows if row.failed)

    @property
    def rows(self) -> list[EvalRow]:
        """The settled rows so far, in the order of their first line."""
        return list(self._rows.values())

    def has(self, key: RowKey) -> bool:
        """Whether a key is done: a failure of our machinery is not."""
        row = self._rows.get(key)
        return row is not None and not row.failed

    def num_broken(self, key: RowKey) -> int:
        """Lines that say that our machinery broke this key."""
        return self._num_broken[key]

    def append(self, row: EvalRow) -> None:
        """Write one row to disk, whole or not at all; a second scored row of one key is a bug."""
        assert not self.has(row.key), f"row {row.key} exists already"
        line = _line(row)
        num_bytes = os.fstat(self._file).st_size
        with naming(self.path):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                # A disk that is full takes part of a line.
                os.ftruncate(self._file, num_bytes)
                raise
        self._rows[row.key] = row
        self._num_broken[row.key] += row.failed

    def close(self) -> None:
        try:
            with naming(self.path):
                os.fsync(self._file)
        finally:
            os.close(self._file)

    def __enter__(self) -> RowLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _line(row: EvalRow) -> bytes:
    """A row as JSON; half a surrogate pair, which no file can hold, becomes a question mark."""
    try:
        return _ROW.dump_json(row) + b"\n"
    except PydanticSerializationError:
        words = json.dumps(_ROW.dump_python(row), ensure_ascii=False)
        return words.encode("utf-8", "replace") + b"\n"


def read_rows(path: Path) -> list[EvalRow]:
    """The settled rows of a file; ConfigError if it is missing or not a rows file."""
    return settled(read_attempts(path))


def read_attempts(path: Path) -> list[EvalRow]:
    """Every line of a rows file, also of what was asked again; ConfigError as ``read_rows``."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the rows file that eval.run wrote")
    return _read(path).rows


def asked_again(attempts: Sequence[EvalRow]) -> list[EvalRow]:
    """Those that our machinery broke and another attempt followed."""
    last = {row.key: number for number, row in enumerate(attempts)}
    return [row for number, row in enumerate(attempts) if row.failed and last[row.key] != number]


def settled(rows: Iterable[EvalRow]) -> list[EvalRow]:
    """One row per key: the first scored one, else the last failure."""
    chosen: dict[RowKey, EvalRow] = {}
    for row in rows:
        if row.key not in chosen or chosen[row.key].failed:
            chosen[row.key] = row
    return list(chosen.values())


def scores_by_question(rows: Sequence[EvalRow], *, greedy: bool) -> dict[str, list[float]]:
    """Scores of the greedy answers, or of all sampled draws, per question."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if row.score is not None and (row.draw == "greedy") == greedy:
            scores.setdefault(row.question_id, []).append(row.score)
    return scores


def _read(path: Path) -> _Read:
    content = path.read_bytes()
    num_good_bytes = content.rfind(b"\n") + 1
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            rows.append(_ROW.validate_json(line))
        except ValidationError as error:
            raise ConfigError(
                f"{path} line {number} is no evaluation row "
                f"({error.errors()[0]['msg']}); move the file away or give another out="
            ) from error
    if num_good_bytes < len(content):
        log.warning("%s ends in a torn line, which is dropped and asked again", path)
    return _Read(rows=rows, num_good_bytes=num_good_bytes)
