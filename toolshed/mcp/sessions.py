"""Sessions of clients that keep no state: handles that expire, and pictures from allowed places.

A handle is a name, not a permission: whoever may call the server may name any session. It is minted
here, lives as long as it is used, and one that is gone is refused with the reason.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolshed import limits
from toolshed.arrays import num_bytes
from toolshed.errors import ConfigError, ToolRefusal
from toolshed.images import ImageSource, announced_bytes, load_image
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolImage

_REMEMBERED = 4096
"""Handles that are known to have expired."""


@dataclass(kw_only=True, slots=True)
class _Kept:
    session: Session
    used_s: float


class Sessions:
    """Sessions by handle, least recently used first."""

    def __init__(
        self,
        shed: Toolshed,
        *,
        max_sessions: int = limits.CLIENT_SESSIONS,
        max_bytes: int = limits.SERVER_IMAGE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.minutes = shed.config.variable_minutes
        """A handle expires when nobody has used it for so long."""
        self._shed = shed
        self._max_sessions = max_sessions
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._gone: OrderedDict[str, str] = OrderedDict()

    def open(self, images: Sequence[ToolImage], scene: int | None) -> tuple[str, Session]:
        """A new session and its handle; of too many, the one that was idle for longest goes."""
        self._expire()
        while len(self._kept) >= self._max_sessions:
            self._drop(next(iter(self._kept)), f"more than {self._max_sessions} were open")
        handle = f"session-{secrets.token_hex(8)}"
        session = self._shed.session(images, scene=scene, priority="interactive")
        self._kept[handle] = _Kept(session=session, used_s=self._clock())
        return handle, session

    def find(self, handle: object) -> Session:
        """The session of a handle; ToolRefusal where it has none."""
        self._expire()
        kept = self._kept.get(handle) if isinstance(handle, str) else None
        if kept is not None and isinstance(handle, str):
            kept.used_s = self._clock()
            self._kept.move_to_end(handle)
            return kept.session
        why = self._gone.get(handle) if isinstance(handle, str) else None
        if why is not None:
            raise ToolRefusal(
                "expired_session",
                f"session {handle} has expired: {why}; leave session out to begin a new one",
            )
        raise ToolRefusal(
            "unknown_session",
            f"there is no session {str(handle)[:60]!r}; leave session out to begin a new one",
        )

    def admit(self, session: Session | None, num_images: int, new_bytes: int) -> None:
        """See to it that there is room for pictures of so many decoded bytes, in a session or a
        new one. ToolRefusal where the session may not hold them; where the server may not, the
        sessions that were idle for longest go."""
        held = [] if session is None else session.images
        if len(held) + num_images > limits.SESSION_IMAGES:
            raise ToolRefusal(
                "too_many_images",
                f"images: got {num_images} pictures for a session that has {len(held)}; allowed: "
                f"{limits.SESSION_IMAGES} in a session",
            )
        held_bytes = num_bytes(tuple(held))
        if held_bytes + new_bytes > limits.SESSION_IMAGE_BYTES:
            raise ToolRefusal(
                "too_large",
                f"images: got {new_bytes} bytes of decoded pictures for a session that has "
                f"{held_bytes}; allowed: {limits.SESSION_IMAGE_BYTES} in a session; leave session "
                "out to begin a new one, or send smaller pictures",
            )
        sizes = {handle: _held_bytes(kept) for handle, kept in self._kept.items()}
        total = sum(sizes.values()) + new_bytes
        for handle, size in sizes.items():
            if total <= self._max_bytes:
                return
            if size and self._kept[handle].session is not session:
                total -= size
                told = f"the pictures of all sessions took more than {self._max_bytes} bytes"
                self._drop(handle, told)

    def __len__(self) -> int:
        return len(self._kept)

    def _expire(self) -> None:
        oldest_s = self._clock() - 60 * self.minutes
        while self._kept:
            handle, kept = next(iter(self._kept.items()))
            if kept.used_s > oldest_s:
                return
            self._drop(handle, f"nobody used it for {self.minutes:g} minutes")

    def _drop(self, handle: str, why: str) -> None:
        del self._kept[handle]
        self._gone[handle] = why
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)


def _held_bytes(kept: _Kept) -> int:
    return num_bytes(tuple(kept.session.images))


class Pictures:
    """Reads the pictures that clients name: data URIs, and files under the folders allowed."""

    def __init__(self, roots: Sequence[Path]) -> None:
        for root in roots:
            if not root.is_dir():
                raise ConfigError(f"--root {root} is no folder")
        self._roots = [root.resolve() for root in roots]

    def read(self, given: Json, admit: Callable[[int, int], None]) -> list[ToolImage]:
        """The pictures of the argument ``images``; ToolRefusal where one cannot be had.

        ``admit`` hears how many there are and how many bytes they will take, before anything is
        decoded, and may refuse them.
        """
        most = limits.CALL_IMAGES
        if not isinstance(given, list) or len(given) > most:
            raise ToolRefusal("bad_argument", f"images must be a list of at most {most}")
        sources = [self._source(each) for each in given]
        try:
            admit(len(sources), sum(map(announced_bytes, sources)))
            return list(map(load_image, sources))
        except ConfigError as error:
            raise ToolRefusal("bad_image", str(error)) from error

    def _source(self, given: Json) -> ImageSource:
        fields = {"image": given} if isinstance(given, str) else given
        if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
            raise ToolRefusal(
                "bad_argument", "a picture is a path, a data URI or {image, depth, focal_length_px}"
            )
        unknown = sorted(set(fields) - {"image", "depth", "focal_length_px"})
        if unknown:
            raise ToolRefusal("unknown_argument", f"a picture has no field {unknown[0][:60]!r}")
        depth, focal = fields.get("depth"), fields.get("focal_length_px")
        if isinstance(focal, bool) or not isinstance(focal, int | float | None):
            raise ToolRefusal("bad_argument", "focal_length_px must be a number of pixels")
        if focal is not None and not 1 <= focal <= 100_000:
            raise ToolRefusal("bad_argument", f"focal_length_px: got {focal}; allowed: 1 to 100000")
        return ImageSource(
            image=self._allowed(fields["image"]),
            depth=None if depth is None else self._allowed(depth),
            focal_length_px=None if focal is None else float(focal),
        )

    def _allowed(self, location: Json) -> str:
        if not isinstance(location, str):
            raise ToolRefusal("bad_argument", "a picture's place must be a path or a data URI")
        if location.startswith("data:"):
            return location
        shown = repr(location[:100])
        if "://" in location:
            raise ToolRefusal("bad_image", f"{shown}: addresses are not fetched; send a data URI")
        if not self._roots:
            raise ToolRefusal(
                "bad_image", f"{shown}: this server reads no files; send the picture as a data URI"
            )
        try:
            # Links are followed first, so that none leads out of a folder that is allowed.
            path = Path(location).resolve()
            inside = any(path.is_relative_to(root) for root in self._roots)
        except (OSError, ValueError, RuntimeError):
            inside = False
        if not inside:
            listed = ", ".join(map(str, self._roots))
            raise ToolRefusal("bad_image", f"{shown} lies outside of the folders allowed: {listed}")
        return str(path)
