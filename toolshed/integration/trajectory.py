"""One trajectory of an agent loop: its session, in step with the pictures that the loop holds.

The loop's list of pictures is the conversation. Pictures that tools brought are in the session
first, and in the loop's list once the loop has taken them over.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from toolshed.errors import ConfigError
from toolshed.images import ImageSource, check_image, load_image, make_image
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolImage, Variable

_GIVEN = ("scene", "images")
"""What ``create_kwargs`` may hold."""


@dataclass(kw_only=True, slots=True)
class Ledger:
    """What the calls of one kind have earned."""

    num_calls: int = 0
    num_answered: int = 0
    total_reward: float = 0.0

    def enter(self, reward: float, *, answered: bool) -> None:
        self.num_calls += 1
        self.num_answered += answered
        self.total_reward += reward


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What the data set knows of a question beyond what the loop holds."""

    scene: int | None = None
    """Seed of the robot's world."""
    images: tuple[object, ...] = ()
    """The prompt's pictures in the resolution that tools see, with depth and focal length; as they
    were given, not loaded yet."""

    @classmethod
    def read(cls, arguments: Mapping[str, object]) -> Start:
        """From ``create_kwargs``; ConfigError where they are none of ours. No picture is opened."""
        unknown = sorted(set(arguments) - set(_GIVEN))
        if unknown:
            raise ConfigError(f"create_kwargs has {unknown[0]!r}; known: {', '.join(_GIVEN)}")
        scene, images = arguments.get("scene"), arguments.get("images") or []
        if not isinstance(scene, int | None) or isinstance(scene, bool):
            raise ConfigError(f"create_kwargs.scene is {scene!r}, no whole number")
        if not isinstance(images, list | tuple):
            raise ConfigError("create_kwargs.images is no list of {image, depth, focal_length_px}")
        return cls(scene=scene, images=tuple(images))

    def check(self) -> None:
        """Raise ConfigError where a picture is missing or damaged; nothing is decoded. Reads files,
        so it is no work for an event loop."""
        for each in self.images:
            source = _source(each)
            if source is None:
                continue
            if any(location.startswith("data:") for location in (source.image, source.depth or "")):
                # Data URIs would fill the memory as keys of its cache.
                check_image.__wrapped__(source)
            else:
                check_image(source)

    def load(self) -> tuple[ToolImage, ...]:
        """The pictures; ConfigError where one cannot be read."""
        return tuple(map(to_tool_image, self.images))

    @classmethod
    def of_record(cls, record: object, own: Mapping[str, object]) -> Start:
        """What the loop's record gives to any of its tools: the first one called is to know the
        world that only another one is told of. ``own`` is what its own instance was given."""
        given: dict[str, object] = {}
        # The loop's class is not ours, and older ones keep nothing of the kind.
        for settings in (getattr(record, "tools_kwargs", None) or {}).values():
            created = settings.get("create_kwargs") if isinstance(settings, Mapping) else None
            if isinstance(created, Mapping):
                given |= {key: created[key] for key in _GIVEN if key in created}
        return cls.read({**given, **own})


