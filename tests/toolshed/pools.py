"""Pools of pretended replicas for tests of routing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.toolshed.threads import later
from toolshed.backend import Priority
from toolshed.serving.members import Member
from toolshed.serving.pool import Pool

T = TypeVar("T")


def members(num: int) -> list[Member]:
    return [Member(name=f"m{i}", actor=None, call_small=None, call_large=None) for i in range(num)]


def pool(
    num: int, *, width: int = 1, most_ahead: int = 0, max_queue: int = 100, stateful: bool = False
) -> Pool:
    made = Pool("tools", width=width, most_ahead=most_ahead, max_queue=max_queue, stateful=stateful)
    made.update(members(num), None)
    return made


def take(
    found: Pool,
    *,
    priority: Priority = "rollout",
    session: str = "",
    seconds: float = 60.0,
    avoid: Member | None = None,
) -> Coroutine[Any, Any, Member]:
    return found.acquire(priority, session, later(seconds), avoid)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 120))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def idle(found: Pool) -> bool:
    return not found.num_waiting and not any(each.num_running for each in found.members)
