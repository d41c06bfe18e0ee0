"""Places for replicas as they are lost, given up, filled again and changed in number."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.toolshed.fake_tools import HERE
from toolshed.config import parse_tools
from toolshed.serving import remote
from toolshed.serving.registry import SeatReport
from toolshed.serving.router import RayHost
from toolshed.types import Json

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@contextlib.contextmanager
def served(
    namespace: str, content: dict[str, Json] | None = None, **family: Json
) -> Iterator[RayHost]:
    """One family ``trouble``, served under a namespace of its own."""
    from toolshed.hosting import served_families
    from toolshed.toolset import ToolSet

    config = parse_tools(
        {
            "host": "ray",
            "namespace": namespace,
            **(content or {}),
            "trouble": {"backend": f"{HERE}:Trouble", **family},
        }
    )
    host = RayHost(config, served_families(config, ToolSet.of(config)), serve=True)
    try:
        yield host
    finally:
        host.close()


def wait_for(
    address: str, namespace: str, done: Callable[[list[SeatReport]], bool]
) -> list[SeatReport]:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        seats = list(remote.status(address, namespace).seats)
        if done(seats):
            return seats
        time.sleep(0.1)
    raise AssertionError(f"never came to be: {seats}")


def states(seats: list[SeatReport]) -> list[str]:
    return [each.state for each in seats]


def test_a_dead_seat_counts_for_nothing_where_the_number_changes(
    ray_cluster: str, tmp_path: Path
) -> None:
    import ray

    name = "dead-seats"
    with served(name, arguments={"folder": str(tmp_path)}, replicas=2, restarts=0):
        first, second = wait_for(ray_cluster, name, lambda seats: len(seats) == 2)
        ray.kill(first.actor)
        wait_for(ray_cluster, name, lambda seats: states(seats) == ["dead", "ready"])
        remote.scale(ray_cluster, "trouble", 1, name)
        (kept,) = remote.status(ray_cluster, name).seats
        assert (kept.name, kept.state) == (second.name, "ready")
        ray.kill(second.actor)
        wait_for(ray_cluster, name, lambda seats: states(seats) == ["dead"])
        remote.scale(ray_cluster, "trouble", 2, name)
        wait_for(ray_cluster, name, lambda seats: states(seats) == ["ready", "ready"])
