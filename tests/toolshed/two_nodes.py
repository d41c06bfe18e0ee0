"""Tools on a real Ray cluster of two nodes, in a process of its own: prints what happened as JSON.

Run by test_two_nodes.py, because the test run's own cluster must not be touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.toolshed.fake_tools import FakeDepth, picture
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.serving import remote
from toolshed.serving.cluster import prepare
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import DepthEstimate, Json, ToolCall, ToolImage, ToolResult

HERE = "tests.toolshed.two_nodes"
IMAGE = picture(1, 300)
PLAIN: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20}


class NodeDepth(FakeDepth):
    """Says by the focal length on which node it is."""

    def estimate_depth(self, image: ToolImage) -> DepthEstimate:
        time.sleep(0.3)
        found = super().estimate_depth(image)
        return dataclasses.replace(found, focal_length_px=float(number_of(this_node())))


def this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def number_of(node: str) -> int:
    return int(node[:6], 16)


def tools(address: str, pack: str = "none", **family: Json) -> dict[str, Json]:
    common: dict[str, Json] = {
        "cpus": 1.0,
        "cache": False,
        "timeout_s": 20.0,
        "run_timeout_s": 20.0,
    }
    return {
        "host": "ray",
        "ray_address": address,
        "pack": pack,
        "replies": "compact",
        "depth_estimator": {"backend": f"{HERE}:NodeDepth", **common, **family},
        "vision_ops": {
            "backend": "tests.toolshed.fake_tools:FakeVisionOps", **common, "cpus": 0.0,
        },
    }  # fmt: skip


@contextlib.contextmanager
def served(content: dict[str, Json]) -> Iterator[Toolshed]:
    """Tools that this program serves itself, in a cluster that is there already."""
    from toolshed.caching import RememberingHost
    from toolshed.hosting import served_families
    from toolshed.serving.router import RayHost
    from toolshed.toolset import ToolSet

    config = parse_tools({**content, "namespace": f"two-nodes-{time.time_ns()}"})
    shown = ToolSet.of(config)
    host = RayHost(config, served_families(config, shown), serve=True)
    try:
        yield Toolshed(config, shown, RememberingHost(host, []))
    finally:
        host.close()


def estimates(shed: Toolshed, num: int) -> list[tuple[Session, ToolResult]]:
    """As many calls at once, each of a session of its own."""
    sessions = [shed.session([IMAGE]) for _ in range(num)]

    async def together() -> list[ToolResult]:
        call = ToolCall(id="1", name="depth_estimator.estimate_depth", arguments={"image_index": 0})
        return list(await asyncio.gather(*(each.call(call) for each in sessions)))

    return list(zip(sessions, asyncio.run(together()), strict=True))


def node_of(session: Session) -> int:
    value = session.variables["focal_length_px"].value
    assert isinstance(value, float)
    return int(value)


def nodes_used(shed: Toolshed, num: int) -> set[int]:
    return {node_of(session) for session, _ in estimates(shed, num)}


def read(session: Session) -> ToolResult:
    arguments: dict[str, Json] = {"data": "$depth_map", "u": 0, "v": 1}
    return session.call_now(ToolCall(id="2", name="vision_ops.index_at", arguments=arguments))


def answered(session: Session, vain: list[ToolResult]) -> ToolResult:
    until_s = time.monotonic() + 60
    while (result := read(session)).status == "failed" and time.monotonic() < until_s:
        vain.append(result)
        time.sleep(0.5)
    return result


def control_of(shed: Toolshed) -> Any:
    import ray

    return ray.get_actor("toolshed/control", namespace=shed.config.namespace)


def seats(shed: Toolshed) -> list[Any]:
    import ray

    registry = ray.get(control_of(shed).registry.remote(), timeout=20)
    return registry.of_group("depth_estimator")  # type: ignore[no-any-return]


def wait_for(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        with contextlib.suppress(Exception):
            value = found()
            if value:
                return value
        time.sleep(0.3)
    return None


def refusal(content: dict[str, Json]) -> str:
    try:
        with served(content):
            return "it started"
    except ConfigError as error:
        return str(error)


# ---- what is tried -------------------------------------------------------------------------


def placement(address: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    with served(tools(address, replicas=4)) as shed:
        told["none"] = len(nodes_used(shed, 8))
    with served(tools(address, "strict", replicas=2)) as shed:
        told["strict"] = len(nodes_used(shed, 8))
    with served(tools(address, "strict", replicas=1)) as shed:
        namespace = shed.config.namespace
        remote.scale(address, "depth_estimator", 2, namespace)
        wait_for(lambda: num_ready(shed) == 2)
        told["strict, grown"] = len(nodes_used(shed, 8))
        try:
            remote.scale(address, "depth_estimator", 3, namespace)
        except ConfigError as error:
            told["strict, grown too far"] = str(error)
    with served(tools(address, "node", replicas=3)) as shed:
        told["node"] = len(nodes_used(shed, 9))
    told["strict, too many"] = refusal(tools(address, "strict", replicas=3))
    told["too large"] = refusal(tools(address, cpus=3.0))
    told["too many"] = refusal(tools(address, replicas=5))
    told["no gpu"] = refusal(tools(address, gpus=1.0))
    return told


def lost_node(cluster: Any, node: Any, *, spare: bool) -> dict[str, Any]:
    """One replica fills each node; then a node is killed while another is, or is not, free."""
    told: dict[str, Any] = {}
    with served(tools(cluster.address, cpus=2.0, replicas=2, start_timeout_s=8.0)) as shed:
        sessions = [session for session, _ in estimates(shed, 8)]
        lost = number_of(node.node_id)
        there = [each for each in sessions if node_of(each) == lost]
        here = [each for each in sessions if node_of(each) != lost]
        told["made there and here"] = [len(there) > 0, len(here) > 0]
        if spare:
            cluster.add_node(**PLAIN)
        cluster.remove_node(node, allow_graceful=False)
        told["calls after"] = [result.status for _, result in estimates(shed, 4)]
        # Until Ray has noticed, a replica of the lost node may be asked in vain.
        vain: list[ToolResult] = []
        gone, kept = answered(there[0], vain), answered(here[0], vain)
        told["in vain"] = [[each.status, each.reason, each.text] for each in vain]
        told["lost array"] = [gone.status, gone.reason, gone.text]
        told["kept array"] = kept.status
        if not spare:
            told["why not"] = wait_for(lambda: no_room(shed))
            cluster.add_node(**PLAIN)
        told["came back"] = wait_for(lambda: num_ready(shed) == 2)
        told["nodes at the end"] = len(nodes_used(shed, 8))
    return told


def no_room(shed: Toolshed) -> list[str]:
    return [each.reason for each in seats(shed) if "no room" in each.reason]


def num_ready(shed: Toolshed) -> int:
    return sum(each.state == "ready" for each in seats(shed))


def main() -> int:
    prepare()
    from ray.cluster_utils import Cluster

    told: dict[str, Any] = {}
    cluster = Cluster(initialize_head=True, head_node_args={**PLAIN, "include_dashboard": False})
    second = cluster.add_node(**PLAIN)
    try:
        told["placement"] = placement(cluster.address)
        told["no room"] = lost_node(cluster, second, spare=False)
        (third,) = [each for each in cluster.worker_nodes if each is not second]
        told["room"] = lost_node(cluster, third, spare=True)
    finally:
        Path(sys.argv[1]).write_text(json.dumps(told), encoding="utf-8")
        import ray

        ray.shutdown()
        cluster.shutdown()
    return 0


if __name__ == "__main__":
    # As scripts/ray_cluster.sh has it.
    os.environ.update(RAY_health_check_period_ms="1000", RAY_health_check_failure_threshold="5")
    os.environ.setdefault("RAY_AUTH_TOKEN", "two-nodes-" + str(os.getpid()))
    sys.exit(main())
