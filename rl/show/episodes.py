"""Episodes as the script of a page reads them: compact JSON, deflated, in base64.

Pictures are told by number; drawings are told as shapes in normalised places, and drawn in the
browser when somebody opens the episode (``rl/show/page/drawing.js``, ``rl/show/page/gallery.js``).
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from rl.rewards import answer as read
from rl.rewards import geometry
from rl.show.episode import CallRecord, Drawing, Episode, Picture, TurnRecord
from rl.show.viewer import answer_words, target_words, thoughts
from toolshed.types import Json, Point

LONGEST_TEXT = 6_000
"""Characters of one reply or thought; the file that the page was made from has the rest."""
LONGEST_RASTER = 12_000
"""Characters of a mask's or depth map's PNG; larger ones are left out, target masks reduced."""
_MASK_PX = 384

_DRAWN = {"points", "mask", "depth", "value", "box", "grasp", "grasped", "placed"}


def packed(told: Sequence[Json]) -> str:
    """Base64 of the deflated JSON list."""
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    # Half of a pair of surrogates, which a model may well write, has no UTF-8.
    content = zlib.compress(text.encode("utf-8", "replace"), 6)
    return base64.b64encode(content).decode("ascii")


def shown_pictures(episodes: Iterable[Episode]) -> dict[str, Picture]:
    """Every picture that an episode shows, by hash, one with a file before one without."""
    found: dict[str, Picture] = {}
    for episode in episodes:
        shown = [episode.prompt_picture] if episode.prompt_picture else []
        for picture in (*shown, *episode.pictures):
            if picture.sha256 not in found or not found[picture.sha256].location:
                found[picture.sha256] = picture
    return found


def played(episode: Episode, numbers: Mapping[str, int]) -> dict[str, Json]:
    """What was asked, seen, done and answered; ``numbers`` are those of the page's pictures by
    hash."""
    seen = episode.prompt_picture or (episode.pictures[0] if episode.pictures else None)
    told: dict[str, Json] = {
        "question": cut(episode.question),
        "answer": cut(answer_words(episode)),
        "calls": episode.num_calls,
        "pictures": [numbers.get(picture.sha256, -1) for picture in episode.pictures],
        "seen": -1 if seen is None else numbers.get(seen.sha256, -1),
        "turns": [_turn(turn) for turn in episode.turns],
    }
    optional: dict[str, Json] = {
        "swapped": episode.prompt_picture is not None,
        "given": _given_drawing(episode),
    }
    return told | {name: value for name, value in optional.items() if value}


def judged(episode: Episode) -> dict[str, Json]:
    """What is right, and the parts of the reward."""
    told: dict[str, Json] = {
        "truth": target_words(episode),
        "parts": {name: round(value, 4) for name, value in episode.parts.items()},
        "target": _target_drawing(episode),
    }
    return {name: value for name, value in told.items() if value}


def _turn(turn: TurnRecord) -> Json:
    told: dict[str, Json] = {
        "say": cut(thoughts(turn)),
        "calls": [_call(call) for call in turn.calls],
        "errors": [cut(text) for text in turn.errors],
        "times": [round(turn.generate_s, 3), round(turn.tools_s, 3), turn.num_tokens],
        "finish": "" if turn.finish == "stop" else turn.finish,
    }
    return {name: value for name, value in told.items() if value}


def _call(call: CallRecord) -> Json:
    told: dict[str, Json] = {
        "name": call.name,
        "with": {name: _short(value) for name, value in call.arguments.items()},
        "reply": cut(call.reply),
        "status": "" if call.status == "ok" else call.status,
        "reason": call.reason,
        "image": call.image,
        "times": [round(call.total_s, 3), round(call.queue_s, 3), round(call.run_s, 3)],
        "draw": _drawing(call.drawing),
    }
    return {name: value for name, value in told.items() if value}


def _short(value: Json) -> Json:
    if isinstance(value, str):
        return cut(value)
    text = json.dumps(value)
    return value if len(text) <= LONGEST_TEXT else cut(text)


def cut(text: str) -> str:
    """At most LONGEST_TEXT characters, and how many more there are."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT} more characters in the run's file)"


# ---- drawings -----------------------------------------------------------------------------------


def _drawing(drawing: Drawing | None) -> Json:
    if drawing is None or drawing.shape not in _DRAWN:
        return None
    told: dict[str, Json] = {
        "shape": drawing.shape,
        "label": drawing.label,
        "points": [[u, v] for u, v in drawing.points],
        "raster": drawing.raster if len(drawing.raster) <= LONGEST_RASTER else "",
        "low": drawing.low,
        "high": drawing.high,
    }
    return {name: value for name, value in told.items() if value}


def _target_drawing(episode: Episode) -> Json:
    """The right answer's place, where it has one."""
    target = episode.target
    if isinstance(target, str) and geometry.is_mask_text(target):
        return {"shape": "mask", "raster": _small_mask(target)}
    match episode.kind:
        case "point_object" | "point_free" | "pose":
            hull = geometry.convex_hull(read.target_points(target))
            return _outline(hull)
        case "grasp" if isinstance(target, str):
            return _fork(target)
    return None


def _small_mask(target: str) -> str:
    """A mask that the page can carry: as it is, or reduced."""
    if len(target) <= LONGEST_RASTER:
        return target
    mask = Image.fromarray(geometry.decode_mask(target))
    mask.thumbnail((_MASK_PX, _MASK_PX), Image.Resampling.NEAREST)
    return geometry.encode_mask(np.asarray(mask))


def _given_drawing(episode: Episode) -> Json:
    """The answer's place, where it has one."""
    answer = episode.answer or ""
    match episode.kind:
        case "point_object" | "point_free":
            points = read.points(answer)
            return {"shape": "points", "points": _pairs(points)} if points else None
        case "pose":
            return _outline(geometry.convex_hull(read.points(answer)))
        case "grasp":
            return _fork(answer)
    return None


def _outline(hull: Sequence[Point]) -> Json:
    return {"shape": "outline", "points": _pairs(hull)} if hull else None


def _fork(text: str) -> Json:
    """A grasp with all five points."""
    named = read.grasp_points(text)
    if len(named) != len(read.GRASP_NAMES):
        return None
    return {"shape": "grasp", "points": _pairs([named[name] for name in read.GRASP_NAMES])}


def _pairs(points: Sequence[Point]) -> Json:
    # Far outside the picture nothing is seen, and a browser need not count so far.
    return [[_near(point.u), _near(point.v)] for point in points]


def _near(value: float) -> float:
    return round(min(max(value, -2.0), 3.0), 4)
