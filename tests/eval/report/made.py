"""Rows for tests of reports, with nothing in them but what a test says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from eval.report.facts import RunFacts
from eval.rows import EvalRow
from rl.show.episode import CallRecord, Drawing, Episode, Picture, TurnRecord

FACTS = RunFacts(subject="tiny", policy="tiny 0123", tools="light", schema_hash="5" * 64)


def made_row(
    benchmark: str,
    number: int,
    score: float | None,
    *,
    kind: str = "yesno",
    question: str = "Is the cup left of the box?",
    turns: Sequence[TurnRecord] = (TurnRecord(text="<answer>Yes</answer>"),),
    picture: str = "",
    parts: dict[str, float] | None = None,
    **fields: Any,
) -> EvalRow:
    """One row; ``picture`` names its picture, one of its own without."""
    answer, target = fields.get("answer", "Yes"), fields.get("target", "Yes")
    episode = Episode(
        question_id=str(number),
        source=benchmark,
        kind=kind,
        question=question,
        pictures=(Picture(sha256=(picture or str(number)).rjust(64, "0")),),
        turns=tuple(turns),
        answer=answer,
        target=target,
        accuracy=score,
        parts=parts or {},
    )
    row = EvalRow(
        benchmark=benchmark,
        task=benchmark,
        question_id=str(number),
        draw="greedy",
        question_type="",
        question_hash=f"of {benchmark} {number}",
        state="answered" if score is not None else "",
        answer=answer,
        target=target,
        score=score,
        reward=score,
        stop_reason="answered",
        num_calls=episode.num_calls,
        seconds=1.0,
        seed=0,
        schema_hash="5" * 64,
        policy="tiny 0123",
        failure="" if score is not None else "sam2.segment_from_point: CUDA out of memory",
        episode=episode,
    )
    return replace(row, **fields)


def turn(*calls: CallRecord, text: str = "<think>Hm.</think>") -> TurnRecord:
    return TurnRecord(text=text, calls=calls, generate_s=0.5, tools_s=0.25, num_tokens=10)


def call(
    name: str,
    drawing: Drawing | None = None,
    *,
    reply: str = "seen",
    reason: str = "",
    total_s: float = 0.1,
    **arguments: Any,
) -> CallRecord:
    """A call that was answered, or refused for a reason."""
    return CallRecord(
        name=name,
        arguments=arguments,
        status="refused" if reason else "ok",
        reason=reason,
        reply=reply,
        drawing=drawing,
        total_s=total_s,
    )


def points(*places: tuple[float, float]) -> Drawing:
    return Drawing(shape="points", points=places)


def point(name: str, *places: tuple[float, float]) -> CallRecord:
    """A pointing call for a thing."""
    return call("roborefer.detect_one", points(*places), obj_name=name)


def reading(u: float, v: float, metres: float) -> CallRecord:
    drawing = Drawing(shape="value", label="depth_map", points=((u, v),), low=metres)
    return call("vision_ops.index_at", drawing, u=u, v=v)
