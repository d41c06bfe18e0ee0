"""The scripted teacher: right tool use for every kind of tabletop question.

It plays from the conversation alone and knows one fact besides: which object is leftmost.
Every number that it says stands in a tool's reply or in the question, except where `point_free`
has no tool for free places and steps aside from a box. A script is a generator that yields a turn
and receives the replies to its calls; the next turn is found by playing it from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from rl.policy.base import Prompt
from rl.tabletop import tool_talk as talk
from rl.tabletop import wording
from rl.tabletop.tool_talk import Place, read_depth, read_places, read_replies, went_well
from toolshed.errors import ConfigError
from toolshed.types import Message

Script = Generator[str, list[str], str]
"""Yields turns, receives the replies to each, returns the final turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What the teacher knows of one question."""

    asked: wording.Asked
    leftmost: str
    """Colour of the leftmost object; empty unless the question carries it."""

    @property
    def name(self) -> str:
        return self.asked.names[0]


def teach(prompt: Prompt) -> str:
    """The next turn of the scripted teacher."""
    told = [message for message in prompt.messages if message.role == "user"]
    asked = wording.asked(told[0].text) if told else None
    if asked is None:
        raise ConfigError(
            f"question {prompt.question.id} ({prompt.question.source}): the scripted teacher "
            "knows the tabletop questions only; use another policy"
        )
    case = Case(asked=asked, leftmost=str(prompt.question.extra.get("leftmost", "")))
    return _replay(SCRIPTS[asked.kind](case), told[1:])


def _replay(script: Script, replies: list[Message]) -> str:
    try:
        turn = next(script)
        for message in replies:
            turn = script.send(read_replies(message.text))
    except StopIteration as end:
        return str(end.value)
    return turn


# ---- parts of scripts ---------------------------------------------------------------------------


def _said(thought: str, *calls: str) -> str:
    return (wording.think(thought) if thought else "") + "\n".join(calls)


def _find(name: str, thought: str = "") -> Generator[str, list[str], Place | None]:
    """Point at an object; once more by its colour alone if the tool found nothing."""
    replies = yield _said(thought, talk.detect(name))
    places = read_places(replies[0])
    if not places:
        general = wording.object_of(name.split()[0])
        replies = yield _said(wording.LOOK_AGAIN, talk.detect(general))
        places = read_places(replies[0])
    return places[0] if places else None


def _read_map(place: Place, thought: str = "") -> Generator[str, list[str], str | None]:
    """Read the depth map at a point, once more if that fails."""
    replies = yield _said(thought, talk.index_at(place))
    depth = read_depth(replies[0])
    if depth is None:
        replies = yield _said(wording.LOOK_AGAIN, talk.index_at(place))
        depth = read_depth(replies[0])
    return depth


def _depth_of(name: str, thought: str) -> Generator[str, list[str], str | None]:
    place = yield from _find(name, thought)
    if place is None:
        return None
    yield _said(wording.POINT_KNOWN, talk.DEPTH_MAP)
    return (yield from _read_map(place, wording.READ_MAP))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """Which of two objects is nearer, and the thought that says so."""

    first_is_nearer: bool
    thought: str


def _two_depths(case: Case, *, spoken: bool) -> Generator[str, list[str], _Compared | None]:
    """Read both depths; ``spoken`` puts a thought before every call."""
    first, second = case.asked.names
    read = wording.READ_MAP if spoken else ""
    yield _said(wording.DEPTH_FIRST if spoken else "", talk.DEPTH_MAP)
    look = wording.locate_thought(first) if spoken else ""
    place = yield from _find(first, look)
    depth = (yield from _read_map(place, read)) if place else None
    if depth is None:
        return None
    look = wording.found_thought(first, depth, second)
    place = yield from _find(second, look)
    other = (yield from _read_map(place, read)) if place else None
    if other is None:
        return None
    nearer = float(depth) < float(other)
    thought = wording.compared_thought(second, other, nearer)
    return _Compared(first_is_nearer=nearer, thought=thought)


def _mask_and_cloud(place: Place, cloud: str) -> Generator[str, list[str], bool]:
    """Mask of the object at a point and, by the call ``cloud``, the point cloud."""
    calls = [talk.segment(place), cloud]
    replies = yield _said(wording.SEGMENT, *calls)
    return all(map(went_well, replies))


# ---- scripts ------------------------------------------------------------------------------------


def _point(case: Case) -> Script:
    place = yield from _find(case.name)
    return wording.point_answer(place.u, place.v) if place else wording.UNKNOWN_ANSWER


def _depth(case: Case) -> Script:
    depth = yield from _depth_of(case.name, "")
    return wording.depth_answer(depth) if depth else wording.UNKNOWN_ANSWER


def _leftmost(case: Case) -> Script:
    thought = wording.leftmost_thought(case.leftmost)
    depth = yield from _depth_of(wording.object_of(case.leftmost), thought)
    return wording.depth_answer(depth) if depth else wording.UNKNOWN_ANSWER


def _nearer(case: Case) -> Script:
    compared = yield from _two_depths(case, spoken=False)
    if compared is None:
        return wording.UNKNOWN_ANSWER
    name = case.asked.names[0 if compared.first_is_nearer else 1]
    return wording.think(compared.thought) + wording.name_answer(name)


def _choice(case: Case) -> Script:
    compared = yield from _two_depths(case, spoken=True)
    if compared is None:
        return wording.UNKNOWN_ANSWER
    letter = "A" if compared.first_is_nearer else "B"
    return wording.think(compared.thought) + wording.answer(letter)


def _yesno(case: Case) -> Script:
    first, second = case.asked.names
    calls = [talk.detect(name) for name in (first, second)]
    replies = yield _said(wording.FIND_BOTH, *calls)
    found = [read_places(reply) for reply in replies]
    if not all(found):
        return wording.UNKNOWN_ANSWER
    u, other_u = found[0][0].u, found[1][0].u
    is_left = float(u) < float(other_u)
    says_yes = is_left == (case.asked.direction == "left")
    thought = wording.think(wording.left_thought(first, u, second, other_u))
    return thought + wording.answer("Yes" if says_yes else "No")


def _number(case: Case) -> Script:
    depth = yield from _depth_of(case.name, wording.locate_thought(case.name))
    if depth is None:
        return wording.UNKNOWN_ANSWER
    return wording.think(wording.depth_thought(case.name, depth)) + wording.answer(depth)


def _point_object(case: Case) -> Script:
    place = yield from _find(case.name, wording.locate_thought(case.name))
    if place is None:
        return wording.UNKNOWN_ANSWER
    return wording.think(wording.READ_POINT) + wording.point_answer(place.u, place.v)


def _point_free(case: Case) -> Script:
    """Ask for the free place itself; a tool that knows objects only gives the object's box."""
    direction = case.asked.direction
    phrase = wording.free_phrase(case.name, direction)
    replies = yield _said(wording.locate_thought(phrase), talk.detect(phrase))
    places = read_places(replies[0])
    if places:
        return wording.think(wording.READ_POINT) + wording.point_answer(places[0].u, places[0].v)
    corners = yield from _box(case)
    if not corners:
        return wording.UNKNOWN_ANSWER
    columns = sorted((corner.u for corner in corners), key=float)
    rows = sorted((corner.v for corner in corners), key=float)
    edge = columns[0] if direction == "left" else columns[-1]
    beside = float(edge) + (-wording.BESIDE_FREE if direction == "left" else wording.BESIDE_FREE)
    middle = rows[len(rows) // 2]
    thought = wording.think(wording.beside_thought(case.name, direction, edge))
    return thought + wording.point_answer(f"{max(beside, 0.0):.3f}", middle)


def _box(case: Case) -> Generator[str, list[str], list[Place]]:
    """The eight corners that the box tool reports; none if a step failed."""
    place = yield from _find(case.name, wording.locate_thought(case.name))
    if place is None:
        return []
    good = yield from _mask_and_cloud(place, talk.CLOUD)
    if not good:
        return []
    replies = yield _said(wording.FIT_BOX, talk.COMPUTE_BOX)
    if not went_well(replies[0]):
        return []
    text = replies[0].partition(talk.BOX_CORNERS)[2] or replies[0]
    return read_places(text.partition("\n")[0])[:8]


def _pose(case: Case) -> Script:
    corners = yield from _box(case)
    if len(corners) != 8:
        return wording.UNKNOWN_ANSWER
    pairs = [(corner.u, corner.v) for corner in corners]
    return wording.think(wording.READ_CORNERS) + wording.points_answer(pairs)


def _planned_grasp(place: Place, cloud: str) -> Generator[str, list[str], list[Place]]:
    """The five points of a planned grasp, its pose kept by the tool; none if a step failed."""
    good = yield from _mask_and_cloud(place, cloud)
    if not good:
        return []
    replies = yield _said(wording.PLAN_GRASP, talk.COMPUTE_GRASP)
    if not went_well(replies[0]):
        return []
    text = replies[0].partition(talk.GRASP_POINTS)[2] or replies[0]
    return read_places(text)[:5]


def _grasp_points(case: Case) -> Script:
    place = yield from _find(case.name, wording.locate_thought(case.name))
    if place is None:
        return wording.UNKNOWN_ANSWER
    points = yield from _planned_grasp(place, talk.CLOUD)
    if len(points) != 5:
        return wording.UNKNOWN_ANSWER
    pairs = [(point.u, point.v) for point in points]
    return wording.think(wording.READ_GRASP) + wording.grasp_answer(pairs)


def _lift(case: Case) -> Generator[str, list[str], bool]:
    """Look, plan, close the gripper; whether the robot says that it holds something."""
    yield _said(wording.LOOK, talk.CAPTURE)
    place = yield from _find(case.name, wording.locate_thought(case.name))
    if place is None:
        return False
    points = yield from _planned_grasp(place, talk.ROBOT_CLOUD)
    if not points:
        return False
    replies = yield _said(wording.GRASP_NOW, talk.EXECUTE)
    return went_well(replies[0])


def _pick(case: Case) -> Script:
    held = yield from _lift(case)
    thought = wording.think(wording.done_thought(case.name, held))
    return thought + (wording.DONE_ANSWER if held else wording.FAILED_ANSWER)


def _place(case: Case) -> Script:
    put = yield from _lift(case)
    if put:
        replies = yield _said(wording.PLACE_NOW, talk.put_down(*case.asked.point))
        put = went_well(replies[0])
    thought = wording.think(wording.done_thought(case.name, put))
    return thought + (wording.DONE_ANSWER if put else wording.FAILED_ANSWER)


SCRIPTS: dict[str, Callable[[Case], Script]] = {
    "point": _point,
    "depth": _depth,
    "leftmost": _leftmost,
    "nearer": _nearer,
    "choice": _choice,
    "yesno": _yesno,
    "number": _number,
    "point_object": _point_object,
    "point_free": _point_free,
    "pose": _pose,
    "grasp": _grasp_points,
    "pick": _pick,
    "place": _place,
}
"""One script per template of ``rl.tabletop.wording``."""
