"""Whether ten thousand calls leave anything behind: sessions that open and close as those of an RL
rollout do, on the light tools under Ray. What is held at the last call must be within 5 % of what
was held after a fifth of them; before that come calls that fill every cache.

Memory is counted twice: ``*_bytes`` are a process's own, ``*_rss`` also those pages of the shared
object store that it has ever touched, which grow towards the store's fixed size in every process.
``--selftest`` keeps, on purpose, results, open files and memory of ended sessions, and exits with
1 unless each shows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Before this file's folder, where another file has the library's name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from toolshed.images import make_image
from toolshed.serving.control import NAME
from toolshed.serving.router import RayHost
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import DEMO, make_scene
from toolshed.types import Json, ToolCall, ToolImage

NUM_CALLS, NUM_BEFORE = 10_000, 6_000
MOST_GROWTH = 1.05
SESSIONS_AT_ONCE = 8
SIBLINGS = 2
_QUIET_S = 3.0
_LEAKED_BYTES = 200_000

_TURNS: tuple[tuple[tuple[str, dict[str, Json]], ...], ...] = (
    (
        ("roborefer.detect_one", {"obj_name": "red object", "image_index": 0}),
        ("vlm.detect_all", {"obj_name": "objects", "image_index": 0}),
    ),
    (
        ("depth_estimator.estimate_depth_with_pointcloud", {"image_index": 0}),
        ("sam2.segment_from_point", {"x": 0.5, "y": 0.6, "image_index": 0}),
    ),
    (("vision_ops.index_at", {"data": "$depth_map", "u": 0.5, "v": 0.5}),),
    (
        (
            "bounding_box.compute_bbox",
            {
                "point_cloud": "$point_cloud",
                "mask": "$segmentation_mask",
                "focal_length_px": "$focal_length_px",
            },
        ),
    ),
    (("robot.capture_image", {}), ("vision_ops.index_at", {"data": "$nothing", "u": 0, "v": 0})),
)
CALLS_PER_SESSION = sum(map(len, _TURNS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What is held at one moment, by everything that belongs to the tools."""

    caller_bytes: int
    replicas_bytes: int
    caller_rss: int
    replicas_rss: int
    caller_files: int
    replicas_files: int
    handles: int
    """References to objects that the caller holds."""
    store_objects: int
    store_bytes: int


@dataclass(kw_only=True, slots=True)
class Hoard:
    """What a selftest keeps on purpose."""

    results: list[object] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    memory: list[np.ndarray] = field(default_factory=list)

    def keep(self, session: Session) -> None:
        self.results += [each.value for each in session.variables.values()]
        self.files.append(os.open(os.devnull, os.O_RDONLY))
        self.memory.append(np.ones(_LEAKED_BYTES, dtype=np.uint8))

    def clear(self) -> None:
        for each in self.files:
            os.close(each)
        self.results.clear()
        self.files.clear()
        self.memory.clear()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--calls", type=int, default=NUM_CALLS)
    parser.add_argument("--before", type=int, default=NUM_BEFORE, help="calls that fill caches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether leaks are noticed")
    options = parser.parse_args(arguments)
    if options.calls < 500 or options.before < 0:
        parser.error("--calls must be at least 500, --before at least 0")
    hoard = Hoard() if options.selftest else None
    early, late, num_failed = soak(options.before, options.calls, options.seed, hoard)
    growth = {
        name: round(getattr(late, name) / max(1, getattr(early, name)), 4)
        for name in Held.__dataclass_fields__
    }
    grown = sorted(name for name, ratio in growth.items() if ratio > MOST_GROWTH)
    figures: dict[str, Json] = {
        "calls": options.calls,
        "failed": num_failed,
        **{f"{name}_growth": ratio for name, ratio in growth.items()},
        **{f"{name}_late": int(getattr(late, name)) for name in growth},
        "grown": list(grown),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name:24} {figure}")
    if options.selftest:
        return (
            0 if {"caller_bytes", "caller_files", "handles", "store_objects"} <= set(grown) else 1
        )
    return 1 if grown or num_failed else 0


