"""The nouns of the tool library: messages, calls, results, pictures, and what tools return.

Frames and units, everywhere in this project: image points are normalised (u, v) in [0, 1] with the
origin at the top left; 3-D points are metres in the OpenCV camera frame (x right, y down,
z forward) with the principal point at the image centre and square pixels; depth is z-depth in
metres.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

ValueT = TypeVar("ValueT")
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Role = Literal["system", "user", "assistant"]
Status = Literal["ok", "refused", "failed"]
CallErrorReason = Literal["malformed", "truncated", "excess"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation. Tool replies are user turns; assistant text stays as sampled."""

    role: Role
    text: str
    """The turn's text; every ``<image>`` in it stands for the next image of the conversation."""
    num_images: int = 0
    """How many ``<image>`` marks of ``text`` are images; 0 means that such marks are plain text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """What a model is shown of one tool."""

    name: str
    """Published dotted name, ``family.method``."""
    description: str
    parameters: dict[str, Json]
    """JSON schema of the arguments: ``{"type": "object", "properties": ..., "required": ...}``."""

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]

    @property
    def method(self) -> str:
        return self.name.partition(".")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A well-formed call found in a model's text."""

    id: str
    name: str
    arguments: dict[str, Json]
    start: int = 0
    """Character offset of the ``<tool_call>`` tag in the model's text."""
    end: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CallError:
    """Something in a model's text that looked like a call and is none; the model reads ``text``."""

    reason: CallErrorReason
    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds that one call spent in each stage."""

    queue_s: float = 0.0
    """Waiting for a replica, and there for its turn."""
    transfer_s: float = 0.0
    """On the way there and back."""
    run_s: float = 0.0
    """In the back-end."""
    encode_s: float = 0.0
    """Writing the reply, and its values in the form that travels."""
    total_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolImage:
    """A picture in the resolution that tools see; the policy's processor makes a smaller copy.

    ``images.make_image`` makes one with its hash.
    """

    pixels: npt.NDArray[np.uint8]
    """RGB, shape (H, W, 3)."""
    depth_mm: npt.NDArray[np.uint16] | None = None
    """Depth sensor image in millimetres, shape (H, W); 0 where the sensor saw nothing."""
    focal_length_px: float | None = None
    sha256: str
    """Hash of pixels, depth and focal length; identifies the picture in caches, dumps and rows."""

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


# ---- what stays where it was made ------------------------------------------------------------


class Stored(ABC, Generic[ValueT]):
    """A value that lies in the object store; only who looks at it fetches it."""

    @abstractmethod
    def fetch(self) -> ValueT:
        """The value, its arrays read-only. ToolFailure where it is gone."""


class StoredArray(Stored[npt.NDArray[np.generic]]):
    """An array that lies in the object store, passed on by reference."""

    dtype: str
    """As numpy spells it, for example ``<f4``."""
    shape: tuple[int, ...]
    key: str
    """The same for the same content."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


