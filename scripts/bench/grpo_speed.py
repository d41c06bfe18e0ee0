"""Rollout and update against TRL's ``GRPOTrainer``: trained tokens per second, end to end.

Both sides get the same language model of 1.1 M parameters, taught the dialogues of ``sums.py``, the
same prompts token by token, tools with the same replies, 8 prompts with 8 answers a step, the same
limits, one process and one thread each. Each step samples, calls, scores, compares within groups,
takes one AdamW step of GRPO's loss, and the next one samples with the new weights. Rewards are
drawn by lot, so that every sampled token bears loss on both sides, and the rate is so small that
both go on sampling alike: tokens and turns of a trajectory are printed for both. A *trained token*
is one that the model sampled and that the loss holds. Dialogues are text alone, since TRL's
pictures need torchvision.

Sides take turns in rounds, one waiting while the other works; the first step of each is not
counted. ``trl_grpo_speedup`` is the median of the rounds' ratios by the processes' own time, which
other load on the machine changes less; ``trl_grpo_speedup_wall`` that by the clock. The handicap
on our side: 8 trajectories in flight instead of all 64.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from rl.config import PolicyLearnerConfig, RLConfig, RolloutConfig
from rl.policy.transformers import TransformersPolicy
from rl.rollout import Limits, Player, opening
from rl.scheduling.schedule import Drawn, Rules, Schedule
from rl.types import Question, Reward, SamplingParams, Trajectory
from rl.update import PolicyUpdate
from scripts.bench.sums import TOOLS, make_questions, save_language_model, teach
from scripts.bench.trl_peer import Peer, peer_python
from sft.config import OptimConfig
from toolshed.config import parse_tools
from toolshed.shed import Toolshed

PROMPTS, GROUP, MAX_TURNS, MAX_TOKENS, LR = 8, 8, 8, 256, 1e-6
STEPS = 2
"""Of one round."""
TRL_SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": PROMPTS * GROUP,
    "gradient_accumulation_steps": 1,
    "num_generations": GROUP,
    "num_iterations": 1,
    "max_completion_length": MAX_TOKENS,
    "max_tool_calling_iterations": MAX_TURNS - 1,
    "temperature": 1.0,
    "beta": 0.0,
    "loss_type": "grpo",
    "learning_rate": LR,
    "lr_scheduler_type": "constant",
    "max_steps": 10_000,
    "shuffle_dataset": False,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}
OUR_SETTINGS: dict[str, Any] = {
    "algorithm": "grpo",
    "num_prompts": PROMPTS,
    "group_size": GROUP,
}
OUR_LIMITS: dict[str, Any] = {
    "width": PROMPTS * GROUP,
    "max_turns": MAX_TURNS,
    "max_tokens": MAX_TOKENS,
    "max_turn_tokens": MAX_TOKENS,
    "max_length": 512,
}


def compare(folder: Path, *, rounds: int, handicapped: bool) -> dict[str, float]:
    """The figures; without TRL none, and the reason on stderr."""
    try:
        python = peer_python()
    except RuntimeError as error:
        print(f"trl_grpo_speedup is left out, TRL cannot be had: {error}", file=sys.stderr)
        return {}
    with ExitStack() as opened:
        shed = Toolshed.open(parse_tools(TOOLS))
        questions = make_questions()
        taught = teach(folder, shed, questions)
        save_language_model(taught, folder / "language")
        peer = Peer(python, folder, _job(folder, shed, questions))
        opened.callback(peer.close)
        print(f"TRL: {json.dumps(peer.versions | TRL_SETTINGS)}", file=sys.stderr)
        print(f"ours: {json.dumps(OUR_SETTINGS | OUR_LIMITS)}, shared_prefix", file=sys.stderr)
        ours = _Ours(taught, shed, questions, width=PROMPTS * GROUP)
        ours.run(1), peer.run(1)
        pairs = [(ours.run(STEPS), peer.run(STEPS)) for _ in range(rounds)]
        figures = _figures(pairs)
        if handicapped:
            slow = _Ours(taught, shed, questions, width=8)
            told = slow.run(1)
            figures["handicapped_trl_grpo_speedup"] = _speedup(
                [(told, theirs) for _, theirs in pairs], "cpu_s"
            )
    return figures


Round = tuple[dict[str, float], dict[str, float]]
"""What our steps took, and TRL's."""


def _speedup(pairs: Sequence[Round], clock: str) -> float:
    return median(_speed(ours, clock) / _speed(theirs, clock) for ours, theirs in pairs)


