"""What is kept of a trajectory that was played for its trace: text, score and calls, no arrays."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.policy.prices import TokenUsage
from rl.types import Reward, StopReason, Trajectory
from sft.run_dir import draft_file
from toolshed.types import Detections, Json, ToolImage, ToolResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """One trajectory that ended."""

    question: str
    """Its id."""
    question_hash: str
    sample: int
    stop_reason: StopReason
    failure: str = ""
    """What broke; such a trajectory has no reward."""
    reward: Reward | None = None
    conversations: tuple[dict[str, str], ...] = ()
    """Turns after the system's, ``{from, value}``; none where it failed."""
    calls: tuple[dict[str, Any], ...] = ()
    """In order; docs/TEACHERS.md says what each holds."""
    taken: tuple[str, ...] = ()
    """Pictures that tools brought, as files, relative to the transcripts."""
    usage: TokenUsage = field(default_factory=TokenUsage)
    """Of an API's model, all tries of the sample together; else the sampled tokens of this one."""

    @property
    def num_chars(self) -> int:
        """Of what the policy said."""
        return sum(len(turn["value"]) for turn in self.conversations if turn["from"] != "user")


def played_of(
    trajectory: Trajectory, *, question_hash: str, out: Path, usage: TokenUsage | None
) -> Played:
    """The record of a scored or broken trajectory; pictures that tools brought are saved beside
    ``out``. Without ``usage`` the sampled tokens are counted."""
    question = trajectory.question
    if usage is None:
        written = sum(len(turn.completion.token_ids) for turn in trajectory.turns)
        usage = TokenUsage(output=written)
    if trajectory.reward is None:
        return Played(
            question=question.id,
            question_hash=question_hash,
            sample=trajectory.sample_index,
            stop_reason=trajectory.stop_reason,
            failure=trajectory.failure or str(trajectory.stop_reason),
            usage=usage,
        )
    return Played(
        question=question.id,
        question_hash=question_hash,
        sample=trajectory.sample_index,
        stop_reason=trajectory.stop_reason,
        reward=trajectory.reward,
        conversations=tuple(
            {"from": message.role, "value": _sayable(message.text)}
            for message in trajectory.messages
            if message.role != "system"
        ),
        calls=tuple(_calls(trajectory)),
        taken=tuple(_saved(image, out) for image in trajectory.images[len(question.images) :]),
        usage=usage,
    )


def _sayable(text: str) -> str:
    """The text as a file can hold it: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _calls(trajectory: Trajectory) -> list[dict[str, Json]]:
    return [
        {
            "turn": number,
            "name": call.name,
            "arguments": call.arguments,
            "status": result.status,
            "reason": result.reason,
            "point": _point(result),
            "variables": [each.name for each in result.variables if not each.name.startswith("_")],
        }
        for number, turn in enumerate(trajectory.turns)
        for call, result in zip(turn.calls, turn.results, strict=True)
    ]


def _point(result: ToolResult) -> Json:
    """The first, best point of a pointing tool."""
    if not isinstance(result.held, Detections) or not result.held.points:
        return None
    point = result.held.points[0]
    return [point.u, point.v]


def near(location: str, out: Path) -> str:
    """A picture's place relative to the transcripts; a data URI stays itself."""
    return location if location.startswith("data:") else os.path.relpath(location, out.parent)


def _saved(image: ToolImage, out: Path) -> str:
    from PIL import Image

    path = out.parent / f"{out.stem}_images" / f"{image.sha256[:24]}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_file(path) as draft:
            Image.fromarray(image.pixels).save(draft, "PNG", compress_level=1)
    return near(str(path), out)
