"""News of running tools for those who look: asked for once a second while there is somebody."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from toolshed.dashboard.data import Place, call_data, constants, page_data
from toolshed.serving.control import NAME
from toolshed.serving.reports import NUM_KEPT, Overview, Recent
from toolshed.types import Json

PERIOD_S = 1.0
_ANSWER_S = 5.0


class Watch:
    """Everything that all open pages show; for one event loop."""

    def __init__(self, place: Place) -> None:
        self.closing = False
        """Set to let all news end within a second."""
        self.pictures: dict[int, bytes] = {}
        """JPEGs by the number of their call."""
        self._place = place
        self._control: Any = None
        self._state: dict[str, Json] | None = None
        self._problem = ""
        self._heard_s = time.time()
        self._recent: deque[Recent] = deque(maxlen=NUM_KEPT)
        self._changed = asyncio.Condition()
        self._num_looking = 0
        self._asking: asyncio.Task[None] | None = None

    async def news(self) -> AsyncIterator[dict[str, Json]]:
        """What a page that was just opened has to know, then what is new, until it closes."""
        known = 0
        message = await self.once()
        self._num_looking += 1
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_on())
        try:
            while not self.closing:
                fresh = [each for each in self._recent if each.number > known]
                known = max((each.number for each in fresh), default=known)
                yield {**message, "recent": [call_data(each) for each in fresh]}
                async with self._changed:
                    await self._changed.wait()
                message = self._told()
        finally:
            self._num_looking -= 1

    async def once(self) -> dict[str, Json]:
        """All that is known, recent calls included, asked for now."""
        await self._ask()
        recent = [call_data(each) for each in self._recent]
        return {**constants(), **self._told(), "recent": [*recent]}

    async def _ask_on(self) -> None:
        """Ask while somebody looks."""
        while self._num_looking:
            await asyncio.sleep(PERIOD_S)
            await self._ask()
            async with self._changed:
                self._changed.notify_all()
        self._asking = None

    async def _ask(self) -> None:
        from ray import exceptions

        known = self._recent[-1].number if self._recent else 0
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._control is None:
                    self._control = await asyncio.to_thread(_control_of, self._place)
                overview: Overview = await self._control.overview.remote(known)
        except TimeoutError:
            self._problem = "the control actor does not answer"
        except (exceptions.RayError, ValueError) as error:
            # Perhaps others are served there by now.
            self._control = None
            gone = isinstance(error, ValueError | exceptions.RayActorError)
            self._problem = "nobody serves tools here now" if gone else type(error).__name__
        else:
            self._heard(overview)

    def _heard(self, overview: Overview) -> None:
        self._problem, self._heard_s = "", time.time()
        self._state = page_data(overview, self._place)
        # Two who asked at the same time are told the same calls.
        known = self._recent[-1].number if self._recent else 0
        self._recent.extend(each for each in overview.recent if each.number > known)
        self.pictures = {each.number: each.picture for each in self._recent if each.picture}

    def _told(self) -> dict[str, Json]:
        state = self._state or {"address": self._place.address, "namespace": self._place.namespace}
        silent_s = time.time() - self._heard_s if self._problem else 0.0
        return {**state, "problem": self._problem, "silent_s": round(silent_s, 1)}


def _control_of(place: Place) -> Any:
    """ValueError where nobody serves tools."""
    import ray

    return ray.get_actor(NAME, namespace=place.namespace)
