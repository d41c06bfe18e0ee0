"""Whether replicas can be placed: a share of a GPU on one GPU, a replica on one node."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolshed.errors import ConfigError
from toolshed.serving.placement import Need, Pack, check_fit

Node = dict[str, float]
TWO_GPUS: Node = {"CPU": 8.0, "GPU": 2.0}


def needs(*amounts: tuple[float, float]) -> list[Need]:
    """Replicas with so many CPUs and GPUs."""
    return [
        Need(place=("sam2", index), names="sam2", cpus=cpus, gpus=gpus)
        for index, (cpus, gpus) in enumerate(amounts)
    ]


@pytest.mark.parametrize(
    ("wanted", "nodes", "pack", "told"),
    [
        (
            needs(*[(1.0, 0.6)] * 3),
            [TWO_GPUS],
            "none",
            r"sam2: replica 2 \(1 CPU and 0.6 GPU\) beside the others "
            r"\(left are 6 CPU and 0.4 \+ 0.4 GPU\) has no place: .*nodes have 8 CPU and 2 GPU",
        ),
        (needs(*[(1.0, 0.6)] * 3), [TWO_GPUS], "strict", "pack: strict .*replica 2.*left are 6"),
        (needs((0.0, 2.0)), [{"CPU": 8.0, "GPU": 1.0}] * 2, "none", "no node has what one replica"),
        (needs((0.0, 1.5)), [TWO_GPUS], "none", "no node has what one replica"),
        (needs((0.0, 2.0), (0.0, 0.1)), [TWO_GPUS], "none", "need 2.1 GPU in all, the cluster has"),
        (needs(*[(3.0, 0.0)] * 3), [{"CPU": 5.0}] * 2, "none", r"replica 2 .*left are 2 .*; 2 CPU"),
        (needs((1.0, 0.0)), [], "none", "nodes have nothing"),
    ],
)
def test_the_replica_without_a_place_is_named(
    wanted: list[Need], nodes: list[Node], pack: Pack, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_fit(wanted, nodes, pack)


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (needs(*[(0.01, 0.1)] * 20), [TWO_GPUS]),
        (needs(*[(0.1, 0.0)] * 10), [{"CPU": 1.0}]),
        (needs((1.0, 0.5), (1.0, 1.0), (1.0, 0.5)), [TWO_GPUS]),
        # By GPUs alone the first would take the CPUs that only the second needs.
        (needs((1.0, 2.0), (16.0, 1.0)), [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}]),
    ],
)
def test_what_fits_is_let_through(wanted: list[Need], nodes: list[Node]) -> None:
    check_fit(wanted, nodes)


def can_be_placed(wanted: Sequence[tuple[int, int]], nodes: Sequence[tuple[int, int]]) -> bool:
    """Every way tried; CPUs and GPUs in tenths, nodes with whole GPUs."""
    devices = [(node, gpu) for node, (_, gpus) in enumerate(nodes) for gpu in range(gpus // 10)]

    def choices(gpus: int) -> list[tuple[int, tuple[tuple[int, int], ...], int]]:
        """Node, devices, and what is taken of each."""
        if gpus == 0:
            return [(node, (), 0) for node in range(len(nodes))]
        if gpus <= 10:
            return [(each[0], (each,), gpus) for each in devices]
        if gpus % 10:
            return []
        groups = itertools.combinations(devices, gpus // 10)
        return [(group[0][0], group, 10) for group in groups if len({n for n, _ in group}) == 1]

    for chosen in itertools.product(*(choices(gpus) for _, gpus in wanted)):
        cpus_left = [cpus for cpus, _ in nodes]
        left = dict.fromkeys(devices, 10)
        for (cpus, _), (node, taken, amount) in zip(wanted, chosen, strict=True):
            cpus_left[node] -= cpus
            for each in taken:
                left[each] -= amount
        if min([*cpus_left, *left.values()], default=0) >= 0:
            return True
    return False


amounts = st.tuples(st.integers(0, 12), st.sampled_from([0, 1, 3, 4, 5, 6, 7, 10, 15, 20]))
machines = st.tuples(st.integers(0, 20), st.sampled_from([0, 10, 20]))


@settings(max_examples=150, deadline=None)
@given(
    wanted=st.lists(amounts, max_size=4),
    nodes=st.lists(machines, min_size=1, max_size=2),
    pack=st.sampled_from(["none", "node", "strict"]),
)
def test_what_is_accepted_can_be_placed(
    wanted: list[tuple[int, int]], nodes: list[tuple[int, int]], pack: Pack
) -> None:
    asked = needs(*((cpus / 10, gpus / 10) for cpus, gpus in wanted))
    try:
        check_fit(asked, [{"CPU": cpus / 10, "GPU": gpus / 10} for cpus, gpus in nodes], pack)
    except ConfigError:
        return
    parts = [[node] for node in nodes] if pack == "strict" else [nodes]
    assert any(can_be_placed(wanted, part) for part in parts)
