"""An episode as people and files see it: plain text, numbers and small drawings, no tokens.

Made from a trajectory, written into dumps and evaluation rows, read back by the viewer. Arrays that
tools returned are kept small (a mask as a 1-bit PNG, a depth map as a thumbnail): enough to draw,
never enough to train on.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from pydantic import JsonValue

from rl.rewards.choice import named_choices
from rl.types import Finish, Question, Trajectory, Turn
from toolshed.chat import answer_of
from toolshed.types import (
    CapturedImage,
    CodeRun,
    DepthEstimate,
    Detections,
    GraspEstimate,
    IndexedValue,
    OrientedBox,
    Point,
    RobotAction,
    Segmentation,
    Status,
    TextReply,
    ToolCall,
    ToolImage,
    ToolResult,
    ToolValue,
)

THUMBNAIL_PX = 112
"""Longest side of a kept depth map."""
DEPTH_LEVELS = 64
"""Steps of a kept depth map; few, so that sensor noise does not fill files."""
_IS_KNOWN = [0] + [255] * 255

Shape = Literal[
    "points", "mask", "depth", "value", "box", "grasp", "grasped", "placed", "captured", "words"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What a tool returned, reduced to what can be drawn."""

    shape: Shape
    label: str = ""
    points: tuple[tuple[float, float], ...] = ()
    """Normalised (u, v)."""
    raster: str = ""
    """Base64 of a PNG: a mask, or the grey levels of a depth map."""
    low: float = 0.0
    """Metres at the raster's darkest value, or the number that was read."""
    high: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """One call with its outcome."""

    name: str
    arguments: dict[str, JsonValue]
    status: Status
    reason: str = ""
    reply: str = ""
    """What the model read; for a failure, what people read."""
    image: int = 0
    """Index into the episode's pictures of the one that the call looked at."""
    drawing: Drawing | None = None
    variables: tuple[str, ...] = ()
    """Names that the call left behind, as a model writes them, without ``$``."""
    num_retries: int = 0
    """How often the call was tried again, elsewhere."""
    queue_s: float = 0.0
    run_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRecord:
    """One assistant turn."""

    text: str
    calls: tuple[CallRecord, ...] = ()
    errors: tuple[str, ...] = ()
    """What the model read about calls that could not be parsed."""
    num_tokens: int = 0
    finish: Finish = "stop"
    generate_s: float = 0.0
    tools_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture by hash, and where its file lies (empty for pictures born in memory)."""

    sha256: str
    location: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """One question answered once."""

    question_id: str
    source: str
    kind: str
    question: str
    """The user's words."""
    choices: tuple[str, ...] = ()
    """Names to choose from, where the data list them apart from the words."""
    pictures: tuple[Picture, ...]
    """In the order of ``image_index``: the question's, then those that tools brought."""
    prompt_picture: Picture | None = None
    """The picture in the prompt, where it is not the one that the tools see."""
    turns: tuple[TurnRecord, ...] = ()
    target: JsonValue = None
    answer: str | None = None
    reward: float | None = None
    """None where our machinery broke and nothing was scored."""
    accuracy: float | None = None
    well_formed: bool = False
    parts: dict[str, float] = field(default_factory=dict)
    stop_reason: str = ""
    failure: str = ""
    seed: int = 0
    seconds: float = 0.0

    @property
    def num_calls(self) -> int:
        """Well-formed calls of all turns."""
        return sum(len(turn.calls) for turn in self.turns)


