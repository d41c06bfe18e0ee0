"""What adapters are made of: records of foreign files, and rows in the released layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.benchmarks.entry import Row
from toolshed.types import Json


def as_row(question: str, image: str | Mapping[str, Any], ground_truth: Json, **extra: Json) -> Row:
    """A row with one picture, which comes before the words.

    ``image`` is a path, a data URI, or a mapping with ``bytes`` as data sets of the hub hold
    pictures. ``extra`` is kept with the question (``Question.extra``) and shown to nobody.
    """
    return {
        "prompt": [{"role": "user", "content": f"<image>{question}"}],
        "images": [image],
        "reward_model": {"ground_truth": ground_truth},
        "extra_info": {"question": question, **extra},
    }


def parquet_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of any parquet, all columns, a few in memory at a time; ConfigError where it is
    none."""
    from rl.questions.data import read_rows

    return read_rows(path, None)
