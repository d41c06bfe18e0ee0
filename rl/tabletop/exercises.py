"""What the tiny base practises before any stage: naming, explicit orders, direct answers.

No exercise calls a tool for a benchmark wording. Pictures come with ground truth, as the captions
of a real pre-training set would; text-only exercises invent their scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from rl.tabletop import wording
from sft.render import Renderer
from sft.sample import TrainingSample
from toolshed.chat import Verbatim, system_prompt, write_call, write_replies
from toolshed.images import make_image
from toolshed.types import Message, ToolImage, ToolSpec

GRID = 4
"""Image tokens along one side of the policy's picture."""
_MARGIN = 0.10
"""Of the width, by which the leftmost object must lead to be named."""
T = TypeVar("T")
Specs = tuple[ToolSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One object of a picture."""

    name: str
    u: float
    v: float
    depth_m: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Picture:
    """A picture and what is in it."""

    image: ToolImage
    objects: tuple[Seen, ...]
    cells: npt.NDArray[np.int64]
    """(GRID * GRID,): the object that covers most of each cell, -1 for none."""

    def leftmost(self, margin: float) -> Seen | None:
        ordered = sorted(self.objects, key=lambda seen: seen.u)
        clear = len(ordered) > 1 and ordered[1].u - ordered[0].u >= margin
        return ordered[0] if clear else None


def make_pictures(num: int, seed: int) -> list[Picture]:
    """Render ``num`` scenes, seeds from ``seed`` on."""
    from toolshed.tabletop.render import render
    from toolshed.tabletop.scene import DEMO, make_scene

    pictures = []
    for number in range(seed, seed + num):
        scene = make_scene(number, DEMO)
        rendering = render(scene, noise_seed=number)
        objects = tuple(
            Seen(
                name=item.name,
                u=rendering.target(index).u,
                v=rendering.target(index).v,
                depth_m=rendering.target_depth_m(index),
            )
            for index, item in enumerate(scene.objects)
        )
        cells = _cover(rendering.ids, len(objects))
        pictures.append(Picture(image=rendering.image(), objects=objects, cells=cells))
    return pictures


def _cover(ids: npt.NDArray[np.int16], num: int) -> npt.NDArray[np.int64]:
    size = ids.shape[0] // GRID
    tiles = ids[: size * GRID, : size * GRID].reshape(GRID, size, GRID, size)
    shares = np.stack([(tiles == index).mean(axis=(1, 3)).ravel() for index in range(num)])
    best = shares.argmax(axis=0)
    return np.where(shares.max(axis=0) >= 0.12, best, -1)


def recoloured(picture: Picture, rng: np.random.Generator) -> Picture:
    """The same scene under a permutation of the colour channels and perhaps a mirror.

    Light is white and the palette closed, so the result is a picture that could have been rendered.
    """
    order = rng.permutation(3)
    mirror = bool(rng.integers(2))
    pixels = picture.image.pixels[:, :, order]
    objects = [
        Seen(
            name=_recolour(seen.name, order),
            u=1 - seen.u if mirror else seen.u,
            v=seen.v,
            depth_m=seen.depth_m,
        )
        for seen in picture.objects
    ]
    cells = picture.cells
    if mirror:
        pixels = pixels[:, ::-1]
        cells = cells.reshape(GRID, GRID)[:, ::-1].ravel()
    image = make_image(np.ascontiguousarray(pixels))
    return Picture(image=image, objects=tuple(objects), cells=cells)


_CHANNELS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "cyan": (0, 1, 1),
    "purple": (1, 0, 1),
    "white": (1, 1, 1),
    "black": (0, 0, 0),
}
_COLOUR_OF = {channels: colour for colour, channels in _CHANNELS.items()}


def _recolour(name: str, order: npt.NDArray[np.int64]) -> str:
    colour, _, shape = name.partition(" ")
    channels = _CHANNELS[colour]
    return f"{_COLOUR_OF[channels[order[0]], channels[order[1]], channels[order[2]]]} {shape}"


class Exercises:
    """Draws training samples; everything follows from the generator handed in."""

    def __init__(
        self,
        renderer: Renderer,
        pictures: Sequence[Picture],
        tool_sets: Sequence[Specs],
        rng: np.random.Generator,
    ) -> None:
        self.renderer = renderer
        self.pictures = pictures
        self.tool_sets = tool_sets
        """From few tools to all; the last set knows every order."""
        self.rng = rng
        self._named = [p for p in pictures if p.leftmost(_MARGIN)]

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.integers(len(items)))]

    def batch(self, kind: str, size: int) -> list[TrainingSample]:
        return [self._KINDS[kind](self) for _ in range(size)]

    def naming(self) -> TrainingSample:
        """The leftmost object's name, in plain text."""
        picture = self.pick(self._named)
        found = picture.leftmost(_MARGIN)
        assert found is not None
        colour = found.name.split()[0]
        turns = [_asked(wording.NAMING_QUESTION, True), _said(wording.naming_reply(colour))]
        return self._sample(turns, self.pick((*self.tool_sets, ())), picture, "naming")

    def ordered(self) -> TrainingSample:
        """One explicit order with a picture."""
        picture = self.pick(self.pictures)
        turns, specs = self._order(self.pick(picture.objects), True, self.rng.random())
        return self._sample(turns, specs, picture, "order")

    def ordered_text(self) -> TrainingSample:
        """Several orders in one conversation, scene invented, no picture."""
        turns: list[Message] = []
        for _ in range(int(self.rng.integers(3, 6))):
            turns += self._order(self._invented(), False, 1 - 0.99 * self.rng.random())[0]
        specs = self.tool_sets[-1]
        if not any("index_at" in t.text or "estimate_depth" in t.text for t in turns):
            specs = self.pick(self.tool_sets)
        return self._sample(turns, specs, None, "order_text")

    def direct(self) -> TrainingSample:
        """A benchmark question answered at once, as a model without tools would."""
        picture = self.pick(self.pictures)
        seen = self.pick(picture.objects)
        kind = self.pick(wording.DEMO_KINDS)
        specs: Specs = self.pick(self.tool_sets)
        if kind == "leftmost" and not picture.leftmost(_MARGIN):
            kind = "point"
        question, answer = self._direct_pair(kind, seen, picture)
        return self._sample([_asked(question, True), _said(answer)], specs, picture, "direct")

    def _direct_pair(self, kind: str, seen: Seen, picture: Picture) -> tuple[str, str]:
        if kind == "point":
            return wording.point_question(seen.name), wording.point_answer(seen.u, seen.v)
        if kind == "depth":
            return wording.depth_question(seen.name), wording.depth_answer(seen.depth_m)
        if kind == "nearer":
            other = self.pick([o for o in picture.objects if o is not seen])
            nearer = seen if seen.depth_m < other.depth_m else other
            question = wording.nearer_question(seen.name, other.name)
            return question, wording.name_answer(nearer.name)
        found = picture.leftmost(_MARGIN)
        assert found is not None
        return wording.leftmost_question(), wording.depth_answer(found.depth_m)

    def _order(self, seen: Seen, pictured: bool, draw: float) -> tuple[list[Message], Specs]:
        """An order, the call, its reply and, where there is one, the answer in the reply's words.

        Half of the orders detect, most others read a map, few ask for the map itself.
        """
        u, v, depth = f"{seen.u:.2f}", f"{seen.v:.2f}", f"{seen.depth_m:.2f}"
        if draw < 0.5625:
            name = seen.name
            if self.rng.random() < 0.3:
                name = wording.object_of(seen.name.split()[0])
            order = wording.detect_order(int(self.rng.integers(6)), name)
            call = write_call("roborefer.detect_one", {"obj_name": name, "image_index": 0})
            reply, answer = f"[({u}, {v})]", wording.point_answer(u, v)
            specs = self.pick(self.tool_sets)
        elif draw < 0.875:
            order = wording.index_order(f'"u": {u}', f'"v": {v}')
            arguments = {"data": "$depth_map", "u": Verbatim(u), "v": Verbatim(v)}
            call = write_call("vision_ops.index_at", arguments)
            reply, answer = f'{{"depth": {depth}}}', wording.depth_answer(depth)
            specs = self.tool_sets[-1]
        else:
            order = wording.DEPTH_ORDER
            call = write_call("depth_estimator.estimate_depth", {"image_index": 0})
            reply, answer = "$depth_map", wording.answer("$depth_map")
            specs = self.tool_sets[-1]
        turns = [_asked(order, pictured), _said(call)]
        turns += [Message(role="user", text=write_replies([reply])), _said(answer)]
        return turns, specs

    def _invented(self) -> Seen:
        u, v = self.rng.uniform(0.02, 0.98, size=2)
        depth = self.rng.uniform(0.4, 1.3)
        return Seen(name=self.pick(wording.NAMES), u=u, v=v, depth_m=depth)

    def _sample(
        self, turns: list[Message], specs: Specs, picture: Picture | None, source: str
    ) -> TrainingSample:
        system = Message(role="system", text=system_prompt(wording.DEMO_INSTRUCTION, specs))
        rendering = self.renderer.render([system, *turns])
        return TrainingSample(
            token_ids=tuple(rendering.token_ids),
            spans=tuple(rendering.spans),
            images=(picture.image,) if picture else (),
            source=source,
        )

    _KINDS: ClassVar[dict[str, Callable[[Exercises], TrainingSample]]] = {
        "naming": naming,
        "order": ordered,
        "order_text": ordered_text,
        "direct": direct,
    }


def _asked(text: str, pictured: bool) -> Message:
    return Message(
        role="user", text=("<image>" if pictured else "") + text, num_images=int(pictured)
    )


def _said(text: str) -> Message:
    return Message(role="assistant", text=text)
