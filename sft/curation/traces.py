"""Transcripts as curation reads them: what their fields say, and what follows from their text.

``rl.collect`` writes a field ``calls``; where a row has none, its calls are parsed from the text,
and what a text does not say is None, never a guess.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

from sft.data import load_transcripts
from sft.formats import llava
from sft.transcript import Transcript
from toolshed.chat import answer_of, parse_calls
from toolshed.errors import ConfigError
from toolshed.types import Json

Place: TypeAlias = tuple[float, float]
"""Normalised (x, y)."""
State: TypeAlias = Literal["ok", "refused", "failed"]

_NUMBER = r"-?\d+(?:\.\d+)?"
_PAIR = re.compile(rf"[(\[]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[)\]]")
_REPLY = re.compile(r"<tool_response>\n(.*?)\n</tool_response>", re.DOTALL)
_VARIABLE = re.compile(r"\$([A-Za-z][A-Za-z0-9_]*)")
_POINTS = re.compile(rf"\[\({_NUMBER}, {_NUMBER}\)(?:, \({_NUMBER}, {_NUMBER}\))*\]")
_DETECTED = re.compile(rf"Detected \d+ instance\(s\) of '.*?': ({_POINTS.pattern})", re.DOTALL)
_CALL = re.compile(r"<tool_call>.*?(?:</tool_call>|$)", re.DOTALL)
_ANSWER = re.compile(r"<answer>.*?(?:</answer>|$)", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Ha-h])[).:]?")


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """One call and what came of it."""

    turn: int
    """Of the assistant, from 0."""
    name: str
    arguments: dict[str, Json]
    status: State | None
    """None where only the text is known, and it does not say."""
    reason: str
    points: tuple[Place, ...]
    """What a pointing tool returned."""
    variables: tuple[str, ...] | None
    """Names that the reply stored; None where the text names none and there may be some."""
    reply: str | None
    """What the model read; None where replies and calls of the turn are not as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One row of a transcript file."""

    place: str
    """``FILE row N``, counted from 0."""
    row: dict[str, Json]
    """As it was read."""
    pictures: tuple[str, ...]
    """Absolute paths and data URIs."""
    question: str
    turns: tuple[str, ...]
    """What the assistant said."""
    replies: tuple[tuple[str, ...], ...]
    """What tools replied to each of the assistant's turns."""
    calls: tuple[CallRecord, ...]
    malformed: int
    """Attempted calls in the text that cannot be read."""
    answer: str | None

    @property
    def task_id(self) -> str:
        return str(self.row.get("task_id", ""))

    @property
    def source(self) -> str:
        return str(self.row.get("source") or "no source")

    @property
    def task(self) -> str:
        return str(self.row.get("question_type") or "no question_type")

    @property
    def chain(self) -> str:
        """Names of the tools in the order of their calls."""
        return " > ".join(call.name for call in self.calls) or "no calls"

    @property
    def kind(self) -> str | None:
        """Of the answer; without the field only where the text says it: Yes, No or a letter."""
        if isinstance(self.row.get("answer_kind"), str):
            return str(self.row["answer_kind"])
        if self.answer is None:
            return None
        if self.answer.strip().casefold() in ("yes", "no"):
            return "yesno"
        return "choice" if _LETTER.fullmatch(self.answer.strip()) else None

    def texts(self) -> list[str]:
        """Of all turns, what tools replied included."""
        turns = cast("list[dict[str, Json]]", self.row["conversations"])
        return [str(turn.get("value", turn.get("content"))) for turn in turns]

    def thought(self, turn: int) -> str:
        """What a turn says beside calls and answer."""
        return _ANSWER.sub(" ", _CALL.sub(" ", self.turns[turn]))


def pairs(text: str) -> tuple[Place, ...]:
    """Every pair of numbers in round or square brackets."""
    return tuple((float(u), float(v)) for u, v in _PAIR.findall(text))


def near(one: Place, other: Place, tolerance: float) -> bool:
    """Whether both coordinates differ by at most ``tolerance``."""
    return all(abs(a - b) <= tolerance + 1e-9 for a, b in zip(one, other, strict=True))


