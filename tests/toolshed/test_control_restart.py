"""The control actor lost together with replicas, as on a node that dies: callers find new ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.toolshed.fake_tools import HERE
from toolshed.config import parse_tools
from toolshed.serving.registry import GroupSpec
from toolshed.serving.seats import Seat
from toolshed.shed import Toolshed
from toolshed.types import Json, ToolCall, ToolResult

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def where(shed: Toolshed) -> ToolResult:
    return shed.session().call_now(ToolCall(id="1", name="trouble.where", arguments={}))


def named_actors() -> list[dict[str, str]]:
    import ray

    return [
        each
        for each in ray.util.list_named_actors(all_namespaces=True)
        if each["namespace"].startswith("toolshed-")
    ]


def test_replicas_that_died_with_the_control_actor_are_replaced(tmp_path: Path) -> None:
    import ray

    trouble: dict[str, Json] = {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": str(tmp_path)},
        "cache": False,
        "timeout_s": 5.0,
    }
    with Toolshed.open(parse_tools({"host": "ray", "trouble": trouble})) as shed:
        assert where(shed).status == "ok"
        control, replica = (
            ray.get_actor(each["name"], namespace=each["namespace"])
            for each in sorted(named_actors(), key=lambda each: each["name"])
        )
        # In this order the name of the replica is free before the control actor is back.
        ray.kill(replica)
        ray.kill(control, no_restart=False)
        until_s = time.monotonic() + 40
        while (result := where(shed)).status != "ok" and time.monotonic() < until_s:
            assert result.reason in ("replica_died", "busy"), result
        assert result.status == "ok", result


def test_a_name_never_comes_again() -> None:
    """A caller that missed what happened between would take the new replica for the lost one."""
    group = GroupSpec(
        key="group",
        families=(),
        slots=1,
        replicas=1,
        cpus=0.0,
        gpus=0.0,
        start_timeout_s=1.0,
        run_timeout_s=1.0,
        restarts=1,
    )
    first = Seat(group, 0).name
    time.sleep(0.01)
    assert Seat(group, 0).name != first
