"""Short hashes of what answers depend on: a checkpoint's weights, what a question says."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from toolshed.errors import ConfigError

if TYPE_CHECKING:
    from hashlib import _Hash

    from rl.types import Question

WHOLE_BYTES = 1 << 30
"""Files of weights below this size are read whole: a second or two."""
TENSOR_BYTES = 1 << 16
"""Read of each tensor of a larger file; training moves all parts of a tensor, not its end alone."""

_LONGEST_HEADER = 100_000_000
"""What the format allows; the first bytes of another file may say anything."""


def policy_identity(folder: Path) -> str:
    """Twelve hexadecimal digits that change with the weights; for many gigabytes, in seconds."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        if size < WHOLE_BYTES:
            _add_file(digest, path)
        else:
            _add_tensors(digest, path)
    return digest.hexdigest()[:12]


def question_identity(question: Question) -> str:
    """Sixteen hexadecimal digits of all that is asked and scored, its pictures' bytes included.

    Where the pictures lie does not count, so a data set may be moved.
    """
    words = [
        question.source,
        question.kind,
        [[each.role, each.text] for each in question.messages],
        question.target,
        question.scene,
        question.extra,
        [source.focal_length_px for source in question.images],
    ]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
    for source in question.images:
        for location in (source.image, source.depth):
            digest.update(b"-" if location is None else _bytes_hash(location))
    return digest.hexdigest()[:16]


def _bytes_hash(location: str) -> bytes:
    if location.startswith("data:"):
        return hashlib.sha256(location.encode()).digest()
    try:
        found = Path(location).stat()
        return _file_hash(location, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ConfigError(
            f"image {location} cannot be read: {error}; check the data set"
        ) from error


@lru_cache(maxsize=16384)
def _file_hash(location: str, size: int, mtime_ns: int) -> bytes:
    """Of a file as it was last written: each repeat and each way of asking needs it again."""
    digest = hashlib.sha256()
    _add_file(digest, Path(location))
    return digest.digest()


def _add_file(digest: _Hash, path: Path) -> None:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)


def _add_tensors(digest: _Hash, path: Path) -> None:
    """The header of a safetensors file and the first bytes of each tensor."""
    with path.open("rb") as file:
        try:
            header = file.read(min(struct.unpack("<Q", file.read(8))[0], _LONGEST_HEADER))
            tensors = [one for name, one in json.loads(header).items() if name != "__metadata__"]
            spans = sorted(tuple(tensor["data_offsets"]) for tensor in tensors)
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no safetensors file; fetch it again") from error
        digest.update(header)
        data = file.tell()
        for begin, end in spans:
            file.seek(data + begin)
            digest.update(file.read(min(end - begin, TENSOR_BYTES)))