def soak(before: int, num: int, seed: int, hoard: Hoard | None) -> tuple[Held, Held, int]:
    """What is held after a fifth of the calls and after all, and how many calls failed."""
    chance = random.Random(seed)
    scenes = [_enlarged(render(make_scene(each, DEMO)).image()) for each in range(8)]
    with Toolshed.open("light", host="ray") as shed:
        watch = Watch(shed)
        num_failed = run(shed, before, chance, scenes, None)
        num_failed += run(shed, num // 5, chance, scenes, hoard)
        early = watch.held()
        num_failed += run(shed, num - num // 5, chance, scenes, hoard)
        late = watch.held()
        if hoard is not None:
            hoard.clear()
    return early, late, num_failed


def run(
    shed: Toolshed,
    num: int,
    chance: random.Random,
    scenes: Sequence[ToolImage],
    hoard: Hoard | None,
) -> int:
    """About ``num`` calls in sessions that come and go; how many of them failed."""
    episodes = [
        (picture, chance.randrange(10_000))
        for picture in (
            _fresh(chance, scenes) for _ in range(-(-num // CALLS_PER_SESSION // SIBLINGS))
        )
        for _ in range(SIBLINGS)
    ]

    async def worker() -> int:
        num_failed = 0
        while episodes:
            picture, scene = episodes.pop()
            num_failed += await _episode(shed, picture, scene, hoard)
        return num_failed

    async def together() -> int:
        return sum(await asyncio.gather(*(worker() for _ in range(SESSIONS_AT_ONCE))))

    return asyncio.run(together())


def _enlarged(image: ToolImage) -> ToolImage:
    """Twice as wide and high, so that every cache and the object store are full soon."""
    assert image.depth_mm is not None and image.focal_length_px is not None
    pixels = image.pixels.repeat(2, axis=0).repeat(2, axis=1)
    depth_mm = image.depth_mm.repeat(2, axis=0).repeat(2, axis=1)
    return make_image(pixels, depth_mm, 2 * image.focal_length_px)


def _fresh(chance: random.Random, scenes: Sequence[ToolImage]) -> ToolImage:
    """A picture that nobody has seen: a known one with one row of noise."""
    base = chance.choice(scenes)
    pixels = base.pixels.copy()
    pixels[0] = np.frombuffer(chance.randbytes(pixels[0].size), np.uint8).reshape(pixels[0].shape)
    return make_image(pixels, base.depth_mm, base.focal_length_px)


async def _episode(shed: Toolshed, picture: ToolImage, scene: int, hoard: Hoard | None) -> int:
    session = shed.session([picture], scene=scene)
    num_failed = 0
    for turn in _TURNS:
        calls = [ToolCall(id=name, name=name, arguments=each) for name, each in turn]
        results = await asyncio.gather(*map(session.call, calls))
        num_failed += sum(each.status == "failed" for each in results)
    if hoard is not None:
        hoard.keep(session)
    session.close()
    return num_failed


# ---- what is held ------------------------------------------------------------------------------


class Watch:
    """Looks at the caller, the replicas and the object store."""

    def __init__(self, shed: Toolshed) -> None:
        import ray

        host: Any = shed._host
        assert isinstance(host._host, RayHost)
        self._control = ray.get_actor(NAME, namespace=host._host.service.namespace)
        # In a process of its own, because each look leaves a connection open.
        self._look = ray.remote(num_cpus=0)(_stored)

    def held(self) -> Held:
        import ray

        # Ray frees in the background what nobody refers to any more.
        for _ in range(2):
            gc.collect()
            time.sleep(_QUIET_S / 2)
        seats = ray.get(self._control.registry.remote()).seats
        healths = [each.health for each in seats if each.health is not None]
        num_objects, num_bytes = ray.get(self._look.remote())
        core = ray._private.worker.global_worker.core_worker
        return Held(
            caller_bytes=_memory(os.getpid(), "RssAnon"),
            replicas_bytes=sum(_memory(each.process_id, "RssAnon") for each in healths),
            caller_rss=_memory(os.getpid(), "VmRSS"),
            replicas_rss=sum(_memory(each.process_id, "VmRSS") for each in healths),
            caller_files=_files(os.getpid()),
            replicas_files=sum(_files(each.process_id) for each in healths),
            handles=len(core.get_all_reference_counts()),
            store_objects=num_objects,
            store_bytes=num_bytes,
        )


def _stored() -> tuple[int, int]:
    """Objects and bytes in the object store of this machine."""
    import ray
    from ray._private import internal_api

    state = internal_api.get_state_from_address(ray.get_runtime_context().gcs_address)
    store = internal_api.get_memory_info_reply(state).store_stats
    return store.num_local_objects, store.object_store_bytes_used


def _memory(process: int, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return 1024 * int(kilobytes)


def _files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


if __name__ == "__main__":
    sys.exit(main())
