"""Small pictures for the page, read once and kept in a file so that a rewrite is quick."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from rl.show.episode import Picture
from rl.show.viewer import picture_name

log = logging.getLogger(__name__)

BUDGET_BYTES = 15_500_000
"""Of all thumbnails together, before base64."""
SIDES_PX = (640, 512, 448, 384, 352, 320, 288, 256)
"""Longest sides in use: the largest whose pictures are likely to fit the budget."""
_BYTES_PER_PX = 0.11
"""Of a photograph as WebP at 640 pixels' width; it decides the side, not what is kept."""
_QUALITIES = (58, 36, 18)
_THREADS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """One small picture."""

    width: int
    height: int
    data: str
    """Base64 of a WebP."""


_INSERT = "INSERT OR REPLACE INTO thumbnails VALUES (?,?,?,?,?)"


class Thumbnails:
    """Thumbnails by hash: from the kept file, else from the pictures' own files."""

    def __init__(self, cache: Path | None, roots: Sequence[Path]) -> None:
        """``cache``: where thumbnails are kept for the next time; None keeps none."""
        self._cache = cache
        self._roots = roots

    def of(self, pictures: Mapping[str, Picture]) -> dict[str, Thumbnail]:
        """Thumbnails of those that can be found, within BUDGET_BYTES; a picture whose file is
        gone or unreadable has none."""
        if not pictures:
            return {}
        side = _side_for(len(pictures))
        most = max(1_500, int(1.5 * BUDGET_BYTES / len(pictures)))
        found: dict[str, Thumbnail] = {}
        room = BUDGET_BYTES
        for sha256, width, height, content in self._all(pictures, side, most):
            room -= len(content)
            if room < 0:
                log.warning("the page has no room for further pictures")
                break
            data = base64.b64encode(content).decode("ascii")
            found[sha256] = Thumbnail(width=width, height=height, data=data)
        return found

    def _all(
        self, pictures: Mapping[str, Picture], side: int, most: int
    ) -> Iterator[tuple[str, int, int, bytes]]:
        """Each picture's hash, width, height and WebP."""
        with _opened(self._cache) as kept:
            select = "SELECT sha256, width, height, content FROM thumbnails WHERE side = ?"
            there = {row[0]: row for row in kept.execute(select, (side,)) if row[0] in pictures}
            yield from there.values()
            missing = [picture for sha, picture in pictures.items() if sha not in there]

            def make(picture: Picture) -> tuple[str, int, int, bytes] | None:
                return _made(picture, self._roots, side, most)

            with ThreadPoolExecutor(_THREADS) as pool:
                for row in pool.map(make, missing):
                    if row is not None:
                        values = (row[0], side, *row[1:])
                        with _unless_full(self._cache):
                            kept.execute(_INSERT, values)
                        yield row


@contextlib.contextmanager
def _unless_full(path: Path | None) -> Iterator[None]:
    """Thumbnails are kept to save time alone: a disk that takes no more stops nobody."""
    try:
        yield
    except sqlite3.OperationalError as error:
        log.warning("%s: %s; thumbnails are made again next time", path, error)


class _opened:
    """The kept file, committed and closed at the end; one that is damaged is made anew."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> sqlite3.Connection:
        if self._path is None:
            self._db = self._connected()
            return self._db
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = self._connected(self._path)
        except sqlite3.OperationalError:
            self._db = self._connected()
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            self._db = self._connected(self._path)
        return self._db

    def _connected(self, path: Path | None = None) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:" if path is None else path)
        db.execute(
            "CREATE TABLE IF NOT EXISTS thumbnails (sha256 TEXT, side INTEGER, width INTEGER, "
            "height INTEGER, content BLOB, PRIMARY KEY (sha256, side))"
        )
        return db

    def __exit__(self, *_: object) -> None:
        with _unless_full(self._path):
            self._db.commit()
        self._db.close()


def _side_for(num: int) -> int:
    for side in SIDES_PX:
        if num * side * side * 0.75 * _BYTES_PER_PX <= BUDGET_BYTES:
            return side
    return SIDES_PX[-1]


def _made(
    picture: Picture, roots: Sequence[Path], side: int, most: int
) -> tuple[str, int, int, bytes] | None:
    """Hash, width, height and WebP of one picture; None where no file of it can be read."""
    for path in places_of(picture, roots):
        try:
            with Image.open(path) as opened:
                # A JPEG is decoded at a fraction of its size.
                opened.draft("RGB", (2 * side, 2 * side))
                small = opened.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, zlib.error):
            continue
        small.thumbnail((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
        content = b""
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, format="WEBP", quality=quality, method=1)
            content = buffer.getvalue()
            if len(content) <= most:
                break
        return picture.sha256, small.width, small.height, content
    return None


def places_of(picture: Picture, roots: Sequence[Path]) -> Iterator[Path]:
    """Files that may hold a picture: its own, then those that runs kept."""
    places = [Path(picture.location)] if picture.location else []
    for root in roots:
        places.append(root / "pictures" / picture_name(picture.sha256))
        if picture.location:
            places.append(root / picture.location)
    for place in places:
        if place.is_file():
            yield place
