"""What survives the control actor: replicas, by their names, and which places are to be filled."""

from __future__ import annotations

import contextlib
import json
from typing import Any


def living_replicas(namespace: str) -> dict[tuple[str, int], tuple[int, Any]]:
    """Replicas of an earlier life, by group and index: generation and actor; the newest of each."""
    import ray

    found: dict[tuple[str, int], tuple[int, Any]] = {}
    for entry in ray.util.list_named_actors(all_namespaces=True):
        parts = entry["name"].split("/")
        if entry["namespace"] != namespace or len(parts) != 4:
            continue
        key, index, generation = parts[1], int(parts[2]), int(parts[3])
        with contextlib.suppress(ValueError):
            actor = ray.get_actor(entry["name"], namespace=namespace)
            other = found.get((key, index), (-1, None))
            newer, older = sorted(((generation, actor), other), key=lambda each: each[0])[::-1]
            found[(key, index)] = newer
            if older[1] is not None:
                # Its end was under way when that of the control actor came.
                ray.kill(older[1], no_restart=True)
    return found


def load_wanted(namespace: str) -> dict[str, list[int]]:
    """Which places are to be filled, by group, where ``scale`` or ``drain`` changed it."""
    from ray.experimental import internal_kv

    kept = internal_kv._internal_kv_get(f"toolshed/{namespace}/wanted")
    return {} if kept is None else json.loads(kept)


def save_wanted(namespace: str, wanted: dict[str, list[int]]) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(f"toolshed/{namespace}/wanted", json.dumps(wanted))


def forget_wanted(namespace: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(f"toolshed/{namespace}/wanted")
