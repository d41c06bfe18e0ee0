"""Rows that evaluation sets hold, found by the hashes that ``eval.overlap --export`` wrote.

A list tells which pictures and which texts a set has, not which belong together: a row shares
picture and text with a set that has both of them somewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sft.curation.config import WAYS
from sft.curation.ledger import Ledger
from sft.curation.pictures import Fingerprints
from sft.curation.traces import Trace
from sft.fingerprint import Fingerprint, text_hash
from toolshed.errors import ConfigError

FORMAT = "spacetools-evaluation-hashes-1"
_REMEDY = "write it with python -m eval.overlap SET.parquet --export FILE"


@dataclass(frozen=True, kw_only=True, slots=True)
class HashList:
    """One evaluation set."""

    name: str
    rows: int
    near_bits: int
    sha256: frozenset[str]
    """Of pictures."""
    dhash: npt.NDArray[np.uint64]
    """Of pictures, shape (N,)."""
    texts: frozenset[str]


def read_lists(paths: Sequence[str]) -> list[HashList]:
    """Every set of every file; ConfigError where one is missing or of another form."""
    found: list[HashList] = []
    for path in paths:
        found += _read(Path(path))
    return found


def _read(path: Path) -> list[HashList]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"contamination.lists: {path} does not exist; {_REMEDY}") from error
    except (ValueError, IsADirectoryError) as error:
        raise ConfigError(f"contamination.lists: {path} is no JSON file; {_REMEDY}") from error
    form = held.get("format") if isinstance(held, dict) else type(held).__name__
    if form != FORMAT:
        raise ConfigError(
            f"contamination.lists: {path} has format {form!r:.60}, not {FORMAT}; {_REMEDY}"
        )
    try:
        return [_list(name, one, int(held["near_bits"])) for name, one in held["sets"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"contamination.lists: {path} is not whole ({error!r:.80}); {_REMEDY}"
        ) from error


def _list(name: str, one: dict[str, Any], near_bits: int) -> HashList:
    return HashList(
        name=name,
        rows=int(one["rows"]),
        near_bits=near_bits,
        sha256=frozenset(one["picture_sha256"]),
        dhash=np.array([int(each, 16) for each in one["picture_dhash"]], dtype=np.uint64),
        texts=frozenset(one["text_sha256"]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """How many rows met one set in one way, dropped or not."""

    name: str
    way: str
    rows: int


def ways_met(trace: Trace, shown: Sequence[Fingerprint], one: HashList) -> list[str]:
    """In which of WAYS a row meets a set; a picture that is the same is not near as well."""
    same = any(each.sha256 in one.sha256 for each in shown)
    near = not same and any(_is_near(each, one) for each in shown)
    text = text_hash(trace.question) in one.texts
    met = {
        "same_picture": same,
        "near_picture": near,
        "same_text": text,
        "picture_and_text": text and (same or near),
    }
    return [way for way in WAYS if met[way]]


def _is_near(shown: Fingerprint, one: HashList) -> bool:
    if not shown.dhash or not one.dhash.size:
        return False
    return bool(np.any(np.bitwise_count(one.dhash ^ np.uint64(shown.dhash)) <= one.near_bits))


def without_contamination(
    traces: list[Trace],
    lists: Sequence[HashList],
    drop: Sequence[str],
    prints: Fingerprints,
    ledger: Ledger,
) -> tuple[list[Trace], list[Meeting]]:
    """Rows that meet no set in a way of ``drop``, and how many met which set how."""
    counts = {(one.name, way): 0 for one in lists for way in WAYS}
    for one in lists:
        if not one.sha256 and set(drop) != {"same_text"}:
            ledger.unchecked["contamination", f"not checked: no pictures in {one.name}"] = len(
                traces
            )
    kept = []
    for trace in traces:
        shown = prints.of(trace) if lists else ()
        found = [(one.name, way) for one in lists for way in ways_met(trace, shown, one)]
        for each in found:
            counts[each] += 1
        grave = [(name, way) for name, way in found if way in drop]
        if grave:
            name, way = grave[-1]
            told = f"shares {way.replace('_', ' ')} with the evaluation set {name}"
            ledger.drop(trace, "contamination", way, told)
        else:
            kept.append(trace)
    return kept, [Meeting(name=n, way=way, rows=rows) for (n, way), rows in counts.items()]
