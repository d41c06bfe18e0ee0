"""Every sentence of the tabletop questions: instructions, questions, thoughts, answers.

Each question is one template; `asked` reads a question back through the same template, so whoever
only sees a conversation (the scripted teacher) knows what was asked. The demo's tokenizer is
built from these texts: a changed word here changes its vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

COLOURS = ("red", "green", "blue", "yellow", "cyan", "purple", "white", "black")
SHAPES = ("cube", "box", "ball", "cylinder", "cup")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)

DEMO_INSTRUCTION = "Answer the question about the picture."
"""System instruction of the demo's four task kinds."""

INSTRUCTION = (
    "You answer questions about a camera picture for a robot. Whenever you learn something new, "
    "reason about it first inside <think></think>. If something is missing, call a tool and read "
    "its reply. Once you know enough, finish with the bare answer inside <answer></answer>, "
    "for example <answer>Yes</answer>, <answer>B</answer> or <answer>[(0.412, 0.630)]</answer>."
)
"""System instruction of all other kinds: the protocol of the released data in our own words."""

Direction = Literal["left", "right"]
DIRECTIONS: tuple[Direction, ...] = ("left", "right")

_POINT_FORM = "Answer with a list of one tuple, [(x, y)], both numbers between 0 and 1."
_CORNER_FORM = (
    "Answer with a list of eight tuples [(x1, y1), ..., (x8, y8)], every number between 0 and 1."
)
_GRASP_FORM = (
    "Answer as Grasp center: [x, y], Left finger base: [x, y], Right finger base: [x, y], "
    "Left finger tip: [x, y], Right finger tip: [x, y], with normalised numbers."
)

TEMPLATES: dict[str, str] = {
    "point": "Where is the {a}?",
    "depth": "How far from the camera is the {a}?",
    "leftmost": "How far from the camera is the leftmost object?",
    "nearer": "Which is nearer, the {a} or the {b}?",
    "choice": "Which object is closer to the camera, the {a} or the {b}? (A) {a} (B) {b}",
    "yesno": "Is the {a} to the {direction} of the {b} in the picture? Answer Yes or No.",
    "number": "What is the depth of the {a} as the camera sees it, in metres?",
    "point_object": "Point to the {a}. " + _POINT_FORM,
    "point_free": "Point to a free spot on the table just to the {direction} of the {a}. "
    + _POINT_FORM,
    "pose": "Where in the picture are the eight corners of the cuboid around the {a}? "
    + _CORNER_FORM,
    "grasp": "Which five points of the picture outline a grasp of the {a}? " + _GRASP_FORM,
    "pick": "Pick up the {a}.",
    "place": "Pick up the {a} and put it down on the table at ({u}, {v}) of the picture.",
}
"""One template per kind of question; the order of this table is the order of ``--help``."""

DEMO_KINDS = ("point", "depth", "leftmost", "nearer")

