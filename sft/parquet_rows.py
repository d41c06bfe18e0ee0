"""Rows of a parquet as JSON lines, with the pictures inside it as files: so that a row can be read
again by its place, which a parquet does not allow."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from toolshed.errors import ConfigError

ROWS = "rows.jsonl"
_BATCH_ROWS = 16
"""Of rows with pictures inside, some megabytes each."""
_BUFFER_BYTES = 1 << 20
_ENDINGS = {b"\xff\xd8": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}


def unpack(path: Path, draft: Path, folder: Path) -> None:
    """Write a parquet's rows and pictures into ``draft``, which will be called ``folder``.

    Bytes under ``bytes`` become a file, which the row names under ``image``; other bytes become
    base64. Raises ConfigError where the parquet cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
            (draft / ROWS).open("w", encoding="utf-8") as out,
        ):
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    plain = _plain(row, draft, folder)
                    out.write(json.dumps(plain, ensure_ascii=True, default=str) + "\n")
    except pa.ArrowException as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"transcripts {path} are no whole parquet ({why}); get them again") from (
            error
        )


def _plain(value: Any, draft: Path, folder: Path) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes):
            rest = {key: each for key, each in value.items() if key not in ("bytes", "path")}
            return rest | {"image": _written(value["bytes"], draft, folder)}
        return {key: _plain(each, draft, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, draft, folder) for each in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _written(encoded: bytes, draft: Path, folder: Path) -> str:
    """One file for all rows that share a picture; where it will be."""
    ending = next((name for start, name in _ENDINGS.items() if encoded.startswith(start)), "bin")
    name = f"{hashlib.sha256(encoded).hexdigest()[:24]}.{ending}"
    if not (draft / name).exists():
        (draft / name).write_bytes(encoded)
    return str(folder / name)