def read_traces(path: Path) -> list[Trace]:
    """A transcript file's rows; ConfigError names the first that is wrong, and how."""
    transcripts = load_transcripts(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        rows = []
    if not isinstance(rows, list) or len(rows) != len(transcripts) or any(map(is_foreign, rows)):
        raise ConfigError(
            f"traces {path} are no JSON list in the layout of rl.collect and of the released set "
            "(ShareGPT, docs/DATA.md); curate files of that layout"
        )
    return [
        _trace(row, transcript, f"{path} row {number}")
        for number, (row, transcript) in enumerate(zip(rows, transcripts, strict=True))
    ]


def is_foreign(row: dict[str, Json]) -> bool:
    """Whether a row is in another layout than ShareGPT's."""
    return "conversations" not in row or llava.fits(row)


def _trace(row: dict[str, Json], transcript: Transcript, place: str) -> Trace:
    said = transcript.messages[1:]
    turns = tuple(message.text for message in said if message.role == "assistant")
    heard = [message.text for message in said if message.role == "user"]
    texts = [*heard[1:], *[""] * len(turns)][: len(turns)]
    replies = tuple(tuple(_REPLY.findall(text)) for text in texts)
    if "calls" in row:
        calls = _recorded(row["calls"], turns, replies, place)
    else:
        calls = tuple(call for turn in range(len(turns)) for call in _parsed(turns, replies, turn))
    answer = row["answer"] if "answer" in row else answer_of(turns[-1])
    if not isinstance(answer, str | None):
        raise ConfigError(f"{place}: answer is {answer!r:.60}, no text; collect the traces again")
    return Trace(
        place=place,
        row=row,
        pictures=tuple(
            image.image if image.image.startswith("data:") else _absolute(image.image)
            for image in transcript.images
        ),
        question=heard[0],
        turns=turns,
        replies=replies,
        calls=calls,
        malformed=sum(len(parse_calls(text).errors) for text in turns),
        answer=answer,
    )


def _absolute(path: str) -> str:
    """A path by its own name in its folder's real one: ``..`` of a link leads elsewhere."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


# ---- calls of the field ---------------------------------------------------------------------


def _recorded(
    listed: Json,
    turns: tuple[str, ...],
    replies: tuple[tuple[str, ...], ...],
    place: str,
) -> tuple[CallRecord, ...]:
    if not isinstance(listed, list):
        raise ConfigError(f"{place}: calls is {listed!r:.60}, no list; collect the traces again")
    entries = [_checked(entry, len(turns), f"{place}: call {n}") for n, entry in enumerate(listed)]
    heard = [_call_replies(turns[turn], replies[turn]) for turn in range(len(turns))]
    calls = []
    for number, entry in enumerate(entries):
        turn = cast(int, entry["turn"])
        beside = [n for n, other in enumerate(entries) if other["turn"] == turn]
        known = len(beside) == len(heard[turn])
        reply = heard[turn][beside.index(number)] if known else None
        name, point = str(entry["name"]), entry.get("point")
        points = _detections(name, reply)
        if isinstance(point, list):
            own = (float(cast(float, point[0])), float(cast(float, point[1])))
            # A reply may have rounded it.
            points = points if any(near(own, one, 0.0051) for one in points) else (own, *points)
        calls.append(
            CallRecord(
                turn=turn,
                name=name,
                arguments=cast("dict[str, Json]", entry["arguments"]),
                status=cast(State, entry["status"]),
                reason=str(entry.get("reason") or ""),
                points=points,
                variables=tuple(map(str, cast("list[Json]", entry["variables"]))),
                reply=reply,
            )
        )
    return tuple(calls)


def _call_replies(text: str, replies: tuple[str, ...]) -> list[str | None]:
    """The reply to each readable call of a turn; attempts that cannot be read have one as well."""
    found = parse_calls(text)
    starts = sorted([*(c.start for c in found.calls), *(e.start for e in found.errors)])
    if len(starts) != len(replies):
        return [None] * len(found.calls)
    return [replies[starts.index(call.start)] for call in found.calls]


def _checked(entry: Json, num_turns: int, place: str) -> Mapping[str, Json]:
    """ConfigError where an entry of the field is not as ``rl.collect`` writes it."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{place} is {entry!r:.60}, no object; collect the traces again")
    turn, point = entry.get("turn"), entry.get("point")
    right = {
        "turn": isinstance(turn, int) and not isinstance(turn, bool) and 0 <= turn < num_turns,
        "name": isinstance(entry.get("name"), str),
        "arguments": isinstance(entry.get("arguments"), dict),
        "status": entry.get("status") in ("ok", "refused", "failed"),
        "point": point is None or _is_place(point),
        "variables": isinstance(entry.get("variables"), list),
    }
    for field, is_right in right.items():
        if not is_right:
            raise ConfigError(
                f"{place} has {field}={entry.get(field)!r:.60}, which rl.collect never writes; "
                "collect the traces again"
            )
    return entry


def _is_place(point: Json) -> bool:
    numbers = isinstance(point, list) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in point
    )
    return numbers and len(cast("list[Json]", point)) == 2


# ---- calls of the text ----------------------------------------------------------------------


def _parsed(
    turns: tuple[str, ...], replies: tuple[tuple[str, ...], ...], turn: int
) -> list[CallRecord]:
    calls = []
    heard = _call_replies(turns[turn], replies[turn])
    for call, reply in zip(parse_calls(turns[turn]).calls, heard, strict=True):
        refused = reply is not None and reply.removeprefix("<image>").startswith("Error")
        named = tuple(dict.fromkeys(_VARIABLE.findall(reply or "")))
        calls.append(
            CallRecord(
                turn=turn,
                name=call.name,
                arguments=call.arguments,
                status="refused" if refused else None,
                reason="the reply begins with Error" if refused else "",
                points=_detections(call.name, reply),
                variables=named or None,
                reply=reply,
            )
        )
    return calls


def _detections(name: str, reply: str | None) -> tuple[Place, ...]:
    """Points in the reply of a pointing tool, in the two forms that replies have."""
    if reply is None or not name.rpartition(".")[2].startswith("detect"):
        return ()
    released = _DETECTED.match(reply)
    if released:
        return pairs(released[1])
    return pairs(reply) if _POINTS.fullmatch(reply.strip()) else ()