def _speed(told: dict[str, float], clock: str) -> float:
    return told["tokens"] / told[clock]


def _figures(pairs: Sequence[Round]) -> dict[str, float]:
    ratios = [_speed(ours, "cpu_s") / _speed(theirs, "cpu_s") for ours, theirs in pairs]
    figures = {
        "trl_grpo_speedup": median(ratios),
        "trl_grpo_speedup_least": min(ratios),
        "trl_grpo_speedup_most": max(ratios),
        "trl_grpo_speedup_wall": _speedup(pairs, "wall_s"),
    }
    for name, side in zip(("ours", "trl"), zip(*pairs, strict=True), strict=True):
        played = sum(told["trajectories"] for told in side)
        figures[f"{name}_tokens_per_s"] = median(_speed(told, "cpu_s") for told in side)
        figures[f"{name}_tokens_per_trajectory"] = sum(told["tokens"] for told in side) / played
        figures[f"{name}_turns_per_trajectory"] = sum(told["turns"] for told in side) / played
    figures["ours_rollout_share"] = median(o["rollout_s"] / o["cpu_s"] for o, _ in pairs)
    return figures


def _job(folder: Path, shed: Toolshed, questions: Sequence[Question]) -> dict[str, Any]:
    prompts = [
        [{"role": each.role, "content": each.text} for each in opening(question, shed.specs)]
        for question in questions
    ]
    settings = {"output_dir": str(folder / "trl"), **TRL_SETTINGS}
    return {"model": str(folder / "language"), "prompts": prompts, "settings": settings}


class _Ours:
    """The steps of ``rl.train`` without its run folder."""

    def __init__(
        self, taught: Path, shed: Toolshed, questions: Sequence[Question], *, width: int
    ) -> None:
        config = RLConfig(
            rollout=RolloutConfig(**{**OUR_LIMITS, "width": width}),
            learner=PolicyLearnerConfig(optim=OptimConfig(lr=LR), shared_prefix=True),
            steps=10_000,
            **OUR_SETTINGS,
        )
        self.questions = questions
        self.update = PolicyUpdate(config, taught)
        renderer = self.update.learner.renderer
        self.policy = TransformersPolicy(
            self.update.model, renderer, num_slots=width, max_length=config.rollout.max_length
        )
        limits = Limits(max_turns=MAX_TURNS, max_tokens=MAX_TOKENS)
        player = Player(policy=self.policy, renderer=renderer, shed=shed, limits=limits)
        rules = Rules(
            batch=PROMPTS,
            group_size=GROUP,
            width=width,
            sampling=SamplingParams(max_tokens=MAX_TOKENS),
            seed=0,
            max_length=config.rollout.max_length,
        )
        self.lot = np.random.default_rng(0)
        self.schedule = Schedule(player, rules, self._draw, self._score)
        self.runner = asyncio.Runner()

    def run(self, steps: int) -> dict[str, float]:
        """As ``Peer.run``; ``rollout_s`` is processor time as well."""
        told = dict.fromkeys(("tokens", "trajectories", "turns", "rollout_s"), 0.0)
        begun = time.perf_counter(), time.process_time()
        for _ in range(steps):
            for name, value in self.runner.run(self._step()).items():
                told[name] += value
        told["wall_s"] = time.perf_counter() - begun[0]
        told["cpu_s"] = time.process_time() - begun[1]
        return told

    async def _step(self) -> dict[str, float]:
        begun = time.process_time()
        groups = [list(group.trajectories) for group in await self.schedule.step()]
        rollout_s = time.process_time() - begun
        figures = self.update.learn(self.update.samples(groups))
        await self.policy.update_weights(self.update, self.update.learner.step)
        self.schedule.trained()
        tokens = figures["tokens"]
        assert isinstance(tokens, float)
        return {
            "tokens": tokens,
            "trajectories": sum(map(len, groups)),
            "turns": sum(len(each.turns) for group in groups for each in group),
            "rollout_s": rollout_s,
        }

    def _draw(self, step: int, num: int, refill: int) -> list[Drawn]:
        """The next questions in turn, as TRL takes them."""
        places = range(step * num, (step + 1) * num)
        return [
            Drawn(question=self.questions[place % len(self.questions)], source=0)
            for place in places
        ]

    def _score(self, trajectory: Trajectory) -> Reward:
        value = float(self.lot.random())
        return Reward(value=value, accuracy=value, well_formed=True, answer=None)
