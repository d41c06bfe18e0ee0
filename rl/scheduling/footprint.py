"""How many places of the engine's cache a group will hold, estimated from those that have ended.

Siblings share their prompt, which the engine keeps once; what they sample and read is each one's
own. Trajectories that wait for tools keep their places.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from rl.types import Trajectory
from sft.render import Renderer

_KEPT = 256
_QUANTILE = 0.9
"""An engine that runs out sends trajectories back to its queue and computes them anew: rarely
too low is cheaper than always too high."""


class Footprints:
    """Lengths of the last trajectories; ``most`` places each until one has ended."""

    def __init__(self, *, most: int, renderer: Renderer | None) -> None:
        self._most, self._renderer = most, renderer
        self._prompts: deque[int] = deque(maxlen=_KEPT)
        self._rests: deque[int] = deque(maxlen=_KEPT)

    def add(self, trajectory: Trajectory) -> None:
        """A trajectory has ended."""
        prompt, rest = self._places(trajectory)
        self._prompts.append(prompt)
        self._rests.append(rest)

    def group(self, num: int) -> float:
        """Places that ``num`` siblings will hold together at their end."""
        if not num:
            return 0.0
        if not self._rests:
            return float(num * self._most)
        prompt, rest = np.quantile(self._prompts, _QUANTILE), np.quantile(self._rests, _QUANTILE)
        return float(min(prompt + num * rest, num * self._most or np.inf))

    def _places(self, trajectory: Trajectory) -> tuple[int, int]:
        """Of the prompt and of what came after it, every place of a picture counted."""
        of_pictures = [0, 0]
        if self._renderer is not None:
            num_own = len(trajectory.question.images)
            for place, image in enumerate(trajectory.images):
                of_pictures[place >= num_own] += self._renderer.vision(image).num_tokens - 1
        prompt = sum(s.end - s.start for s in trajectory.spans if s.kind == "prompt")
        return prompt + of_pictures[0], len(trajectory.token_ids) - prompt + of_pictures[1]
