"""The episodes of an evaluation's rows as its page reads them (``rl/show/episodes.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.chains import chain_of
from eval.gate import Finding
from eval.report.anatomy import CLASS_WORDS, Anatomy
from eval.report.answers import mode_of, type_of
from eval.rows import EvalRow, RowKey
from rl.show.episodes import judged, packed, played
from toolshed.types import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """What the page embeds."""

    episodes: str
    """Base64 of the deflated JSON list, in the order of the rows."""
    num_episodes: int


def payload(
    rows: Sequence[EvalRow],
    anatomies: Mapping[RowKey, Anatomy],
    findings: Sequence[Finding],
    picture_numbers: Mapping[str, int],
    *,
    scored: bool = True,
) -> Payload:
    """All rows; ``picture_numbers`` are those of the embedded thumbnails by hash. Unless ``scored``
    nothing tells whether an answer is right: no score, outcome, class or truth."""
    words: dict[RowKey, list[str]] = {}
    for finding in findings:
        words.setdefault(finding.key, []).append(f"{finding.kind}: {finding.words}")
    told = [
        _episode(row, words.get(row.key, []), picture_numbers)
        | (_judged(row, anatomies[row.key]) if scored else {})
        for row in rows
    ]
    return Payload(episodes=packed(told), num_episodes=len(told))


def _episode(row: EvalRow, findings: list[str], numbers: Mapping[str, int]) -> dict[str, Json]:
    told: dict[str, Json] = {
        "benchmark": row.benchmark,
        "id": row.question_id,
        "draw": str(row.draw),
        "mode": mode_of(row),
        "repeat": row.repeat,
        "type": type_of(row),
        "chain": chain_of(row.episode).signature,
        "seconds": round(row.seconds, 3),
        **played(row.episode, numbers),
        "calls": row.num_calls,
    }
    optional: dict[str, Json] = {
        "state": "" if row.state == "answered" else row.state,
        "failure": row.failure,
        "findings": list(findings),
    }
    return told | {name: value for name, value in optional.items() if value}


def _judged(row: EvalRow, anatomy: Anatomy) -> dict[str, Json]:
    """Everything that tells how good an answer is."""
    told: dict[str, Json] = {
        "outcome": anatomy.outcome,
        "score": None if row.score is None else round(row.score, 4),
        **judged(row.episode),
    }
    optional: dict[str, Json] = {
        "error": CLASS_WORDS[anatomy.error] if anatomy.error else "",
        "why": anatomy.why,
    }
    return told | {name: value for name, value in optional.items() if value}
