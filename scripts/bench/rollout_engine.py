"""What a rollout costs a real engine, a stock sglang server on this CPU (no simulation).

A tiny model is taught three turns, two of which bring a picture back, and plays them greedily.
*Tokens*: what the engine computed, prefilled or sampled, over the tokens of the final sequences;
what the first turn of a trajectory found in the cache counts as computed, so that shared prompts
hide nothing. *Pictures*: bytes of pictures and of references to them that were sent or written,
over the bytes of the distinct pictures. *Sync*: bytes of a weight update over trainable ones.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rl.algorithms.samples import to_sample
from rl.policy.base import Policy, Prompt
from rl.policy.sglang.broadcast import Broadcast
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.pictures import PictureStore
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.weights import update_from_folder
from rl.questions.data import load_questions
from rl.rollout import Job, Limits, Player, run_rollouts
from rl.tabletop.dataset import Order, write_dataset
from rl.tiny import TinyConfig, make_random, tool_sets
from rl.types import Completion, Question, SamplingParams, Trajectory
from scripts.bench.puppet import Puppet
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model, save_checkpoint
from sft.render import Renderer
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.environments.environment import find
from toolshed.shed import Toolshed
from toolshed.types import Json

NUM_QUESTIONS, NUM_STEPS = 4, 20
MAX_LENGTH = 2048
TOOLS: dict[str, Json] = {
    "replies": "compact",
    "vision_ops": {"backend": "light", "show": ["point_crop"]},
}
_CORNERS: list[Json] = [[0.1, 0.1], [0.8, 0.8]]
TURNS = (
    write_call("vision_ops.point_crop", {"image_index": 0, "points": _CORNERS}),
    write_call("vision_ops.point_crop", {"image_index": 1, "points": _CORNERS}),
    "<answer>[(0.43, 0.57)]</answer>",
)
CONFIG = EngineConfig(max_total_tokens=32768, checked_prompts=1.0, patience_s=300.0)


def why_not() -> str:
    """Why there is no engine here; empty where there is one."""
    if find(CONFIG.environment).stamp is None:
        return "no environment of the engine; bash setup_envs.sh sglang --cpu makes it"
    return ""


def measure_engine(*, careless: bool) -> tuple[dict[str, float], dict[str, float]]:
    """(our figures, with the handicaps): pictures inline in every turn, the engine's cache lost
    before every turn, the whole checkpoint as an update. The second is empty if not asked for."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder), careless))


class _Counting(SglangPolicy):
    """Counts what is sent and what is computed."""

    forgets = False
    """The handicap: the engine's cache is emptied before each turn, and pictures travel inline."""

    def __init__(self, config: EngineConfig, renderer: Renderer, checkpoint: Path) -> None:
        super().__init__(config, renderer, checkpoint)
        self.checkpoint = checkpoint
        self.num_computed = self.num_sent_bytes = 0

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        if self.forgets:
            await update_from_folder(self.fleet, self.checkpoint, self.version + 1)
        return await super().generate(prompt, sampling)

    def _request(self, *asked: Any) -> Any:
        request = super()._request(*asked)
        self.num_sent_bytes += sum(map(len, request.image_data or ()))
        return request

    def _take(self, turn: Any, piece: Any) -> None:
        super()._take(turn, piece)
        found = piece.cached_tokens if turn.prompt.turn else 0
        self.num_computed += piece.prompt_tokens - found + len(piece.token_ids)


@dataclass(kw_only=True, slots=True)
class _Held:
    """The learner's weights, of which the tower is frozen."""

    learner: Learner
    source: Path

    @property
    def model(self) -> Any:
        return self.learner.model

    def trained(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: each.detach() for name, each in named if each.requires_grad}

    def export(self, folder: Path) -> None:
        save_checkpoint(self.model, self.source, folder)


async def _measure(folder: Path, careless: bool) -> tuple[dict[str, float], dict[str, float]]:
    write_dataset(folder / "q", Order(kinds=("point",), num=NUM_QUESTIONS))
    questions = load_questions(folder / "q.parquet")
    base, checkpoint = folder / "base", folder / "taught"
    make_random(base, tool_sets(TinyConfig()), seed=0)
    async with _tools() as shed:
        held = await _taught(base, questions, shed)
        held.export(checkpoint)
        config = replace(CONFIG, logs=str(folder / "logs"))
        policy = _Counting(config, held.learner.renderer, checkpoint)
        await policy.start()
        try:
            ours = await _played(policy, questions, shed) | await _synced(policy, held)
            if not careless:
                return ours, {}
            policy.forgets = True
            policy.pictures = PictureStore(policy.renderer, None)
            worse = await _played(policy, questions, shed)
        finally:
            await policy.aclose()
    whole = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    trained = sum(each.nbytes for each in held.trained().values())
    return ours, {**worse, "sync_bytes_ratio": whole / trained}


@asynccontextmanager
async def _tools() -> AsyncIterator[Toolshed]:
    shed = Toolshed.open(parse_tools(TOOLS))
    try:
        yield shed
    finally:
        await shed.aclose()


async def _taught(source: Path, questions: Sequence[Question], shed: Toolshed) -> _Held:
    renderer, model = Renderer.load(source), load_model(source)
    puppet = Puppet(
        model,
        renderer,
        lambda prompt: TURNS[prompt.turn],
        num_slots=NUM_QUESTIONS,
        max_length=MAX_LENGTH,
    )
    samples = [to_sample(each, 1.0) for each in await _play(puppet, renderer, questions, shed)]
    await puppet.aclose()
    optim = OptimConfig(lr=3e-3, warmup_steps=3, schedule="linear")
    learner = Learner(model, renderer, optim, frozen="vision", total_steps=NUM_STEPS)
    for step in range(NUM_STEPS):
        learner.forward_backward([samples[step % len(samples)]])
        learner.optim_step()
    return _Held(learner=learner, source=source)


async def _play(
    policy: Policy, renderer: Renderer, questions: Sequence[Question], shed: Toolshed
) -> list[Trajectory]:
    limits = Limits(max_turns=len(TURNS) + 1, max_tokens=MAX_LENGTH * 2 // 3)
    player = Player(policy=policy, renderer=renderer, shed=shed, limits=limits)
    sampling = SamplingParams(temperature=0.0, max_tokens=200)
    jobs = [Job(question=question, sampling=sampling) for question in questions]
    played = [each async for _, each in run_rollouts(jobs, player, width=len(jobs))]
    said = {tuple(turn.completion.text for turn in each.turns) for each in played}
    if said != {TURNS}:
        raise RuntimeError(f"the model was taught {TURNS} and says {said}")
    return played


async def _played(
    policy: _Counting, questions: Sequence[Question], shed: Toolshed
) -> dict[str, float]:
    policy.num_computed = policy.num_sent_bytes = 0
    known = policy.pictures.num_bytes
    played = await _play(policy, policy.renderer, questions, shed)
    lengths = [
        len(policy.renderer.expand(each.token_ids, each.images).token_ids) for each in played
    ]
    distinct = policy.pictures.num_bytes - known
    # Files are written once; inline, all that travels is in the requests.
    sent = policy.num_sent_bytes + (0 if policy.forgets else distinct)
    return {"token_overhead": policy.num_computed / sum(lengths), "image_resend": sent / distinct}


async def _synced(policy: SglangPolicy, held: _Held) -> dict[str, float]:
    sender = Broadcast(policy.fleet, "gloo")
    try:
        await sender.update(held, policy.version + 1)
    finally:
        await sender.aclose()
    trained = sum(each.nbytes for each in held.trained().values())
    return {"sync_bytes_ratio": sender.num_bytes / trained}
