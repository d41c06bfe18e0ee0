"""Places for replicas as they are lost, given up, filled again and changed in number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.toolshed.fake_tools import HERE
from tests.toolshed.threads import until
from toolshed.cli import main
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.serving import remote
from toolshed.serving.control import NAME
from toolshed.serving.launch import Service
from toolshed.serving.registry import SeatReport
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolCall, ToolResult

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@contextlib.contextmanager
def served(
    namespace: str,
    name: str = "trouble",
    back_end: str = "Trouble",
    settings: dict[str, Json] | None = None,
    **family: Json,
) -> Iterator[Toolshed]:
    """One family, served under a namespace of its own."""
    from toolshed.caching import RememberingHost
    from toolshed.hosting import served_families
    from toolshed.serving.router import RayHost
    from toolshed.toolset import ToolSet

    content: dict[str, Json] = {name: {"backend": f"{HERE}:{back_end}", **family}}
    config = parse_tools({"host": "ray", "namespace": namespace, **(settings or {}), **content})
    shown = ToolSet.of(config)
    host = RayHost(config, served_families(config, shown), serve=True)
    try:
        yield Toolshed(config, shown, RememberingHost(host, []))
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


def test_a_seat_that_was_ready_once_tries_again_whatever_its_constructor_says(
    ray_cluster: str, tmp_path: Path
) -> None:
    import ray

    name = "away-for-a-moment"
    folder: Json = {"folder": str(tmp_path)}
    with served(name, "forgetful", "Forgetful", arguments=folder, restarts=2):
        (lost,) = wait_for(ray_cluster, name, lambda seats: states(seats) == ["ready"])
        (tmp_path / "away").touch()
        ray.kill(lost.actor)
        (found,) = wait_for(
            ray_cluster,
            name,
            lambda seats: states(seats) == ["ready"] and seats[0].name != lost.name,
        )
        assert not (tmp_path / "away").exists() and found.num_restarts == 2


def num_reserved() -> int:
    import ray

    groups = ray.util.placement_group_table().values()
    return sum(each["state"] != "REMOVED" for each in groups)


@pytest.mark.parametrize("pack", ["node", "strict"])
def test_packed_tools_grow_beyond_what_was_reserved_while_there_is_room(
    ray_cluster: str, tmp_path: Path, pack: str
) -> None:
    import ray

    name = f"growing-{pack}"
    folder: Json = {"folder": str(tmp_path)}
    before = num_reserved()
    with served(name, arguments=folder, cpus=1.0, settings={"pack": pack}):
        reserved = num_reserved()
        assert reserved == before + 1
        with pytest.raises(ConfigError, match=f"namespace '{name}' is being served already"):  # noqa: SIM117
            with served(name, arguments=folder, cpus=1.0, settings={"pack": pack}):
                pass
        assert num_reserved() == reserved
        num_cpus = int(ray.cluster_resources()["CPU"])
        with pytest.raises(
            ConfigError, match=rf"{num_cpus + 1} CPU .*replica {num_cpus} .*no place"
        ):
            remote.scale(ray_cluster, "trouble", num_cpus + 1, name)
        assert states(list(remote.status(ray_cluster, name).seats)) == ["ready"]
        remote.scale(ray_cluster, "trouble", 2, name)
        wait_for(ray_cluster, name, lambda seats: states(seats) == ["ready", "ready"])
    assert num_reserved() == before


def test_a_reservation_goes_where_the_namespace_was_taken_meanwhile(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "taken-meanwhile"
    folder: Json = {"folder": str(tmp_path)}
    with served(name, arguments=folder, cpus=1.0):
        before = num_reserved()
        # As if the other had come after this one had looked.
        monkeypatch.setattr(Service, "_is_over", lambda self: True)
        with pytest.raises(ConfigError, match="is being served already"):  # noqa: SIM117
            with served(name, settings={"pack": "node"}, arguments=folder, cpus=1.0):
                pass
        assert num_reserved() == before


def test_drain_waits_for_a_busy_replica_and_says_so(
    ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "busy-drain"
    where = ["--address", ray_cluster, "--namespace", name]
    results: list[ToolResult] = []
    with served(name, arguments={"folder": str(tmp_path)}) as shed:
        nap = ToolCall(id="", name="trouble.nap", arguments={"seconds": 5.0})
        busy = threading.Thread(
            target=lambda: results.append(asyncio.run(shed.session().call(nap)))
        )
        busy.start()
        until((tmp_path / "calls").exists)
        assert main(["drain", "trouble", "0", "--wait", "1", *where]) == 3
        told = capsys.readouterr().err
        assert "trouble: replica 0 is draining, 1 call left" in told
        assert "still works after 1 s; toolshed status shows when it is out" in told
        assert main(["drain", "trouble", "0", *where]) == 0
        assert "replica 0 is out" in capsys.readouterr().out
        busy.join(30)
        assert [each.status for each in results] == ["ok"]
        assert remote.status(ray_cluster, name).seats == ()


def test_a_control_actor_that_does_not_answer_ends_everything_with_its_lease(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    name = "silent-control"

    def there() -> set[str]:
        listed = ray.util.list_named_actors(all_namespaces=True)
        return {each["name"] for each in listed if each["namespace"] == name}

    monkeypatch.setattr("toolshed.serving.launch._STOP_S", 1.0)
    before = num_reserved()
    folder: Json = {"folder": str(tmp_path)}
    with served(name, settings={"pack": "node", "lease_s": 4}, arguments=folder, cpus=1.0):
        control = ray.get_actor(NAME, namespace=name)
        process = ray.get(control.__ray_call__.remote(lambda self: os.getpid()))
        os.kill(process, signal.SIGSTOP)
    try:
        assert len(there()) == 2
    finally:
        os.kill(process, signal.SIGCONT)
    until(lambda: not there())
    assert num_reserved() == before
