"""Evaluation sets by the hashes of their pictures and questions, and hashes that are kept at hand.

What is held in memory grows with the evaluation sets alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.overlap_rows import read_items
from sft.fingerprint import NEAR_BITS, Fingerprint, fingerprint, text_hash
from toolshed.errors import ConfigError
from toolshed.types import Json

_REMEMBERED_PICTURES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How files are read and compared."""

    root: Path | None = None
    """Where relative pictures of all files lie; None: beside their file."""
    texts_only: bool = False
    near_bits: int = NEAR_BITS
    num_examples: int = 5
    """Kept for each way and pair of files."""


class Pictures:
    """Fingerprints of locations; the last few thousand are remembered, for rows that share one."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Fingerprint] = OrderedDict()

    def of(self, location: str, place: str) -> Fingerprint:
        """Of a path or data URI; ConfigError naming the row where it cannot be read."""
        is_data = location.startswith("data:")
        key = hashlib.sha256(location.encode()).hexdigest() if is_data else location
        if key not in self._known:
            try:
                self._known[key] = fingerprint(location)
            except ConfigError as error:
                raise ConfigError(
                    f"{place}: {error}; give --root FOLDER, or --texts to compare texts alone"
                ) from error
            if len(self._known) > _REMEMBERED_PICTURES:
                self._known.popitem(last=False)
        return self._known[key]


class EvaluationSet:
    """The hashes of one evaluation file."""

    def __init__(self, name: str, path: Path, options: Options, pictures: Pictures) -> None:
        self.name = name
        self.path = path
        self.places: list[str] = []
        self._by_pixels: dict[str, set[int]] = {}
        self._by_text: dict[str, set[int]] = {}
        hashes: list[int] = []
        self._owners: list[int] = []
        for item in read_items(path, options.root):
            row = len(self.places)
            self.places.append(item.place)
            for text in item.texts:
                self._by_text.setdefault(text_hash(text), set()).add(row)
            for location in () if options.texts_only else item.pictures:
                found = pictures.of(location, item.place)
                self._by_pixels.setdefault(found.sha256, set()).add(row)
                hashes.append(found.dhash)
                self._owners.append(row)
        if not self.places:
            raise ConfigError(f"evaluation set {path} has no rows; make it again")
        self._dhashes: npt.NDArray[np.uint64] = np.array(hashes, dtype=np.uint64)

    def rows_with(self, texts: Sequence[str]) -> set[int]:
        """Rows that ask one of these texts."""
        return set().union(*(self._by_text.get(text_hash(text), ()) for text in texts))

    def rows_showing(self, pictures: Sequence[Fingerprint]) -> set[int]:
        """Rows with one of these pictures, pixel by pixel."""
        return set().union(*(self._by_pixels.get(one.sha256, ()) for one in pictures))

    def rows_near(self, pictures: Sequence[Fingerprint], bits: int) -> dict[int, int]:
        """Rows with a picture that differs in at most ``bits``, and in how many it differs."""
        near: dict[int, int] = {}
        for one in pictures:
            if not one.dhash or not self._owners:
                continue
            differ = np.bitwise_count(self._dhashes ^ np.uint64(one.dhash))
            for place in np.flatnonzero((differ <= bits) & (self._dhashes != 0)):
                row, distance = self._owners[place], int(differ[place])
                near[row] = min(distance, near.get(row, distance))
        return near

    def exported(self) -> dict[str, Json]:
        """What a training set may be cleaned by: hashes of pictures and of texts."""
        return {
            "rows": len(self.places),
            "picture_sha256": [*sorted(self._by_pixels)],
            "picture_dhash": [*sorted({f"{int(one):016x}" for one in self._dhashes if one})],
            "text_sha256": [*sorted(self._by_text)],
        }