class Trajectory:
    """The session of one agent loop, and what its calls have earned."""

    def __init__(self, shed: Toolshed, start: Start) -> None:
        self.session = shed.session(scene=start.scene)
        self.ledgers: dict[str, Ledger] = {}
        self._start = start
        self._loading: asyncio.Future[tuple[ToolImage, ...]] | None = None
        self._given: tuple[ToolImage, ...] | None = None if start.images else ()
        """The pictures of ``start``, once they are loaded."""
        self._num_prompt: int | None = None
        """How many pictures the loop began with."""
        self._num_taken = 0
        """How many of the session's pictures the loop has; the others were brought since."""
        self._told: dict[str, object] = {}
        """Values that the loop was given, by the name of their variable."""
        self._converted: dict[int, tuple[object, ToolImage]] = {}
        self._by_pixels: dict[str, ToolImage] = {}

    def ledger(self, kind: str) -> Ledger:
        return self.ledgers.setdefault(kind, Ledger())

    async def load(self) -> None:
        """Read the pictures that the data set gives: once, in a thread, for all calls that wait.
        Due before anything else; ConfigError where one cannot be read."""
        if self._given is not None:
            return
        if self._loading is None or self._loading.cancelled():
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._start.load))
        # A call that gives up takes nothing from the others.
        loaded = await asyncio.shield(self._loading)
        if self._given is None:
            self._given = loaded
            self.session.images[:] = loaded
            self._num_taken = len(loaded)

    def see(self, pictures: Sequence[object]) -> None:
        """Take over the pictures of the loop."""
        assert self._given is not None, "load comes first"
        session = self.session
        if self._num_prompt is None:
            self._num_prompt = len(pictures)
        brought = session.images[self._num_taken :]
        for image in brought:
            self._by_pixels.setdefault(make_image(image.pixels).sha256, image)
        # Until the loop's list grows, what siblings of this turn brought is still to be taken over.
        kept = brought if len(pictures) == self._num_taken else []
        session.images[:] = [*map(self._picture, range(len(pictures)), pictures), *kept]
        self._num_taken = len(pictures)

    def tell(self, variables: Sequence[Variable]) -> list[dict[str, object]]:
        """What a call has left behind, as the loop keeps it; nothing is fetched or copied."""
        shown = [each for each in variables if not each.name.startswith("_")]
        self._told.update({each.name: each.value for each in shown})
        return [{"name": each.name, "value": each.value} for each in shown]

    def as_written(self, value: object) -> Json:
        """An argument as a model writes it, where the loop has put a variable in its place."""
        if not isinstance(value, bool | int | float | str | None):
            for name, told in self._told.items():
                if told is value:
                    return f"${name}"
        if isinstance(value, np.ndarray | np.generic):
            plain: Json = value.tolist()
            return plain
        if isinstance(value, list | tuple):
            return [self.as_written(each) for each in value]
        if isinstance(value, dict):
            return {str(key): self.as_written(each) for key, each in value.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        return f"a value of type {type(value).__name__}"

    def _picture(self, index: int, picture: object) -> ToolImage:
        if self._given and index < len(self._given):
            return self._given[index]
        known = self._converted.get(id(picture))
        if known is None or known[0] is not picture:
            converted = to_tool_image(picture)
            if index >= (self._num_prompt or 0):
                # The loop holds what a tool brought as plain pixels, without its depth.
                converted = self._by_pixels.get(converted.sha256, converted)
            known = self._converted[id(picture)] = (picture, converted)
        return known[1]


@dataclass(kw_only=True, slots=True)
class Trajectories:
    """Trajectories by the loop's own record of one, for as long as that record lives."""

    _kept: dict[int, tuple[weakref.ref[object], Trajectory]] = field(default_factory=dict)

    def of(self, record: object, make: Callable[[], Trajectory]) -> Trajectory:
        """The trajectory of a record; made when the record is new."""
        key = id(record)
        found = self._kept.get(key)
        if found is not None and found[0]() is record:
            return found[1]
        try:
            watch = weakref.ref(record, lambda gone: self._drop(key, gone))
        except TypeError as error:
            raise ConfigError(
                f"agent_data is a {type(record).__name__}, whose end cannot be seen; "
                "give the loop's own object"
            ) from error
        made = make()
        self._kept[key] = (watch, made)
        return made

    def __len__(self) -> int:
        return len(self._kept)

    def _drop(self, key: int, gone: weakref.ref[object]) -> None:
        found = self._kept.get(key)
        if found is not None and found[0] is gone:
            del self._kept[key]


def to_tool_image(picture: object) -> ToolImage:
    """A picture of a loop or a data set; ConfigError where it is none."""
    if isinstance(picture, ToolImage):
        return picture
    if isinstance(picture, Image.Image):
        return make_image(np.asarray(picture.convert("RGB"), dtype=np.uint8))
    source = _source(picture)
    assert source is not None, "every other picture was returned"
    return load_image(source)


def _source(picture: object) -> ImageSource | None:
    """Where a picture lies; None where it is here already. ConfigError where it is none."""
    if isinstance(picture, ToolImage | Image.Image):
        return None
    if isinstance(picture, str):
        return ImageSource(image=picture)
    if isinstance(picture, dict) and isinstance(picture.get("image"), str):
        depth, focal_length_px = picture.get("depth"), picture.get("focal_length_px")
        if not isinstance(depth, str | None):
            raise ConfigError(f"depth of a picture is a {type(depth).__name__}; give a path")
        if not isinstance(focal_length_px, int | float | None):
            raise ConfigError(f"focal_length_px is {focal_length_px!r}; give a number of pixels")
        return ImageSource(image=picture["image"], depth=depth, focal_length_px=focal_length_px)
    raise ConfigError(f"a {type(picture).__name__} is no picture of a conversation")


def to_pil(image: ToolImage) -> Image.Image:
    """The picture as a loop's processor takes it."""
    return Image.fromarray(image.pixels)
