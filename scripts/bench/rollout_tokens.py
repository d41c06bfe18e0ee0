"""What becomes of a rollout's tokens and pictures on their way to the learner (no simulation).

32 episodes on the embedded tabletop, 8 prompts with 4 siblings, through the real decoder with the
light tools, of which one returns pictures; the words are given, their number is drawn.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.policy.base import Prompt
from rl.policy.transformers import TransformersPolicy
from rl.questions.data import load_questions
from rl.rollout import Job, Limits, Player, run_rollouts
from rl.seeds import seed_of
from rl.tabletop.dataset import Order, write_dataset
from rl.tiny import TinyConfig, make_random, tool_sets
from rl.types import Completion, SamplingParams, Trajectory
from scripts.bench.puppet import Puppet
from sft.batch import micro_batches
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer, Rendering
from sft.sample import TrainingSample
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.shed import Toolshed
from toolshed.types import Json

NUM_PROMPTS, NUM_SIBLINGS, MAX_TURNS = 8, 4, 4
MAX_LENGTH, MICRO_TOKENS = 3072, 8192
COLOURS = ("red", "green", "blue", "yellow", "cyan")
WORDS = ("look", "left", "near", "the", "cube", "then", "there", "behind")
TOOLS: dict[str, Json] = {
    "replies": "compact",
    "roborefer": {"backend": "light", "show": ["detect_one"]},
    "vision_ops": {"backend": "light", "show": ["point_crop"]},
}


class _Counted:
    """An image processor that counts what it is asked."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.num_calls = 0

    def __call__(self, **asked: Any) -> Any:
        self.num_calls += 1
        return self._inner(**asked)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Stammerer(Puppet):
    """Says its words in pieces as a sampler may: in other tokens than a tokenizer would choose."""

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        text, seed = self._script(prompt), prompt.seed + prompt.turn
        cuts = np.flatnonzero(np.random.default_rng(seed).random(len(text)) < 0.2).tolist()
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
        words = [token for piece in pieces for token in self.renderer.encode(piece)]
        self._words[prompt.trajectory] = (*words, self.renderer.end_of_turn)
        return await TransformersPolicy.generate(self, prompt, sampling)


def measure_tokens(seed: int, *, careless: bool) -> dict[str, float]:
    """``careless`` is the handicap: texts are tokenised anew, replies enter the loss, every row is
    as long as the longest, and no picture's patches are kept."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), seed, careless))


async def _measure(folder: Path, seed: int, careless: bool) -> dict[str, float]:
    write_dataset(folder / "q", Order(kinds=("point",), num=NUM_PROMPTS))
    make_random(folder, tool_sets(TinyConfig()), seed=0)
    renderer = Renderer.load(folder)
    counted = renderer.image_processor = _Counted(renderer.image_processor)
    if careless:
        vars(renderer)["_vision"] = renderer._vision_uncached
    num = NUM_PROMPTS * NUM_SIBLINGS
    policy = _Stammerer(
        load_model(folder), renderer, _script(seed), num_slots=num, max_length=MAX_LENGTH
    )
    shed = Toolshed.open(parse_tools(TOOLS))
    limits = Limits(max_turns=MAX_TURNS + 1, max_tokens=MAX_LENGTH * 2 // 3)
    player = Player(policy=policy, renderer=renderer, shed=shed, limits=limits)
    jobs = [
        Job(question=question, sampling=SamplingParams(max_tokens=400), sample_index=i, seed=i)
        for question in load_questions(folder / "q.parquet")
        for i in range(NUM_SIBLINGS)
    ]
    try:
        played = [trajectory async for _, trajectory in run_rollouts(jobs, player, width=num)]
    finally:
        await policy.aclose()
        await shed.aclose()
    assert all(each.stop_reason == "answered" for each in played), {t.stop_reason for t in played}
    assert sum(len(each.images) > 1 for each in played) > num // 8, "tools returned too little"
    learner = Learner(policy.model, renderer, OptimConfig(), total_steps=1)
    return _figures(played, learner, counted, careless)


def _script(seed: int) -> Callable[[Prompt], str]:
    """Thinks for some words, points or cuts, up to MAX_TURNS times, then answers."""

    def script(prompt: Prompt) -> str:
        name = seed_of(seed, prompt.trajectory)
        rng = np.random.default_rng([name, prompt.turn])
        thought = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 7))))
        if prompt.turn == name % (MAX_TURNS + 1):
            return f"<think>{thought}</think><answer>[(0.43, 0.57)]</answer>"
        if rng.random() < 0.5:
            phrase = f"{COLOURS[int(rng.integers(len(COLOURS)))]} object"
            call = write_call("roborefer.detect_one", {"obj_name": phrase, "image_index": 0})
        else:
            corner = round(float(rng.choice([0.6, 0.8])), 2)
            points: list[Json] = [[0.1, 0.1], [corner, corner]]
            call = write_call("vision_ops.point_crop", {"image_index": 0, "points": points})
        return f"<think>{thought}</think>{call}"

    return script


def _figures(
    played: Sequence[Trajectory], learner: Learner, counted: _Counted, careless: bool
) -> dict[str, float]:
    renderer = learner.renderer
    samples = [_sample(each, renderer, careless) for each in played]
    batches = micro_batches(samples, renderer, max_tokens=MICRO_TOKENS)
    with torch.no_grad():
        gaps = [(learner.logprobs(each) - each.logprobs_N).abs().max() for each in batches]
    lengths = [len(renderer.expand(each.token_ids, each.images).token_ids) for each in samples]
    places = sum(each.token_ids_BT.numel() for each in batches)
    sampled = [[t for turn in each.turns for t in turn.completion.token_ids] for each in played]
    trained = [
        micro_batches([each], renderer, max_tokens=MICRO_TOKENS)[0].targets_N.tolist()
        for each in samples
    ]
    pairs = list(zip(trained, sampled, strict=True))
    strangers = sum(abs(len(ours) - len(said)) for ours, said in pairs)
    figures = {
        "preprocess_duplication": counted.num_calls
        / len({image.sha256 for each in played for image in each.images}),
        "padding_waste": 1 - sum(lengths) / (len(lengths) * max(lengths) if careless else places),
        "loss_token_share_error": strangers / sum(map(len, trained)),
        "retokenisation_drift": sum(ours != said for ours, said in pairs) / len(played),
    }
    return figures if careless else {**figures, "logprob_max_diff": float(max(gaps))}


def _sample(trajectory: Trajectory, renderer: Renderer, careless: bool) -> TrainingSample:
    if not careless:
        return TrainingSample(
            token_ids=trajectory.token_ids,
            spans=trajectory.spans,
            images=trajectory.images,
            logprobs=trajectory.logprobs,
        )
    anew = Rendering()
    for span in trajectory.spans:
        ids = trajectory.token_ids[span.start : span.end]
        if span.kind == "sampled":
            ids = (*renderer.encode(renderer.decode(ids)), renderer.end_of_turn)
        anew.append(ids, "prompt" if span.kind == "prompt" else "sampled")
    return TrainingSample(
        token_ids=tuple(anew.token_ids), spans=tuple(anew.spans), images=trajectory.images
    )
