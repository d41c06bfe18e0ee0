"""A group of 8 that shares its prompt against the plain path: time of a step, loss, gradient.

One tiny model, one thread, one group whose prompt is 85 % of the tokens of each of its sequences;
answers have several turns and ragged lengths, prompt and replies hold pictures. Both paths take
the same steps in turn; the time is that of the process, which other load on the machine does not
change, and the smallest of the rounds. Differences are the largest absolute one over the largest
absolute value. ``--selftest`` computes the prompt once per answer, then lets answers see their
siblings, and exits with 1 unless the figures move. Then rollout and update against TRL
(``grpo_speed.py``), its first run installing TRL; where TRL cannot be had, the rest is measured and
the exit code is 3 unless ``--only`` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Before torch is imported: on small models a second thread costs 20 times what it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor

import sft.prefix_attention
from rl.algorithms.losses import PolicyLoss
from rl.algorithms.table import algorithm_named
from rl.tiny import TinyConfig, make_random, tool_sets
from scripts.bench import grpo_speed
from sft.batch import PrefixGroup
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer, Rendering
from sft.sample import TrainingSample
from toolshed.images import make_image
from toolshed.types import ToolImage

GROUP, PROMPT_SHARE, TOKENS, ROUNDS = 8, 0.85, 2048, 5
BARS = {
    "shared_prefix_time_ratio": 0.45,
    "shared_prefix_max_loss_diff": 1e-5,
    "shared_prefix_max_grad_diff": 1e-5,
}
SPEEDUP_BAR = 1.5
NOT_MEASURED = 3
"""Exit code where a figure that was asked for could not be had; stderr says why."""
_MARK = "<|vision_start|><|image_pad|><|vision_end|>"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.add_argument("--selftest", action="store_true", help="see whether a handicap shows")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a sequence (%(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each side (%(default)s)")
    parser.add_argument("--only", choices=("shared_prefix", "trl"), help="one comparison alone")
    options = parser.parse_args(words)
    if options.tokens < 400 or options.rounds < 1:
        parser.error("--tokens must be at least 400, and --rounds at least 1")
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    if options.only != "trl":
        with tempfile.TemporaryDirectory() as folder:
            bench = _Bench(Path(folder), options.tokens)
            figures |= bench.compare(options.rounds)
            if options.selftest:
                figures |= bench.handicapped()
    if options.only != "shared_prefix":
        with tempfile.TemporaryDirectory() as folder:
            figures |= grpo_speed.compare(
                Path(folder), rounds=options.rounds, handicapped=options.selftest
            )
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<40} {value:.3g}")
    if (not _has_moved(figures)) if options.selftest else _is_missed(figures):
        return 1
    if options.only != "shared_prefix" and "trl_grpo_speedup" not in figures:
        print("trl_grpo_speedup: not measured", file=sys.stderr)
        return NOT_MEASURED
    return 0


def _has_moved(figures: dict[str, float]) -> bool:
    """Whether each handicap takes its figure beyond the bar; what is not there is left out."""
    measured = {name: bar for name, bar in BARS.items() if name in figures}
    speedup = figures.get("trl_grpo_speedup", np.inf)
    return (
        all(figures[f"handicapped_{name}"] > bar for name, bar in measured.items())
        and figures.get("handicapped_trl_grpo_speedup", 0.0) < 0.8 * speedup
    )


def _is_missed(figures: dict[str, float]) -> bool:
    missed = [name for name, bar in BARS.items() if figures.get(name, 0.0) > bar]
    return bool(missed) or figures.get("trl_grpo_speedup", SPEEDUP_BAR) < SPEEDUP_BAR


class _Bench:
    """One group, learnt from on both paths."""

    def __init__(self, folder: Path, num_tokens: int) -> None:
        make_random(folder, tool_sets(TinyConfig()), seed=0)
        self.renderer = Renderer.load(folder)
        self.samples = _group(self.renderer, num_tokens)
        self.loss = PolicyLoss(algorithm=algorithm_named("grpo"), max_tokens=num_tokens)
        self.plain, self.shared = (
            Learner(
                load_model(folder),
                self.renderer,
                OptimConfig(),
                total_steps=1,
                max_tokens=GROUP * num_tokens,
                shared_prefix=shared,
            )
            for shared in (False, True)
        )

    def step(self, learner: Learner) -> tuple[float, float, Tensor]:
        """(seconds, loss, gradient) of forward and backward passes over the group."""
        learner.model.zero_grad()
        begun = time.process_time()
        told = learner.forward_backward(self.samples, self.loss)
        seconds = time.process_time() - begun
        parts = [p.grad.flatten() for p in learner.model.parameters() if p.grad is not None]
        return seconds, told["loss"], torch.cat(parts)

    def compare(self, rounds: int) -> dict[str, float]:
        pairs = [(self.step(self.plain), self.step(self.shared)) for _ in range(rounds + 1)]
        plain_s, shared_s = (min(pair[i][0] for pair in pairs[1:]) for i in (0, 1))
        return {
            "plain_s": plain_s,
            "shared_prefix_s": shared_s,
            "prompt_share": self._prompt_share(),
            "shared_prefix_time_ratio": shared_s / plain_s,
            **_differences(pairs[-1][0], pairs[-1][1], "shared_prefix_max_"),
        }

    def handicapped(self) -> dict[str, float]:
        plain = self.step(self.plain)
        whole, self.shared.max_tokens = self.shared.max_tokens, 1
        alone = min(self.step(self.shared)[0] for _ in range(2))
        self.shared.max_tokens = whole
        with patch.object(sft.prefix_attention, "group_attention", _as_one_answer):
            seen = self.step(self.shared)
        return {
            "handicapped_shared_prefix_time_ratio": alone / plain[0],
            **_differences(plain, seen, "handicapped_shared_prefix_max_"),
        }

    def _prompt_share(self) -> float:
        """Of the tokens of all sequences, pictures expanded."""
        (batch,) = self.shared.micro_batches(self.samples)
        (group,) = batch.groups
        prompts = group.prompt * len(group.answers)
        return prompts / (prompts + sum(group.answers))


def _as_one_answer(
    query: Tensor, key: Tensor, value: Tensor, groups: Sequence[PrefixGroup], scale: float | None
) -> Tensor:
    """The fault that the comparison must find: siblings see each other."""
    merged = tuple(PrefixGroup(prompt=g.prompt, answers=(sum(g.answers),)) for g in groups)
    return _group_attention(query, key, value, merged, scale)


_group_attention = sft.prefix_attention.group_attention


def _differences(expected: Any, got: Any, prefix: str) -> dict[str, float]:
    grad_diff = (got[2] - expected[2]).abs().max() / expected[2].abs().max()
    return {
        f"{prefix}loss_diff": abs(got[1] - expected[1]) / abs(expected[1]),
        f"{prefix}grad_diff": float(grad_diff),
    }


def _group(renderer: Renderer, num_tokens: int) -> list[TrainingSample]:
    """Siblings of ``num_tokens`` tokens on average, pictures expanded: two turns with a call's
    reply and picture between them."""
    rng = np.random.default_rng(0)

    def words(size: int) -> list[int]:
        return [int(token) for token in rng.integers(20, 200, size)]

    def picture() -> ToolImage:
        return make_image(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8))

    mark, seen = list(renderer.encode(_MARK)), picture()
    per_picture = renderer.vision(seen).num_tokens + len(mark) - 1
    prompt = mark + words(round(PROMPT_SHARE * num_tokens) - per_picture)
    mean = round((1 - PROMPT_SHARE) * num_tokens)
    siblings = []
    for ragged in np.linspace(-0.5, 0.5, GROUP):
        size = round(mean * (1 + ragged)) - per_picture
        rendering = Rendering()
        rendering.append(prompt, "prompt")
        rendering.append(words(size // 2), "sampled")
        rendering.append(mark, "reply")
        rendering.append(words(size - size // 2), "sampled")
        siblings.append(
            TrainingSample(
                token_ids=tuple(rendering.token_ids),
                spans=tuple(rendering.spans),
                images=(seen, picture()),
                advantage=float(rng.normal()),
                logprobs=tuple(rng.normal(-5, 0.3, size).tolist()),
            )
        )
    return siblings


if __name__ == "__main__":
    sys.exit(main())