def episode_of(trajectory: Trajectory, prompt_picture: ToolImage | None = None) -> Episode:
    """The record of a trajectory; ``prompt_picture`` is what the policy saw where that was not
    what its tools saw (the control with another scene's picture)."""
    question, reward = trajectory.question, trajectory.reward
    answer = reward.answer if reward else None
    if reward is None and trajectory.stop_reason.is_trainable:
        # Nobody judges it; it may well have been given.
        answer = answer_of(trajectory.final_text)
    pictures = pictures_of(question, trajectory.images)
    shown = None if prompt_picture is None else Picture(sha256=prompt_picture.sha256)
    return Episode(
        question_id=question.id,
        source=question.source,
        kind=question.kind,
        question=user_words(question),
        choices=named_choices(question),
        pictures=pictures,
        prompt_picture=shown,
        turns=_turns(trajectory.turns, len(pictures)),
        target=question.target,
        answer=answer,
        reward=reward.value if reward else None,
        accuracy=reward.accuracy if reward else None,
        well_formed=reward.well_formed if reward else False,
        parts=dict(reward.parts) if reward else {},
        stop_reason=str(trajectory.stop_reason),
        failure=trajectory.failure,
        seed=trajectory.seed,
        seconds=round(trajectory.seconds, 4),
    )


def user_words(question: Question) -> str:
    """The question without its image marks."""
    words = [message.text for message in question.messages if message.role == "user"]
    return " ".join(words).replace("<image>", "").strip()


def pictures_of(question: Question, images: tuple[ToolImage, ...]) -> tuple[Picture, ...]:
    """Hashes of a trajectory's pictures, with the files of the question's; a data URI has none."""
    sources = [source.image for source in question.images]
    places = ["" if place.startswith("data:") else place for place in sources]
    places += [""] * (len(images) - len(places))
    return tuple(
        Picture(sha256=image.sha256, location=place)
        for image, place in zip(images, places, strict=False)
    )


def _turns(turns: tuple[Turn, ...], num_pictures: int) -> tuple[TurnRecord, ...]:
    records = []
    looked_at = 0
    for turn in turns:
        calls = []
        for call, result in zip(turn.calls, turn.results, strict=False):
            looked_at = _image_index(call, num_pictures, looked_at)
            calls.append(_call(call, result, looked_at))
        records.append(
            TurnRecord(
                text=turn.completion.text,
                calls=tuple(calls),
                errors=tuple(error.text for error in turn.errors),
                num_tokens=len(turn.completion.token_ids),
                finish=turn.completion.finish,
                generate_s=round(turn.generate_s, 5),
                tools_s=round(turn.tools_s, 5),
            )
        )
    return tuple(records)


def _image_index(call: ToolCall, num_pictures: int, looked_at: int) -> int:
    """The picture that a call names, else the one that the last call looked at."""
    named = call.arguments.get("image_index")
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < num_pictures:
        return named
    return looked_at


def _call(call: ToolCall, result: ToolResult, image: int) -> CallRecord:
    timings = result.timings
    return CallRecord(
        name=call.name,
        arguments=dict(call.arguments),
        status=result.status,
        reason=result.reason,
        reply=result.text,
        image=image,
        drawing=None if result.value is None else drawing_of(result.value),
        variables=tuple(each.name for each in result.variables if not each.name.startswith("_")),
        num_retries=result.num_retries,
        queue_s=round(timings.queue_s, 5),
        run_s=round(timings.run_s, 5),
        total_s=round(timings.total_s, 5),
    )


# ---- values, small --------------------------------------------------------------------------


def drawing_of(value: ToolValue) -> Drawing:
    """What can be drawn of a tool's value."""
    match value:
        case Detections():
            return Drawing(shape="points", label=value.obj_name, points=_pairs(value.points))
        case Segmentation():
            return Drawing(
                shape="mask",
                points=_pairs(value.points),
                raster=_png(value.mask),
                low=round(value.score, 4),
            )
        case DepthEstimate():
            return _depth_drawing(value)
        case IndexedValue():
            return _number_drawing(value)
        case OrientedBox():
            return Drawing(shape="box", points=_rows(value.corners_uv))
        case GraspEstimate():
            points = _rows(value.keypoints_uv)
            return Drawing(shape="grasp", points=points, low=round(value.confidence, 4))
        case RobotAction():
            done = "done" if value.success else "missed"
            shape: Shape = "grasped" if value.action == "grasp" else "placed"
            return Drawing(shape=shape, label=done)
        case CapturedImage():
            return Drawing(shape="captured")
        case TextReply() | CodeRun():
            return Drawing(shape="words")


