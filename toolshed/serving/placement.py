"""Whether what a config asks for can be had, said before anything starts; and its reservation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from toolshed.errors import ConfigError
from toolshed.serving.registry import GroupSpec

Pack = Literal["none", "node", "strict"]
Place = tuple[str, int]
"""Process word and index of a replica."""
_RESERVE_TIMEOUT_S = 30.0
_MOST_PER_NODE = 64
"""Replicas of one family: shares may be as small as one likes, processes are not."""
_STRATEGIES = {"node": "PACK", "strict": "STRICT_PACK"}
_UNIT = 10_000
"""Shares are counted in these parts of a CPU or GPU, as Ray counts them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one replica takes."""

    place: Place
    names: str
    """Of its families."""
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.names}: replica {self.place[1]} ({spelled(self.cpus, self.gpus)})"


class _Node:
    """A node that is being filled."""

    def __init__(self, resources: Mapping[str, float]) -> None:
        self.cpus = _parts(resources.get("CPU", 0.0))
        self.gpus = [_UNIT] * int(resources.get("GPU", 0.0))

    def take(self, need: Need) -> bool:
        """Whether it fits: a share of a GPU on one, whole ones where nobody else is."""
        cpus, gpus = _parts(need.cpus), _parts(need.gpus)
        whole = gpus // _UNIT if gpus > _UNIT else 0
        share = gpus - whole * _UNIT
        if cpus > self.cpus or (whole and share):
            return False
        least = _UNIT if whole else share
        wanted = max(whole, int(share > 0))
        found = [number for number, left in enumerate(self.gpus) if left >= least][:wanted]
        if len(found) < wanted:
            return False
        for number in found:
            self.gpus[number] -= least
        self.cpus -= cpus
        return True

    def __str__(self) -> str:
        shares = [each / _UNIT for each in self.gpus if each]
        gpus = " + ".join(f"{each:g}" for each in shares) or "0"
        return f"{self.cpus / _UNIT:g} CPU and {gpus} GPU"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """Where the replicas of one config go."""

    pack: Pack
    bundles: Mapping[Place, int]
    """Replicas that have a bundle of the placement group; the others are placed without it."""
    group: Any = None
    """Ray's placement group, where there is one."""

    def strategy(self, place: Place, *, needs_nothing: bool) -> Any:
        """Ray's scheduling strategy for a replica; None for anywhere. ValueError where it has to be
        on one node with others, and theirs is lost."""
        from ray.util import scheduling_strategies as strategies

        if self.group is None:
            return None
        number = self.bundles.get(place)
        if number is not None or needs_nothing:
            return strategies.PlacementGroupSchedulingStrategy(
                self.group, placement_group_bundle_index=-1 if number is None else number
            )
        if self.pack == "node":
            return None
        node = self._node()
        if node is None:
            raise ValueError("the node of all replicas is lost, and no other has the room yet")
        return strategies.NodeAffinitySchedulingStrategy(node, soft=False)

    def check_growth(self, groups: Sequence[GroupSpec], places: Iterable[Place]) -> None:
        """Raise ConfigError where replicas at these places, all that there are to be, can never all
        be placed; what is reserved stays taken."""
        import ray

        by_key = {each.key: each for each in groups}
        all_places = sorted({*places, *self.bundles}, key=lambda each: each[1])
        only = self._node() if self.group is not None and self.pack == "strict" else None
        nodes = [
            node["Resources"]
            for node in ray.nodes()
            if node["Alive"] and only in (None, node["NodeID"])
        ]
        check_fit([_need(by_key[key], index) for key, index in all_places], nodes, self.pack)

    def remove(self) -> None:
        """Give the place back; nothing where none was reserved."""
        import ray

        if self.group is not None:
            ray.util.remove_placement_group(self.group)

    def _node(self) -> str | None:
        """Of a ``strict`` placement group; None while it is being placed anew."""
        from ray.util import placement_group_table

        nodes: dict[int, str] = placement_group_table(self.group).get("bundles_to_node_id", {})
        return next((each for each in nodes.values() if each), None)


def check_number(names: str, replicas: int) -> None:
    """Raise ConfigError where a number of replicas can only be a slip."""
    import ray

    num_nodes = sum(node["Alive"] for node in ray.nodes())
    if replicas > _MOST_PER_NODE * num_nodes:
        raise ConfigError(
            f"{names}: {replicas} replicas; at most {_MOST_PER_NODE} for each of the cluster's "
            f"{num_nodes} nodes"
        )


