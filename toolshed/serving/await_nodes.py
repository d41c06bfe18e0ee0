"""python -m toolshed.serving.await_nodes ADDRESS NAME...: wait until these nodes are in a cluster.

Nodes are known by the label ``toolshed-node`` that scripts/ray_cluster.sh gives them. Without names
it waits until something listens at the address.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Sequence

from toolshed.command import MACHINE_FAILURE
from toolshed.serving.cluster import join

LABEL = "toolshed-node"
_POLL_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all are there; else names those that are missing."""
    parser = argparse.ArgumentParser(prog="python -m toolshed.serving.await_nodes")
    parser.add_argument("address")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--deadline", type=float, default=180.0, help="seconds")
    options = parser.parse_args(arguments)
    until_s = time.monotonic() + options.deadline
    if not _listens(options.address, until_s):
        print(f"nobody listens at {options.address}", file=sys.stderr)
        return MACHINE_FAILURE
    if not options.names:
        return 0
    join(options.address)
    missing = _await(options.names, until_s)
    if missing:
        text = f"{', '.join(missing)} did not join within {options.deadline:g} s"
        print(text, file=sys.stderr)
    return MACHINE_FAILURE if missing else 0


def _listens(address: str, until_s: float) -> bool:
    host, _, port = address.rpartition(":")
    while time.monotonic() < until_s:
        try:
            socket.create_connection((host, int(port)), timeout=2.0).close()
            return True
        except OSError:
            time.sleep(_POLL_S)
    return False


def _await(names: Sequence[str], until_s: float) -> list[str]:
    """Those that did not come."""
    missing = [*names]
    while True:
        there = _joined()
        for name in [each for each in missing if each in there]:
            missing.remove(name)
            num = len(names) - len(missing)
            print(f"node {name} has joined ({num} of {len(names)})", file=sys.stderr, flush=True)
        if not missing or time.monotonic() > until_s:
            return missing
        time.sleep(_POLL_S)


def _joined() -> set[str]:
    import ray

    return {node["Labels"].get(LABEL, "") for node in ray.nodes() if node["Alive"]}


if __name__ == "__main__":
    sys.exit(main())
