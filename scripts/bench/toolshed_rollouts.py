"""The tool calls of one RL step as a synthetic trace: 64 prompts with 5 siblings each, 320 sessions
at once, calls only. Service times are those measured on A40s, divided by 20. Row f.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scripts.bench.toolshed_calls import HERE, Figures, asked, call, executed, open_shed
from toolshed.shed import Toolshed
from toolshed.types import Json

NUM_PROMPTS, NUM_SIBLINGS = 64, 5
SPEED_UP, CV = 20, 0.3
SERVICE_S = {
    "pointing": 1.72,
    "segmenting": 0.45,
    "depths": 1.8,
    "boxing": 0.3,
    "index": 0.02,
    "grasping": 2.0,
}
REPLICAS = {"pointing": 3, "segmenting": 2, "depths": 2, "boxing": 2, "grasping": 2, "index": 4}
CHAINS: dict[str, tuple[float, list[list[str]]]] = {
    "one_point": (3 / 11, [["pointing"]]),
    "two_points": (5 / 11, [["pointing", "pointing"]]),
    "depth_ab": (1 / 11, [["pointing", "pointing", "depths"], ["index", "index"]]),
    "pose": (1 / 11, [["pointing"], ["segmenting"], ["depths"], ["boxing"]]),
    "grasp": (1 / 11, [["pointing"], ["segmenting"], ["depths"], ["grasping"]]),
}
SHARED = ("depths", "index", "boxing")
"""Identical among siblings; the others follow from a pointer query, which is one of two phrases."""


@dataclass(frozen=True, slots=True)
class Work:
    family: str
    what: str
    seconds: float


Episode = list[list[Work]]


def make_trace(seed: int) -> list[Episode]:
    """The calls of each session: rounds that follow each other, the calls of one at once."""
    rng = np.random.default_rng(seed)
    names = list(CHAINS)
    chains = rng.choice(names, size=NUM_PROMPTS, p=[CHAINS[name][0] for name in names])
    return [
        _episode(prompt, CHAINS[chain][1], seed, rng)
        for prompt, chain in enumerate(chains)
        for _ in range(NUM_SIBLINGS)
    ]


def _episode(prompt: int, rounds: list[list[str]], seed: int, rng: np.random.Generator) -> Episode:
    phrases = [int(each) for each in rng.integers(2, size=2)]
    episode, pointers = [], 0
    for names in rounds:
        made = []
        for place, name in enumerate(names):
            phrase = phrases[pointers % 2]
            if name == "pointing":
                pointers += 1
            what = f"{prompt}/{name}/{place}"
            what = what if name in SHARED else f"{what}/{phrase}"
            made.append(Work(name, what, _service_s(name, what, seed)))
        episode.append(made)
    return episode


def _service_s(name: str, what: str, seed: int) -> float:
    """Log-normal with the family's mean; the same for the same work."""
    sigma = math.sqrt(math.log(1 + CV**2))
    key = [seed, *what.encode()]
    drawn = np.random.default_rng(key).normal(-(sigma**2) / 2, sigma)
    return round(SERVICE_S[name] / SPEED_UP * math.exp(drawn), 6)


def measure_rollouts(folder: Path, repeats: int, seed: int, *, forgetful: bool) -> Figures:
    """The makespan with caches off over its lower bound; then executions with caches on."""
    trace = make_trace(seed)
    works = [each for episode in trace for names in episode for each in names]
    with open_shed(folder, _families(cache=False)) as shed:
        took_s = statistics.median(asyncio.run(_play(shed, trace)) for _ in range(repeats))
    shares = [
        sum(each.seconds for each in works if each.family == name) / num
        for name, num in REPLICAS.items()
    ]
    longest_s = max(sum(max(w.seconds for w in names) for names in each) for each in trace)
    bound_s = max(*shares, longest_s)
    with open_shed(folder, _families(cache=not forgetful)) as shed:
        cached_s = asyncio.run(_play(shed, trace))
        num_executed = _num_executed(shed)
    distinct = len({each.what for each in works})
    return {
        "rl_makespan_ratio": took_s / bound_s,
        "rl_makespan_s": took_s,
        "rl_bound_s": bound_s,
        "rl_calls": float(len(works)),
        "calls_per_distinct": len(works) / distinct,
        "executions_per_distinct": num_executed / distinct,
        "rl_cached_makespan_s": cached_s,
    }


def _families(*, cache: bool) -> dict[str, Json]:
    return {
        name: {
            "backend": f"{HERE}:{name.capitalize()}",
            "replicas": num,
            "cache": cache,
            "timeout_s": 600,
        }
        for name, num in REPLICAS.items()
    }


async def _play(shed: Toolshed, trace: list[Episode]) -> float:
    async def play(episode: Episode) -> None:
        session = shed.session()
        for names in episode:
            await asyncio.gather(
                *(
                    asked(session, call(f"{w.family}.work", what=w.what, seconds=w.seconds))
                    for w in names
                )
            )
        session.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(play(each) for each in trace))
    return time.perf_counter() - began_s


def _num_executed(shed: Toolshed) -> int:
    return sum(executed(shed, name) for name in REPLICAS)
