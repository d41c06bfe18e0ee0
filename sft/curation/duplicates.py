"""Rows that are there already: the same text about the same pictures."""

from __future__ import annotations

from collections.abc import Sequence

from sft.curation.config import DuplicateConfig
from sft.curation.ledger import Ledger
from sft.curation.pictures import Fingerprints
from sft.curation.traces import Trace
from sft.fingerprint import Fingerprint, text_hash


def without_duplicates(
    traces: list[Trace], config: DuplicateConfig, prints: Fingerprints, ledger: Ledger
) -> list[Trace]:
    """The first of all rows that are the same; pictures are compared in their order."""
    if config.by == "none":
        return traces
    kept: list[Trace] = []
    same: dict[tuple[str, tuple[str, ...]], Trace] = {}
    alike: dict[str, list[tuple[tuple[Fingerprint, ...], Trace]]] = {}
    for trace in traces:
        text, shown = text_hash(compared_text(trace, config.by)), prints.of(trace)
        key = (text, tuple(one.sha256 for one in shown))
        first, reason = same.get(key), "same"
        if first is None and config.near_bits and shown:
            first, reason = _nearest(shown, alike.get(text, ()), config.near_bits), "near"
        if first is not None:
            told = f"{config.by} and pictures are those of {first.place}"
            ledger.drop(trace, "duplicates", reason, told)
            continue
        same[key] = trace
        alike.setdefault(text, []).append((shown, trace))
        kept.append(trace)
    return kept


def compared_text(trace: Trace, by: str) -> str:
    """The question, or all that was said."""
    if by == "question":
        return trace.question
    heard = [reply for turn in trace.replies for reply in turn]
    return " ".join([trace.question, *trace.turns, *heard])


def _nearest(
    shown: tuple[Fingerprint, ...],
    others: Sequence[tuple[tuple[Fingerprint, ...], Trace]],
    bits: int,
) -> Trace | None:
    for pictures, trace in others:
        if len(pictures) == len(shown) and all(
            are_near(one, other, bits) for one, other in zip(shown, pictures, strict=True)
        ):
            return trace
    return None


def are_near(one: Fingerprint, other: Fingerprint, bits: int) -> bool:
    """Whether pictures are the same or nearly so; one without any gradient is near to nothing."""
    if one.sha256 == other.sha256:
        return True
    return bool(one.dhash and other.dhash) and (one.dhash ^ other.dhash).bit_count() <= bits
