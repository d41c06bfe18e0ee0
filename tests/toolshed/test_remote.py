"""Running tools changed from outside: more replicas, fewer, one drained, all stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from tests.toolshed.fake_tools import HERE
from toolshed.config import parse_tools, replaced
from toolshed.errors import ConfigError
from toolshed.serving import remote
from toolshed.serving.registry import SeatReport
from toolshed.shed import Toolshed
from toolshed.types import IndexedValue, Json, ToolCall, ToolResult

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
NAMESPACE = "changed-from-outside"


@pytest.fixture(scope="module")
def shed(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolshed]:
    from toolshed.hosting import served_families
    from toolshed.serving.router import RayHost
    from toolshed.toolset import ToolSet

    folder = str(tmp_path_factory.mktemp("remote"))
    trouble: Json = {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": folder},
        "cache": False,
    }
    config = parse_tools({"host": "ray", "namespace": NAMESPACE, "trouble": trouble})
    host = RayHost(config, served_families(config, ToolSet.of(config)), serve=True)
    with Toolshed.open(replaced(config, {"ray_address": ray_cluster})) as opened:
        yield opened
    host.close()


def wait_for(ray_cluster: str, done: Callable[[list[SeatReport]], bool]) -> list[SeatReport]:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        seats = list(remote.status(ray_cluster, NAMESPACE).seats)
        if done(seats):
            return seats
        time.sleep(0.1)
    raise AssertionError(f"never came to be: {seats}")


def num_ready(seats: list[SeatReport]) -> int:
    return sum(each.state == "ready" for each in seats)


def processes(shed: Toolshed, num: int) -> set[float]:
    """Who answers, asked by so many calls at once."""
    session = shed.session()

    async def together() -> list[ToolResult]:
        nap = ToolCall(id="", name="trouble.nap", arguments={"seconds": 0.2})
        return list(await asyncio.gather(*(session.call(nap) for _ in range(num))))

    values = [each.value for each in asyncio.run(together())]
    return {float(each.value) for each in values if isinstance(each, IndexedValue)}  # type: ignore[arg-type]


def test_callers_hear_of_replicas_that_come_and_go(shed: Toolshed, ray_cluster: str) -> None:
    assert len(processes(shed, 3)) == 1
    remote.scale(ray_cluster, "trouble", 3, NAMESPACE)
    wait_for(ray_cluster, lambda seats: num_ready(seats) == 3)
    _until(lambda: len(processes(shed, 3)) == 3)
    remote.scale(ray_cluster, "trouble", 1, NAMESPACE)
    wait_for(ray_cluster, lambda seats: len(seats) == 1)
    _until(lambda: len(processes(shed, 3)) == 1)


def test_a_drained_replica_finishes_its_calls(shed: Toolshed, ray_cluster: str) -> None:
    remote.scale(ray_cluster, "trouble", 2, NAMESPACE)
    seats = wait_for(ray_cluster, lambda seats: num_ready(seats) == 2)
    _until(lambda: len(processes(shed, 2)) == 2)
    session = shed.session()

    async def drained_meanwhile() -> list[ToolResult]:
        nap = ToolCall(id="", name="trouble.nap", arguments={"seconds": 2.0})
        calls = [asyncio.create_task(session.call(nap)) for _ in range(2)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(
            remote.drain, ray_cluster, "trouble", max(each.index for each in seats), NAMESPACE
        )
        return list(await asyncio.gather(*calls))

    assert [each.status for each in asyncio.run(drained_meanwhile())] == ["ok", "ok"]
    wait_for(ray_cluster, lambda seats: len(seats) == 1)


def test_bad_wishes_are_refused(shed: Toolshed, ray_cluster: str) -> None:
    with pytest.raises(ConfigError, match="no tool family 'troble' is served here; served: trou"):
        remote.scale(ray_cluster, "troble", 2, NAMESPACE)
    with pytest.raises(ConfigError, match="scale trouble to -1"):
        remote.scale(ray_cluster, "trouble", -1, NAMESPACE)
    with pytest.raises(ConfigError, match="trouble has no replica 77"):
        remote.drain(ray_cluster, "trouble", 77, NAMESPACE)
    with pytest.raises(ConfigError, match=r"nobody serves tools at .*'elsewhere'"):
        remote.status(ray_cluster, "elsewhere")


def test_stopped_tools_say_so_at_once(shed: Toolshed, ray_cluster: str) -> None:
    remote.stop(ray_cluster, NAMESPACE)
    where = ToolCall(id="", name="trouble.where", arguments={})
    result = shed.session().call_now(where)
    _until(lambda: shed.session().call_now(where).reason == "stopped")
    assert result.status == "failed"


def _until(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until_s, "never came to be"
        time.sleep(0.1)
