"""The transcripts of what was kept, and a line on how each question ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rl.collection.filter import Ended
from rl.collection.played import Played, near
from rl.collection.prepare import Collection
from rl.types import Question
from sft.run_dir import write_atomic
from toolshed.errors import ConfigError
from toolshed.types import Json

ENDS = "questions.jsonl"


def write(collection: Collection, every: Sequence[Ended]) -> None:
    """Write the transcripts, whole or not at all, and nothing where there are none to go on with;
    ConfigError where others are there already and may not be replaced."""
    rows = [_transcript(played, end.question, collection) for end in every for played in end.kept]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    if collection.working is not None:
        lines = [json.dumps(_end(each)) + "\n" for each in every]
        write_atomic(collection.working / ENDS, "".join(lines))
        if not rows:
            return
    out = collection.out
    if out.exists() and not collection.overwrite:
        if out.read_text(encoding="utf-8") == text:
            return
        raise ConfigError(
            f"{out} holds other transcripts than these settings make of what was played; pass "
            "--force to write it again"
        )
    write_atomic(out, text)


def _transcript(played: Played, question: Question, collection: Collection) -> dict[str, Json]:
    """One conversation in the released SFT layout; the system turn is kept without tools."""
    reward = played.reward
    assert reward is not None, "only scored trajectories are written"
    pictures = [near(source.image, collection.out) for source in question.images]
    return {
        "task_id": f"{question.id}/{played.sample}",
        "dataset_index": _row_of(question),
        "score": reward.accuracy,
        "conversations": [dict(turn) for turn in played.conversations],
        "system": "\n\n".join(m.text for m in question.messages if m.role == "system"),
        "images": [*pictures, *played.taken],
        "source": collection.source,
        "tools_schema_hash": collection.tools.schema_hash,
        "ground_truth": question.target,
        "question_type": question.source.removeprefix("tabletop-"),
        "reward": {
            "value": reward.value,
            "accuracy": reward.accuracy,
            "well_formed": reward.well_formed,
            "parts": dict(reward.parts),
        },
        "answer": reward.answer,
        "answer_kind": question.kind,
        "calls": list(played.calls),
    }


def _row_of(question: Question) -> int:
    """Row of the parquet, which ``load_questions`` writes into the id."""
    return int(question.id.rpartition("/")[2])


def _end(each: Ended) -> dict[str, object]:
    return {
        "question": each.question.id,
        "end": each.end,
        "reason": each.reason,
        "kept": [played.sample for played in each.kept],
        "played": len(each.played),
        "stopped": each.stopped,
        "tokens": asdict(each.usage),
    }