_NAME = rf"(?:{'|'.join(COLOURS)}) [a-z]+"
_SLOTS = {
    "a": _NAME,
    "b": _NAME,
    "direction": "left|right",
    "u": r"\d\.\d+",
    "v": r"\d\.\d+",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question read back."""

    kind: str
    """Key of ``TEMPLATES``."""
    names: tuple[str, ...] = ()
    direction: str = ""
    point: tuple[str, ...] = ()
    """The two coordinates of ``place``, as written."""


def asked(text: str) -> Asked | None:
    """What the text asks, image marks aside; None if no template made it."""
    text = text.replace("<image>", "").strip()
    for kind, pattern in _PATTERNS.items():
        found = pattern.fullmatch(text)
        if found:
            slots = found.groupdict()
            return Asked(
                kind=kind,
                names=tuple(slots[key] for key in ("a", "b") if key in slots),
                direction=slots.get("direction", ""),
                point=(slots["u"], slots["v"]) if "u" in slots else (),
            )
    return None


def _pattern(template: str) -> re.Pattern[str]:
    parts = []
    seen: set[str] = set()
    for literal, slot in re.findall(r"([^{}]*)(?:\{(\w+)\})?", template):
        parts.append(re.escape(literal))
        if slot:
            parts.append(f"(?P={slot})" if slot in seen else f"(?P<{slot}>{_SLOTS[slot]})")
            seen.add(slot)
    return re.compile("".join(parts))


_PATTERNS = {kind: _pattern(template) for kind, template in TEMPLATES.items()}


# ---- questions --------------------------------------------------------------------------------


def point_question(name: str) -> str:
    return TEMPLATES["point"].format(a=name)


def depth_question(name: str) -> str:
    return TEMPLATES["depth"].format(a=name)


def leftmost_question() -> str:
    return TEMPLATES["leftmost"]


def nearer_question(first: str, second: str) -> str:
    return TEMPLATES["nearer"].format(a=first, b=second)


def choice_question(first: str, second: str) -> str:
    return TEMPLATES["choice"].format(a=first, b=second)


def yesno_question(name: str, direction: Direction, other: str) -> str:
    return TEMPLATES["yesno"].format(a=name, direction=direction, b=other)


def number_question(name: str) -> str:
    return TEMPLATES["number"].format(a=name)


def point_object_question(name: str) -> str:
    return TEMPLATES["point_object"].format(a=name)


def point_free_question(name: str, direction: Direction) -> str:
    return TEMPLATES["point_free"].format(a=name, direction=direction)


def pose_question(name: str) -> str:
    return TEMPLATES["pose"].format(a=name)


def grasp_question(name: str) -> str:
    return TEMPLATES["grasp"].format(a=name)


def pick_question(name: str) -> str:
    return TEMPLATES["pick"].format(a=name)


def place_question(name: str, u: float, v: float) -> str:
    return TEMPLATES["place"].format(a=name, u=f"{u:.3f}", v=f"{v:.3f}")


# ---- exercises of the base: naming and explicit instructions, never a benchmark wording --------

NAMING_QUESTION = "Which object is the leftmost object?"
DETECT_ORDERS = (
    "Call detect_one for the {name}.",
    "Detect the {name}.",
    "Use the detector on the {name}.",
    "Run detect_one on the {name}.",
    "Can you call detect_one for the {name}?",
    "Can you detect the {name}?",
)
DEPTH_ORDER = "Call estimate_depth."
INDEX_ORDER = "Call index_at with {u}, {v}."


def object_of(colour: str) -> str:
    """The name that needs no shape: ``red object``."""
    return f"{colour} object"


def naming_reply(colour: str) -> str:
    """Plain text, not an answer: naming inside <answer> made every question end at once."""
    return f"{object_of(colour)}."


def detect_order(wording: int, name: str) -> str:
    return DETECT_ORDERS[wording % len(DETECT_ORDERS)].format(name=name)


def index_order(u: str, v: str) -> str:
    return INDEX_ORDER.format(u=u, v=v)


# ---- thoughts ---------------------------------------------------------------------------------

POINT_KNOWN = "The point is known; now the depth map."
READ_MAP = "Read the map at the point."
LOOK_AGAIN = "I will look again."


def think(thought: str) -> str:
    return f"<think>{thought}</think>"


def leftmost_thought(colour: str) -> str:
    return f"The leftmost object is the {object_of(colour)}."


def found_thought(name: str, depth: str, other: str) -> str:
    """First depth known; no full stop after the number, so that it keeps its own tokens."""
    return f"{name}: {depth}; find the {other}."


def compared_thought(name: str, depth: str, first_is_nearer: bool) -> str:
    return f"{name}: {depth}; {'first' if first_is_nearer else 'second'} is nearer."


def left_thought(name: str, u: str, other: str, other_u: str) -> str:
    return f"The {name} is at {u}, the {other} at {other_u} from the left edge."


LOOK = "See what the robot's camera shows."
SEGMENT = "Now the mask of it and the point cloud."
FIT_BOX = "Fit the box to the masked points."
PLAN_GRASP = "Look for a grasp on the masked points."
GRASP_NOW = "Close the gripper there."
PLACE_NOW = "It is held; put it down."
READ_POINT = "The point is known."
READ_CORNERS = "These are the corners."
READ_GRASP = "These are the five points."
FIND_BOTH = "The places of both objects decide; look for them."
DEPTH_FIRST = "Depth decides; first the depth map."
BESIDE_FREE = 0.045
"""How far beside a box's last corner a spot counts as free, where no tool points at free space."""


def locate_thought(name: str) -> str:
    return f"First find the {name} in the picture."


def depth_thought(name: str, depth: str) -> str:
    return f"The {name} is at depth {depth} by the map"


def free_phrase(name: str, direction: str) -> str:
    """What a pointing tool is asked for free space."""
    return f"free space {direction} of the {name}"


def beside_thought(name: str, direction: str, edge: str) -> str:
    return f"The {name} ends at {edge}; just {direction} of that the table is free."


def done_thought(name: str, succeeded: bool) -> str:
    return f"The {name} is {'where it should be' if succeeded else 'not where it should be'}."


# ---- answers ----------------------------------------------------------------------------------


def answer(text: str) -> str:
    return f"<answer>{text}</answer>"


def point_answer(u: str | float, v: str | float) -> str:
    """Two decimals for floats; text is copied as it stands."""
    return answer(f"[({_decimals(u)}, {_decimals(v)})]")


def depth_answer(depth: str | float) -> str:
    return answer(f'{{"depth": {_decimals(depth)}}}')


def name_answer(name: str) -> str:
    return answer(name)


def points_answer(points: Sequence[tuple[str, str]]) -> str:
    return answer("[" + ", ".join(f"({u}, {v})" for u, v in points) + "]")


GRASP_LABELS = (
    "Grasp center",
    "Left finger base",
    "Right finger base",
    "Left finger tip",
    "Right finger tip",
)
"""In the order of ``GraspEstimate.keypoints_uv``."""


def grasp_text(points: Sequence[tuple[str, str]]) -> str:
    """Five named points, as ground truth and answer spell them."""
    labelled = zip(GRASP_LABELS, points, strict=True)
    return ", ".join(f"{label}: [{u}, {v}]" for label, (u, v) in labelled)


def grasp_answer(points: Sequence[tuple[str, str]]) -> str:
    return answer(grasp_text(points))


DONE_ANSWER = answer("done")
FAILED_ANSWER = answer("failed")
UNKNOWN_ANSWER = answer("unknown")


def _decimals(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"
