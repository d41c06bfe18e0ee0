"""Recovery of replicas, with pretended actors: what is killed, made and given up, and when."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from toolshed import ray_group
from toolshed.config import parse_tools
from toolshed.errors import ToolFailure
from toolshed.hosting import served_families
from toolshed.ray_group import Group
from toolshed.ray_replica import Started
from toolshed.toolset import ToolSet
from toolshed.types import Json

# Not for the cluster itself: loading Ray before the cluster's settings are made would spoil it.
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Actor:
    """Says that it has started, or hangs; each step to that has the shape of Ray's."""

    def __init__(self, index: int, *, hangs: bool) -> None:
        self.index = index
        self.started = self
        self._future: Future[Started] = Future()
        if not hangs:
            self._future.set_result(Started(tools=("vision_ops.index_at",)))

    def remote(self) -> Actor:
        return self

    def future(self) -> Future[Started]:
        return self._future


class Bench:
    """A group whose first ``num_hung`` actors hang, and what was done to its actors in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_hung: int, *, joined: bool) -> None:
        self.events: list[str] = []
        self._num_hung, self._num_made = num_hung, 0
        monkeypatch.setattr(ray_group, "_RENEWAL_PAUSES_S", (0.0, 0.0))
        monkeypatch.setattr("ray.kill", self._kill)
        monkeypatch.setattr(Group, "_make", lambda group, index: self._make())
        family: Json = {"backend": "light", "start_timeout_s": 0.05}
        config = parse_tools({"host": "ray", "vision_ops": family})
        self.group = Group("tools", served_families(config, ToolSet.of(config)), config)
        self.group.open(joined=joined, named=False)

    async def lose_and_acquire(self) -> Actor:
        self.group.replace(self.group.members[0], kill=True)
        actor = (await self.group.acquire()).actor
        assert isinstance(actor, Actor)
        return actor

    def _kill(self, actor: Actor, *, no_restart: bool) -> None:
        self.events.append(f"{'kill' if no_restart else 'restart'} {actor.index}")

    def _make(self) -> Actor:
        self.events.append(f"make {self._num_made}")
        self._num_made += 1
        return Actor(self._num_made - 1, hangs=self._num_made <= self._num_hung)


def test_a_hung_start_is_killed_before_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, 2, joined=False)
    actor = asyncio.run(bench.lose_and_acquire())
    assert actor.index == 2
    assert bench.events == ["make 0", "restart 0", "kill 0", "make 1", "kill 1", "make 2"]


def test_an_actor_that_others_share_is_left_to_ray_to_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, 1, joined=True)
    asyncio.run(bench.lose_and_acquire())
    assert bench.events == ["make 0", "restart 0", "restart 0", "make 1"]


def test_after_several_starts_calls_fail_at_once_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, 9, joined=False)
    for attempt in (bench.lose_and_acquire, bench.group.acquire):
        with pytest.raises(ToolFailure, match=r"given up.*not ready within 0\.05 s") as caught:
            asyncio.run(attempt())
        assert caught.value.reason == "start_timeout"
    assert [each for each in bench.events if each.startswith("make")] == [
        "make 0",
        "make 1",
        "make 2",
    ]
