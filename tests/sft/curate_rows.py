"""Rows of transcript files as rl.collect writes them, built from what tools and models say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.curation.traces import Trace, read_traces
from tests.sft.test_fingerprint import picture
from toolshed.chat import write_call, write_replies

Row = dict[str, Any]
Place = tuple[float, float]


@dataclass
class Said:
    """One call and its reply; each call has a turn of its own."""

    name: str
    arguments: dict[str, Any]
    reply: str
    point: Place | None = None
    variables: Sequence[str] = ()
    status: str = "ok"
    thought: str = ""


def detect(query: str, point: Place, **more: Any) -> Said:
    u, v = point
    reply = f"[({u:.2f}, {v:.2f})]"
    return Said("roborefer.detect_one", {"obj_name": query, "image_index": 0}, reply, point, **more)


def refused(query: str) -> Said:
    arguments = {"obj_name": query, "image_index": 0}
    return Said("roborefer.detect_one", arguments, f"not found: {query}", status="refused")


def depth(**more: Any) -> Said:
    kept = ("depth_map", "focal_length_px")
    call = "depth_estimator.estimate_depth"
    return Said(call, {"image_index": 0}, "$depth_map", variables=kept, **more)


def index(u: float, v: float, reads: float) -> Said:
    arguments = {"data": "$depth_map", "u": u, "v": v}
    return Said("vision_ops.index_at", arguments, f'{{"depth": {reads}}}')


def segment(u: float, v: float) -> Said:
    arguments = {"x": u, "y": v, "image_index": 0}
    call = "sam2.segment_from_point"
    return Said(call, arguments, "$segmentation_mask", variables=("segmentation_mask",))


@dataclass
class Spoken:
    """A conversation: question, calls, last thought, answer."""

    question: str = "Where is the red cube?"
    calls: Sequence[Said] = field(default_factory=lambda: [detect("red cube", (0.43, 0.57))])
    answer: str = "[(0.43, 0.57)]"
    kind: str = "point_object"
    thought: str = ""


def row(spoken: Spoken | None = None, *, image: str | None = "1.png", **changes: Any) -> Row:
    """With every field that rl.collect writes; ``changes`` replace some."""
    one = Spoken() if spoken is None else spoken
    mark = "" if image is None else "<image>"
    turns = [{"from": "user", "value": mark + one.question}]
    for said in one.calls:
        think = f"<think>{said.thought}</think>" if said.thought else ""
        call = write_call(said.name, said.arguments)
        turns.append({"from": "assistant", "value": think + call})
        turns.append({"from": "user", "value": write_replies([said.reply])})
    think = f"<think>{one.thought}</think>" if one.thought else ""
    turns.append({"from": "assistant", "value": f"{think}<answer>{one.answer}</answer>"})
    calls = [
        {
            "turn": turn,
            "name": said.name,
            "arguments": said.arguments,
            "status": said.status,
            "reason": "" if said.status == "ok" else "not_found",
            "point": None if said.point is None else [*said.point],
            "variables": [*said.variables],
        }
        for turn, said in enumerate(one.calls)
    ]
    return {
        "task_id": "a/0/0",
        "dataset_index": 0,
        "score": 1.0,
        "conversations": turns,
        "system": "Answer.",
        "images": [] if image is None else [image],
        "source": "teacher",
        "tools_schema_hash": "0" * 64,
        "ground_truth": "iVBORw0KGgo",
        "question_type": "point_object",
        "reward": {"value": 1.0, "accuracy": 1.0, "well_formed": True, "parts": {}},
        "answer": one.answer,
        "answer_kind": one.kind,
        "calls": calls,
    } | changes


def without_fields(full: Row) -> Row:
    """As the released set has it."""
    new = ("reward", "answer", "answer_kind", "calls")
    return {key: value for key, value in full.items() if key not in new}


def write_rows(folder: Path, *rows: Row, name: str = "traces.json") -> Path:
    """A file of rows beside the pictures 0.png to 5.png."""
    for seed in range(6):
        if not (folder / f"{seed}.png").exists():
            picture(seed).save(folder / f"{seed}.png")
    path = folder / name
    path.write_text(json.dumps([*rows]))
    return path


def traces(folder: Path, *rows: Row) -> list[Trace]:
    return read_traces(write_rows(folder, *rows))


def answered(folder: Path, words: Sequence[str], **changes: Any) -> list[Trace]:
    """Yes/no rows with these answers, each about a question of its own."""
    return traces(
        folder,
        *(
            row(
                Spoken(question=f"Is it {n}?", answer=word, kind="yesno"), task_id=str(n), **changes
            )
            for n, word in enumerate(words)
        ),
    )