# ---- values that tools return; one function per reply profile turns each into text ----------


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    u: float
    v: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Points of a named object, normalised, best first."""

    obj_name: str
    points: tuple[Point, ...]
    announce: bool = False
    """Whether the points become the variable ``<obj_name>_detections``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """A mask grown from points."""

    mask: npt.NDArray[np.bool_]
    """Shape (H, W) of the picture."""
    score: float
    """Predicted IoU of ``mask``, in [0, 1]."""
    points: tuple[Point, ...]
    whole_score: float | None = None
    """Predicted IoU of the mask before it was eroded; None where that is ``score``."""
    too_thin: bool = False
    """Erosion would have left nothing, so that the mask was left whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownDepth:
    """Range and mean of the depths that are known, metres."""

    low_m: float
    high_m: float
    mean_m: float

    @classmethod
    def of(cls, depth_m: npt.NDArray[np.float32]) -> KnownDepth | None:
        """Of the finite, positive ones; None where there is none."""
        known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
        if known.size == 0:
            return None
        mean = float(known.mean(dtype=np.float64))
        return cls(low_m=float(known.min()), high_m=float(known.max()), mean_m=mean)


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthEstimate:
    """Metric depth of a picture; with ``points`` also its cloud."""

    depth_m: npt.NDArray[np.float32]
    """Shape (H, W), metres; 0 or NaN where unknown."""
    focal_length_px: float
    points: npt.NDArray[np.float32] | None = None
    """Shape (N, 3), metres, camera frame; row-major pixels, invalid ones dropped."""
    source: Literal["estimated", "robot", "hardware"] = "estimated"
    """``robot`` is the simulated one, ``hardware`` one that stands in a room."""
    known: KnownDepth | None = None
    """Of the cloud where there is one, else of the map; None where nothing is known."""

    def __post_init__(self) -> None:
        if self.known is None:
            found = KnownDepth.of(self.depth_m if self.points is None else self.points[:, 2])
            object.__setattr__(self, "known", found)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexedValue:
    """What an array holds at a normalised position."""

    u: float
    v: float
    value: float | bool | tuple[float, ...]
    kind: str
    """Kind of the variable that was read, for example ``depth_map``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrientedBox:
    """Minimum oriented box of the masked points, corners in Open3D's ``get_box_points`` order."""

    corners_m: npt.NDArray[np.float64]
    """Shape (8, 3), camera frame."""
    corners_uv: npt.NDArray[np.float64]
    """Shape (8, 2), normalised; may leave [0, 1]."""
    extent_m: npt.NDArray[np.float64]
    """Shape (3,)."""
    num_kept: int
    num_total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraspEstimate:
    """A parallel-jaw grasp: x closes the fingers, z approaches; origin at the gripper's base."""

    pose: npt.NDArray[np.float64]
    """Shape (4, 4), camera from grasp."""
    confidence: float
    keypoints_uv: npt.NDArray[np.float64]
    """Shape (5, 2): centre, left base, right base, left tip, right tip; normalised."""
    num_masked: int
    num_total: int
    num_generated: int
    num_collision_free: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RobotAction:
    """Outcome of moving the arm."""

    action: Literal["grasp", "place"]
    success: bool
    execution_time_s: float
    image: ToolImage | None = None
    """What the camera sees afterwards."""
    source: Literal["robot", "hardware"] = "robot"


@dataclass(frozen=True, kw_only=True, slots=True)
class CapturedImage:
    image: ToolImage


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReply:
    """A reply in its own words, for tools whose answer is none of the values above."""

    text: str
    variables: tuple[Variable, ...] = ()
    images: tuple[ToolImage, ...] = ()
    """Pictures that join the conversation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeRun:
    """What a program did."""

    result: float | list[Json] | npt.NDArray[np.generic] | ToolImage | None
    """Where it is something that a session keeps."""
    text: str
    """Beginning of the result's printed form; empty where there is none."""
    text_length: int
    """Characters of the whole printed form."""
    stdout: str
    stderr: str
    """With the traceback of the program's error."""
    level: str
    """Sandbox that it ran in."""
    calls: tuple[str, ...] = ()
    """Tools that it called."""


ToolValue = (
    Detections
    | Segmentation
    | DepthEstimate
    | IndexedValue
    | OrientedBox
    | GraspEstimate
    | RobotAction
    | CapturedImage
    | CodeRun
    | TextReply
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variable:
    """A value kept by a session under ``$name``; names that begin with ``_`` no model can write."""

    name: str
    kind: str
    """``depth_map mask point_cloud points pose box number image world``; ``array`` and ``list`` are
    what code made, and taken where a literal of the same form would be."""
    value: object
    """A number, text, points, an array or where it is stored, a picture, the world."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """The one outcome of one call.

    ``ok``: the tool answered. ``refused``: the model erred or the tool found nothing, and the model
    reads why. ``failed``: our machinery broke; ``text`` is for people and never reaches the model.
    """

    call_id: str
    name: str
    status: Status
    reason: str = ""
    """Machine-readable word of a refusal or failure, for example ``not_found`` or ``timeout``."""
    text: str = ""
    """What the model reads; of a failure what people read, for it never reaches the model."""
    held: ToolValue | Stored[ToolValue] | None = None
    variables: tuple[Variable, ...] = ()
    images: tuple[ToolImage, ...] = ()
    """Pictures that join the conversation, in order."""
    timings: Timings = field(default_factory=Timings)
    num_retries: int = 0
    """How often the call was tried again, elsewhere."""

    @property
    def value(self) -> ToolValue | None:
        """What the tool returned; fetched when it is asked for where it stayed with the tools.

        Raises ToolFailure where it is gone with the process that had it.
        """
        return self.held.fetch() if isinstance(self.held, Stored) else self.held
