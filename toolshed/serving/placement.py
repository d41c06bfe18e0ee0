"""Whether what a config asks for can be had, said before anything starts; and its reservation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from toolshed.errors import ConfigError
from toolshed.serving.registry import GroupSpec

Pack = Literal["none", "node", "strict"]
_RESERVE_TIMEOUT_S = 30.0
_STRATEGIES = {"node": "PACK", "strict": "STRICT_PACK"}


def check_room(groups: Sequence[GroupSpec], pack: Pack) -> None:
    """Raise ConfigError naming what is missing where these replicas can never all be placed."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for group in groups:
        if not any(_fits(group, node) for node in nodes):
            raise ConfigError(
                f"{group.names}: no node has what one replica needs "
                f"({_spelled(group.cpus, group.gpus)}); nodes have {_nodes(nodes)}"
            )
    cpus = sum(each.cpus * each.replicas for each in groups)
    gpus = sum(each.gpus * each.replicas for each in groups)
    if pack == "strict":
        if not any(_has(node, cpus, gpus) for node in nodes):
            raise ConfigError(
                f"pack: strict needs one node with {_spelled(cpus, gpus)}; "
                f"nodes have {_nodes(nodes)}; write fewer replicas, or pack: node"
            )
        return
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        there = sum(node.get(name, 0.0) for node in nodes)
        if wanted > there + 1e-9:
            raise ConfigError(
                f"the replicas need {wanted:g} {name} in all, the cluster has {there:g} "
                f"({_nodes(nodes)}); write fewer replicas or smaller shares, or use "
                "configs/tools/light.yaml"
            )


def reserve(groups: Sequence[GroupSpec], pack: Pack) -> Any:
    """A placement group with one bundle per replica, or None where nothing is to be packed."""
    if pack == "none":
        return None
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    bundles = [
        {name: amount for name, amount in (("CPU", each.cpus), ("GPU", each.gpus)) if amount}
        for each in groups
        for _ in range(each.replicas)
    ]
    bundles = [each for each in bundles if each]
    if not bundles:
        return None
    placement = placement_group(bundles, strategy=_STRATEGIES[pack], lifetime="detached")
    try:
        ray.get(placement.ready(), timeout=_RESERVE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        remove_placement_group(placement)
        free = ray.available_resources()
        there = _spelled(free.get("CPU", 0.0), free.get("GPU", 0.0))
        raise ConfigError(
            f"pack: {pack}: the cluster has the room, but others use it; free are {there}; "
            "wait for them, or write fewer replicas"
        ) from None
    return placement


def _fits(group: GroupSpec, node: dict[str, float]) -> bool:
    return _has(node, group.cpus, group.gpus)


def _has(node: dict[str, float], cpus: float, gpus: float) -> bool:
    return node.get("CPU", 0.0) + 1e-9 >= cpus and node.get("GPU", 0.0) + 1e-9 >= gpus


def _nodes(nodes: Sequence[dict[str, float]]) -> str:
    listed = [_spelled(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    return "; ".join(listed) or "nothing"


def _spelled(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU and {gpus:g} GPU"
