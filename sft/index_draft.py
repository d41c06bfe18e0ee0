"""An index under construction: numbers of accepted rows, and a line for each that is left out."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import IO, TypedDict

import numpy as np

from sft.row_facts import RowFacts

ROW = np.dtype(
    [("row", "<i8"), ("begin", "<i8"), ("length", "<i8"), ("check", "<u4"), ("tokens", "<i8")]
)
"""Number in the file, first byte, number of bytes, CRC-32 of these, and tokens by estimate."""
_DETAIL_CHARS = 300


class Counts(TypedDict):
    """Fields of an index's summary."""

    rows: int
    accepted: int
    rejected: dict[str, int]
    filtered: dict[str, int]
    tokens: int
    tools: dict[str, int]
    first: str


class IndexDraft:
    """Takes each row of a file in order."""

    def __init__(self, rejected: IO[str]) -> None:
        self._columns = [array("q") for _ in ROW.names or ()]
        self._texts, self._text_ends = array("Q"), array("q")
        self._pictures, self._picture_ends = array("Q"), array("q")
        self._rejected: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()
        self._first = ""
        self._file = rejected

    def accept(self, row: int, begin: int, length: int, check: int, facts: RowFacts) -> None:
        values = (row, begin, length, check, facts.tokens)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._texts.extend(facts.texts)
        self._text_ends.append(len(self._texts))
        self._pictures.extend(facts.pictures)
        self._picture_ends.append(len(self._pictures))
        self._tools.update(facts.tools)

    def leave_out(self, row: int, begin: int, reason: str, detail: str, *, is_wrong: bool) -> None:
        """A rejected row, or a good one that is not wanted."""
        (self._rejected if is_wrong else self._filtered)[reason] += 1
        if is_wrong and not self._first:
            self._first = f"row {row}: {detail[:_DETAIL_CHARS]}"
        line = {
            "row": row,
            "byte": begin,
            "is": "rejected" if is_wrong else "filtered",
            "reason": reason,
            "detail": detail[:_DETAIL_CHARS],
        }
        self._file.write(json.dumps(line) + "\n")

    def finish(self, folder: Path) -> Counts:
        """Write all arrays into ``folder``."""
        num_rows = len(self._columns[0])
        rows = np.empty(num_rows, dtype=ROW)
        for name, column in zip(ROW.names or (), self._columns, strict=True):
            rows[name] = column
        np.save(folder / "rows.npy", rows)
        np.save(folder / "texts.npy", np.array(self._texts, dtype=np.uint64))
        np.save(folder / "text_ends.npy", np.array(self._text_ends, dtype=np.int64))
        np.save(folder / "pictures.npy", np.array(self._pictures, dtype=np.uint64))
        np.save(folder / "picture_ends.npy", np.array(self._picture_ends, dtype=np.int64))
        return Counts(
            rows=num_rows + self._rejected.total() + self._filtered.total(),
            accepted=num_rows,
            rejected=dict(self._rejected.most_common()),
            filtered=dict(self._filtered.most_common()),
            tokens=int(rows["tokens"].sum()),
            tools=dict(sorted(self._tools.items())),
            first=self._first,
        )