def value_of(drawing: Drawing, size: tuple[int, int]) -> ToolValue | None:
    """A value that draws on a picture of ``size`` (height, width) like the one a Drawing was made
    from; None where there is nothing to draw. What only numbers could tell is zero."""
    points = tuple(Point(u=u, v=v) for u, v in drawing.points)
    corners = np.array(drawing.points, dtype=np.float64).reshape(-1, 2)
    match drawing.shape:
        case "points":
            return Detections(obj_name=drawing.label, points=points)
        case "mask":
            grey = (
                _unpack(drawing.raster).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
            )
            return Segmentation(mask=np.asarray(grey) > 127, score=drawing.low, points=points)
        case "depth":
            return DepthEstimate(depth_m=_depth_m(drawing, size), focal_length_px=1.0)
        case "value":
            u, v = drawing.points[0]
            return IndexedValue(u=u, v=v, value=drawing.low, kind=drawing.label)
        case "box":
            zeros = np.zeros((8, 3))
            return OrientedBox(
                corners_m=zeros, corners_uv=corners, extent_m=zeros[0], num_kept=0, num_total=0
            )
        case "grasp":
            return GraspEstimate(
                pose=np.eye(4),
                confidence=drawing.low,
                keypoints_uv=corners,
                num_masked=0,
                num_total=0,
                num_generated=0,
                num_collision_free=0,
            )
        case _:
            return None


def _pairs(points: tuple[Point, ...]) -> tuple[tuple[float, float], ...]:
    return tuple((round(point.u, 4), round(point.v, 4)) for point in points)


def _rows(array: npt.NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(row[0]), 4), round(float(row[1]), 4)) for row in array)


def _number_drawing(value: IndexedValue) -> Drawing:
    read = value.value[-1] if isinstance(value.value, tuple) else float(value.value)
    return Drawing(shape="value", label=value.kind, points=((value.u, value.v),), low=read)


def _depth_drawing(value: DepthEstimate) -> Drawing:
    """A thumbnail of few grey levels between the nearest and the farthest known depth; 0 marks
    the unknown."""
    depth_m = np.nan_to_num(value.depth_m, nan=0.0)
    known = depth_m > 0
    low = float(depth_m[known].min()) if known.any() else 0.0
    high = float(depth_m[known].max()) if known.any() else 1.0
    levels = 1.5 + (DEPTH_LEVELS - 1) * (depth_m - low) / max(high - low, 1e-6)
    grey = Image.fromarray(np.where(known, levels, 0).astype(np.uint8))
    grey.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.NEAREST)
    raster = _packed(grey)
    return Drawing(shape="depth", raster=raster, low=round(low, 4), high=round(high, 4))


def _depth_m(drawing: Drawing, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The thumbnail enlarged: known depths smoothly, holes as they are."""
    grey = _unpack(drawing.raster)
    holes = np.asarray(grey.resize(size[::-1], Image.Resampling.NEAREST)) == 0
    filled = Image.composite(grey, grey.filter(ImageFilter.MedianFilter(5)), grey.point(_IS_KNOWN))
    smooth = filled.convert("F").resize(size[::-1], Image.Resampling.BILINEAR)
    share = (np.asarray(smooth, dtype=np.float32) - 1) / (DEPTH_LEVELS - 1)
    metres = drawing.low + np.clip(share, 0.0, 1.0) * (drawing.high - drawing.low)
    return np.where(holes, 0.0, metres).astype(np.float32)


def _png(mask: npt.NDArray[np.bool_]) -> str:
    return _packed(Image.fromarray(mask.astype(np.uint8) * 255).convert("1"))


def _packed(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpack(raster: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(raster)))
