"""What ends: budgets of restarts, leases, killed callers, full queues, starts that must fail."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toolshed.chaos_scene import (
    Scene,
    ask,
    call,
    family,
    kill,
    num_stored_objects,
    outcomes,
    process_of,
    server,
    work,
)
from tests.toolshed.chaos_tools import HERE
from tests.toolshed.threads import until
from toolshed.config import parse_tools, replaced
from toolshed.errors import ConfigError, ToolshedError
from toolshed.serving.control import NAME
from toolshed.serving.remote import status
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolResult

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_killed_while_loading_and_given_up_when_the_budget_is_spent(
    ray_cluster: str, tmp_path: Path
) -> None:
    content: dict[str, Json] = {
        "host": "ray",
        "chaos": {
            **family(tmp_path, "Chaos", restarts=2),
            "arguments": {"folder": str(tmp_path), "load_s": 1.0},
        },
    }
    with Toolshed.open(parse_tools(content)) as shed:
        scene = Scene(shed, tmp_path, ray_cluster)

        def loading() -> list[int]:
            return [int(each) for each in (tmp_path / "loading").read_text().split()]

        (first,) = scene.processes("chaos", 1)

        def during() -> None:
            until(lambda: "work 1" in scene.executed())
            kill(first)
            until(lambda: len(loading()) == 2)
            kill(loading()[1])

        (result,) = scene.ask(work("chaos", 1, 2.0), during=during)
        assert process_of(result) == loading()[2]
        assert scene.seats("chaos")[0].num_restarts == 2
        (lost, waits) = scene.ask(call("chaos.die", which=2, times=9), work("chaos", 3, 0.0))
        assert len(loading()) == 3, "the budget is two restarts"
        began_s = time.perf_counter()
        (late,) = scene.ask(work("chaos", 4, 0.0))
        assert time.perf_counter() - began_s < 5
        for each in (lost, waits, late):
            assert (each.status, each.reason) == ("failed", "replica_died")
        assert "given up" in late.text
        assert scene.executed()["die 2"] == 1 and "work 4" not in scene.executed()


def test_tools_whose_server_was_killed_end_with_their_lease(
    ray_cluster: str, tmp_path: Path
) -> None:
    import ray

    def names() -> set[str]:
        listed = ray.util.list_named_actors(all_namespaces=True)
        return {each["name"] for each in listed if each["namespace"] == "orphans"}

    started = server(tmp_path, ray_cluster, "orphans", lease_s=4.0)
    control = ray.get_actor(NAME, namespace="orphans")
    seats = status(ray_cluster, "orphans").of_group("chaos")
    assert [each.state for each in seats] == ["ready"]
    time.sleep(5)
    assert names() == {NAME, seats[0].name}, "its server keeps the lease"
    started.kill()
    started.wait()
    # Not even the control actor remembers them now.
    ray.kill(control, no_restart=False)
    until(lambda: not names())


# ---- callers -----------------------------------------------------------------------------------

_CALLER = """
import asyncio, sys
from tests.toolshed.fake_tools import picture
from toolshed.config import load_tools, replaced
from toolshed.shed import Toolshed
from toolshed.types import ToolCall

path, address, namespace = sys.argv[1:]
config = replaced(load_tools(path), {"host": "ray", "ray_address": address, "namespace": namespace})
with Toolshed.open(config) as shed:
    async def main():
        session = shed.session([picture(1, 300)])
        seen = {"which": 1, "image_index": 0}
        await session.call(ToolCall(id="", name="chaos.see", arguments=seen))
        print("ready", flush=True)
        one = {"which": 2, "seconds": 1.5}
        calls = [ToolCall(id="", name="chaos.work", arguments=one)] * 3
        await asyncio.gather(*map(session.call, calls))
    asyncio.run(main())