def check_room(groups: Sequence[GroupSpec], pack: Pack) -> None:
    """Raise ConfigError naming what is missing where these replicas can never all be placed."""
    import ray

    for group in groups:
        check_number(group.names, group.replicas)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    check_fit(
        [_need(each, index) for each in groups for index in range(each.replicas)], nodes, pack
    )


def check_fit(
    needs: Sequence[Need], nodes: Sequence[Mapping[str, float]], pack: Pack = "none"
) -> None:
    """Raise ConfigError naming the replica that finds no place on nodes with these resources.

    What is accepted has been placed, largest first, each replica on the first node with room. What
    is refused might, in rare cases, have a place that only trying all orders finds.
    """
    for need in needs:
        if not any(_Node(node).take(need) for node in nodes):
            raise ConfigError(
                f"{need.names}: no node has what one replica needs "
                f"({spelled(need.cpus, need.gpus)}); nodes have {_listed(nodes)}"
            )
    cpus, gpus = sum(each.cpus for each in needs), sum(each.gpus for each in needs)
    if pack == "strict":
        lost = [_unplaced(needs, [node]) for node in nodes]
        if not all(lost) or not needs:
            return
        at_fault = f", where {lost[0]} has no place" if len(lost) == 1 else ""
        raise ConfigError(
            f"pack: strict needs one node with {spelled(cpus, gpus)}; nodes have "
            f"{_listed(nodes)}{at_fault}; write fewer replicas, or pack: node"
        )
    told = _unplaced(needs, nodes)
    if not told:
        return
    remedy = "write fewer replicas or smaller shares, or use configs/tools/light.yaml"
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        there = sum(node.get(name, 0.0) for node in nodes)
        if _parts(wanted) > _parts(there):
            raise ConfigError(
                f"the replicas need {wanted:g} {name} in all, the cluster has {there:g} "
                f"({_listed(nodes)}), so {told} has no place; {remedy}"
            )
    raise ConfigError(
        f"{told} has no place: a replica is on one node, a share of a GPU on one GPU; nodes have "
        f"{_listed(nodes)}; {remedy}"
    )


def reserve(groups: Sequence[GroupSpec], pack: Pack) -> Reservation:
    """A placement group with one bundle per replica, or none where nothing is to be packed.

    ConfigError where others use the room.
    """
    import ray
    from ray.util.placement_group import placement_group

    needs = [_need(each, index) for each in groups for index in range(each.replicas)]
    needs = [each for each in needs if each.cpus or each.gpus]
    if pack == "none" or not needs:
        return Reservation(pack=pack, bundles={})
    bundles = [
        {name: amount for name, amount in (("CPU", each.cpus), ("GPU", each.gpus)) if amount}
        for each in needs
    ]
    found = Reservation(
        pack=pack,
        bundles={each.place: number for number, each in enumerate(needs)},
        group=placement_group(bundles, strategy=_STRATEGIES[pack], lifetime="detached"),
    )
    is_ready = False
    try:
        ray.get(found.group.ready(), timeout=_RESERVE_TIMEOUT_S)
        is_ready = True
    except ray.exceptions.GetTimeoutError:
        free = ray.available_resources()
        there = spelled(free.get("CPU", 0.0), free.get("GPU", 0.0))
        raise ConfigError(
            f"pack: {pack}: the cluster has the room, but others use it; free are {there}; "
            "wait for them, or write fewer replicas"
        ) from None
    finally:
        if not is_ready:
            found.remove()
    return found


def spelled(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU and {gpus:g} GPU"


def _unplaced(needs: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> str:
    """The replica that finds no place, and what is left; empty where all have theirs."""
    told = ""
    orders: tuple[Callable[[Need], tuple[float, float]], ...] = (
        lambda need: (-need.gpus, -need.cpus),
        lambda need: (-need.cpus, -need.gpus),
    )
    for order in orders:
        filled = [_Node(node) for node in nodes]
        for need in sorted(needs, key=order):
            if not any(node.take(need) for node in filled):
                told = told or f"{need} beside the others (left are {'; '.join(map(str, filled))})"
                break
        else:
            return ""
    return told


def _need(group: GroupSpec, index: int) -> Need:
    return Need(place=(group.key, index), names=group.names, cpus=group.cpus, gpus=group.gpus)


def _parts(amount: float) -> int:
    return round(amount * _UNIT)


def _listed(nodes: Sequence[Mapping[str, float]]) -> str:
    listed = [spelled(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    return "; ".join(listed) or "nothing"
