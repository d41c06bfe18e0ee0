"""How much of a rollout's wall time is unavoidable: 64 trajectories of 1 to 5 slow calls, width 16.

The figure is max(longest trajectory, sum of all / width) over the wall time; 1 means that no place
ever stood empty. The tools run in a Ray replica with 16 slots and take 0.5 s a call; the decoder is
real, its words are given. ``--selftest`` plays the trajectories in batches that wait for their last
one, as a synchronous rollout does, and exits with 1 unless the figure falls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from rl.policy.base import Prompt
from rl.questions.data import load_questions
from rl.rollout import Job, Limits, Player, run_rollouts
from rl.tabletop.dataset import Order, write_dataset
from rl.tiny import TinyConfig, make_random, tool_sets
from rl.types import SamplingParams
from scripts.bench.puppet import Puppet
from sft.model import load_model
from sft.render import Renderer
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.shed import Toolshed
from toolshed.types import Json

BAR = 0.8
NUM, WIDTH, SLOTS = 64, 16, 16
COLOURS = ("red", "green", "blue", "yellow", "cyan")
ANSWER = "<answer>[(0.43, 0.57)]</answer>"
TOOLS: dict[str, Json] = {
    "replies": "compact",
    "host": "ray",
    "roborefer": {
        "backend": "scripts.bench.slow_tools:SlowPointing",
        "show": ["detect_one"],
        "slots": SLOTS,
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, default=0, help="of the numbers of calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no sentence")
    parser.add_argument("--selftest", action="store_true", help="see whether idle places show")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(_measure(Path(folder), options.seed, handicap=options.selftest))
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<24} {value:.3f}" if isinstance(value, float) else f"{name:<24} {value}")
    if options.selftest:
        return int(figures["in_batches"] > figures["overlap"] - 0.1)
    return int(figures["overlap"] < BAR)


async def _measure(folder: Path, seed: int, *, handicap: bool) -> dict[str, float]:
    write_dataset(folder / "q", Order(kinds=("point",), num=NUM))
    questions = load_questions(folder / "q.parquet")
    make_random(folder, tool_sets(TinyConfig()), seed=0)
    renderer = Renderer.load(folder)
    num_calls = np.random.default_rng(seed).integers(1, 6, size=NUM)

    def script(prompt: Prompt) -> str:
        place = int(prompt.trajectory.split("/")[1])
        if prompt.turn == num_calls[place]:
            return ANSWER
        # No call is made twice: remembered answers would cost nothing.
        name = f"{COLOURS[prompt.turn]} object"
        return write_call("roborefer.detect_one", {"obj_name": name, "image_index": 0})

    sampling = SamplingParams(temperature=1.0, max_tokens=64)
    jobs = [
        Job(question=question, sampling=sampling, sample_index=i)
        for i, question in enumerate(questions)
    ]
    shed = Toolshed.open(parse_tools(TOOLS))
    policy = Puppet(load_model(folder), renderer, script, num_slots=WIDTH, max_length=512)
    player = Player(policy=policy, renderer=renderer, shed=shed, limits=Limits(max_tokens=400))
    try:
        longest, total, wall = await _play(jobs, player, NUM)
        figures: dict[str, float] = {
            "trajectories": NUM,
            "width": WIDTH,
            "longest_s": longest,
            "sum_over_width_s": total / WIDTH,
            "wall_s": wall,
            "overlap": max(longest, total / WIDTH) / wall,
        }
        if handicap:
            longest, total, wall = await _play(jobs, player, WIDTH)
            figures["in_batches"] = max(longest, total / WIDTH) / wall
    finally:
        await policy.aclose()
        await shed.aclose()
    return figures


async def _play(jobs: Sequence[Job], player: Player, batch: int) -> tuple[float, float, float]:
    """(longest, sum, wall) of all jobs, ``batch`` of them at a time before the next begin."""
    seconds = []
    begun = time.perf_counter()
    for start in range(0, len(jobs), batch):
        async for _, trajectory in run_rollouts(jobs[start : start + batch], player, width=WIDTH):
            assert trajectory.stop_reason.value == "answered", trajectory.failure
            seconds.append(trajectory.seconds)
    return max(seconds), sum(seconds), time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
