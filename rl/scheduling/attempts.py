"""Trajectories that are played again where our machinery broke them; plays that end together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rl.rollout import Job, Player, run_episode
from rl.types import StopReason, Trajectory


async def play_with_retries(
    job: Callable[[int], Job], player: Player, places: asyncio.Semaphore, retries: int
) -> tuple[Trajectory, int]:
    """(trajectory, how often it was played again): at most ``retries`` times, each attempt in a
    place of its own. ``job`` is told how many attempts there were."""
    again = 0
    while True:
        async with places:
            trajectory = await run_episode(job(again), player)
        if trajectory.stop_reason is not StopReason.TOOL_FAILURE or again == retries:
            return trajectory, again
        again += 1


async def all_or_none(plays: Sequence[Coroutine[Any, Any, Trajectory]]) -> list[Trajectory]:
    """All results; with the first error the others are cancelled, and it is raised as it is."""
    tasks = [asyncio.ensure_future(play) for play in plays]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
