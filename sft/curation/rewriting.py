"""Queries for an anchor alone that become queries for the place that the question asks for.

A demonstration that asks the pointer for "cup" where the question asks for the free space left of
the cup, and answers a place that the pointer never said, teaches to overrule the pointer. Such a
row is rewritten where every word follows from its fields: the query becomes the place in the
question's words, and the reply is what a pointer that finds it says, the answer, which was right.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import cast

from sft.curation.config import RewriteConfig
from sft.curation.traces import CallRecord, Place, Trace, near, pairs
from sft.fingerprint import normal_text
from toolshed.types import Json

QUERY = "obj_name"
"""The argument in which pointing tools are told what to look for."""
REWRITTEN, AS_ASKED = "rewritten", "the query names the place already"
_PAIR_TEXT = re.compile(r"[(\[]\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*[)\]]")


def rewrite(
    traces: list[Trace], config: RewriteConfig, tolerance: float
) -> tuple[list[Trace], dict[str, int]]:
    """All rows, some rewritten, and how many were or why not; no row is dropped."""
    counts: dict[str, int] = {}
    if not config.phrase:
        return traces, counts
    phrase = re.compile(config.phrase)
    rows = []
    for trace in traces:
        made = rewritten(trace, phrase, tolerance)
        told = REWRITTEN if isinstance(made, Trace) else made
        counts[told] = counts.get(told, 0) + 1
        rows.append(made if isinstance(made, Trace) else trace)
    return rows, dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def rewritten(trace: Trace, phrase: re.Pattern[str], tolerance: float) -> Trace | str:
    """The row with a query for the place, or why it stays as it is."""
    asked = list(phrase.finditer(trace.question))
    if len(asked) != 1:
        return f"rewrite.phrase is found {len(asked)} times in the question"
    place = " ".join(asked[0][1].split())
    if len(trace.calls) != 1 or len(trace.calls[0].points) != 1:
        return "not exactly one call that returned one point"
    call, answered = trace.calls[0], pairs(trace.answer or "")
    query = call.arguments.get(QUERY)
    if not isinstance(query, str) or call.reply is None:
        return f"the call has no {QUERY} or no reply"
    if normal_text(query) == normal_text(place):
        return AS_ASKED
    if f" {normal_text(query)} " not in f" {normal_text(place)} ":
        return "the place does not name what was looked for"
    if len(answered) != 1 or near(answered[0], call.points[0], tolerance):
        return "the answer is the tool's point, or no single point"
    if _accuracy(trace) != 1.0:
        return "the answer is not known to be right"
    if _speaks_of(trace, call, place):
        return "a thought speaks of the query's words or point"
    if trace.turns[call.turn].count(_quoted(query)) != 1:
        return "the query is not once in the call's text"
    return _with_query(trace, call, query, place)


def _accuracy(trace: Trace) -> float | None:
    reward = trace.row.get("reward")
    found = reward.get("accuracy") if isinstance(reward, dict) else trace.row.get("score")
    return float(found) if isinstance(found, int | float) else None


def _speaks_of(trace: Trace, call: CallRecord, place: str) -> bool:
    """Whether a thought would be untrue of the new query: it has the old point's figures, or a call
    is announced for the old words."""
    said = " ".join(trace.thought(turn) for turn in range(len(trace.turns)))
    figures = _PAIR_TEXT.search(call.reply or "")
    written = [] if figures is None else [figures[1], figures[2]]
    query = normal_text(str(call.arguments[QUERY]))
    before = normal_text(" ".join(trace.thought(turn) for turn in range(call.turn + 1)))
    before = f" {before} ".replace(f" {normal_text(place)} ", " ")
    return any(figure in said for figure in written) or f" {query} " in before


def _with_query(trace: Trace, call: CallRecord, query: str, place: str) -> Trace:
    found = _PAIR_TEXT.search(trace.answer or "")
    assert found is not None and call.reply is not None, "the answer is one point"
    point = f"({found[1]}, {found[2]})"
    reply = _PAIR_TEXT.sub(point, call.reply, count=1).replace(f"'{query}'", f"'{place}'", 1)
    turns = list(trace.turns)
    turns[call.turn] = turns[call.turn].replace(_quoted(query), _quoted(place))
    replies = list(trace.replies)
    replies[call.turn] = (reply,)
    arguments: dict[str, Json] = {**call.arguments, QUERY: place}
    new = replace(call, arguments=arguments, points=pairs(point), reply=reply)
    row = _new_row(trace, turns, (call.reply, reply), new)
    row["rewritten"] = {"query": query, "point": [*call.points[0]]}
    return replace(trace, row=row, turns=tuple(turns), replies=tuple(replies), calls=(new,))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _new_row(
    trace: Trace, turns: list[str], replies: tuple[str, str], call: CallRecord
) -> dict[str, Json]:
    """The row as it is to be written: its turns, and its field ``calls`` where it has one."""
    conversation = []
    said = iter(turns)
    for turn in cast("list[dict[str, Json]]", trace.row["conversations"]):
        key = "value" if "value" in turn else "content"
        text = str(turn[key])
        if turn.get("from", turn.get("role")) in ("assistant", "gpt"):
            text = next(said)
        elif "<tool_response>" in text:
            text = text.replace(*replies, 1)
        conversation.append({**turn, key: text})
    row: dict[str, Json] = {**trace.row, "conversations": cast(Json, conversation)}
    if "calls" in row:
        (entry,) = cast("list[dict[str, Json]]", row["calls"])
        point: Place = call.points[0]
        row["calls"] = [{**entry, "arguments": call.arguments, "point": [*point]}]
    return row