"""


def test_caller_killed_in_mid_call_leaves_nothing_behind(ray_cluster: str, tmp_path: Path) -> None:
    started = server(tmp_path, ray_cluster, "callers")
    arguments = [str(tmp_path / "tools.yaml"), ray_cluster, "callers"]
    before = num_stored_objects()
    caller = subprocess.Popen([sys.executable, "-c", _CALLER, *arguments], stdout=subprocess.PIPE)
    try:
        assert caller.stdout is not None and caller.stdout.readline() == b"ready\n"
        runs = tmp_path / "runs"
        until(lambda: "work 2" in runs.read_text())
        assert num_stored_objects() == before + 2, "its picture and its array"
        caller.kill()
        caller.wait()
        # The replica keeps the picture mapped for the next call, within its bound.
        until(lambda: num_stored_objects() <= before + 1)
        mine = replaced(
            parse_tools({"host": "ray", "chaos": family(tmp_path, "Chaos")}),
            {"ray_address": ray_cluster, "namespace": "callers"},
        )
        with Toolshed.open(mine) as shed:
            (result,) = ask(shed.session(), work("chaos", 3, 0.0))
            assert result.status == "ok"
            (seat,) = status(ray_cluster, "callers").of_group("chaos")
            until(lambda: _accepted(ray_cluster) == 0)
            assert process_of(result) == seat.health.process_id if seat.health else False
        assert "work 3" in runs.read_text()
    finally:
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=30) == 0
        if caller.stdout is not None:
            caller.stdout.close()


def _accepted(address: str) -> int:
    (seat,) = status(address, "callers").of_group("chaos")
    return seat.health.num_accepted if seat.health is not None else -1


def test_full_queue_is_busy_at_once_and_starves_nobody(ray_cluster: str, tmp_path: Path) -> None:
    content: dict[str, Json] = {"host": "ray", "chaos": family(tmp_path, "Chaos", max_queue=5)}
    with Toolshed.open(parse_tools(content)) as shed:
        scene = Scene(shed, tmp_path, ray_cluster)
        first: list[ToolResult] = []

        async def burst() -> tuple[list[ToolResult], ToolResult, float]:
            session, other = shed.session(), shed.session(priority="interactive")
            made = [asyncio.create_task(session.call(work("chaos", i, 0.5))) for i in range(50)]
            await asyncio.sleep(0)
            began_s = time.perf_counter()
            first.extend(await asyncio.gather(*made[6:]))
            told_s = time.perf_counter() - began_s
            # One of the queue's places is free as soon as one call has ended.
            await made[0]
            urgent = await other.call(work("chaos", 99, 0.0))
            return list(await asyncio.gather(*made[:6])), urgent, told_s

        served, urgent, told_s = asyncio.run(burst())
        assert outcomes(first) == {"busy": 44} and told_s < 5
        assert outcomes(served) == {"ok": 6} and urgent.status == "ok"
        assert max(each.timings.queue_s for each in served) > 0.5
        assert scene.executed() == {f"work {i}": 1 for i in [*range(6), 99]}
        order = [each.split()[1] for each in (tmp_path / "runs").read_text().splitlines()]
        assert order.index("99") <= 2, "the interactive session went first"


# ---- starts that fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("import", "a_package_that_nobody_has"),
        ("weights", "model.safetensors"),
        ("exit", "cannot start"),
        ("killed", "cannot start"),
    ],
)
def test_a_start_that_cannot_succeed_fails_soon_with_one_line(how: str, says: str) -> None:
    doomed: Json = {"backend": f"{HERE}:Doomed", "arguments": {"how": how}, "replicas": 2}
    began_s = time.perf_counter()
    with pytest.raises(ToolshedError, match=says) as caught:
        Toolshed.open(parse_tools({"host": "ray", "doomed": doomed}))
    assert time.perf_counter() - began_s < 15
    assert "doomed" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "says"),
    [("/nowhere/bin/python", "/nowhere/bin/python"), ("no_such_one", "no_such_one")],
)
def test_an_environment_that_is_missing_is_said_at_once(environment: str, says: str) -> None:
    content: Json = {"backend": "light", "environment": environment}
    began_s = time.perf_counter()
    with pytest.raises(ConfigError, match=says) as caught:
        Toolshed.open(parse_tools({"host": "ray", "vision_ops": content}))
    assert time.perf_counter() - began_s < 15
    assert "\n" not in str(caught.value)
