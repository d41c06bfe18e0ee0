"""The stage of the engine's tests: a tiny policy that was taught to call tools, behind a stock
sglang server, and what is compared with it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rl.algorithms.samples import to_sample
from rl.policy.base import Prompt
from rl.policy.sglang.config import EngineConfig
from rl.policy.sglang.policy import SglangPolicy
from rl.policy.sglang.weights import update_from_folder
from rl.rollout import Job, Player, run_episode, run_rollouts
from rl.types import Question, SamplingParams, Trajectory
from sft.batch import micro_batches
from sft.config import LearnerConfig, OptimConfig, ShowConfig, ToolsConfig
from sft.data import DataConfig, SourceConfig
from sft.learner import Learner
from sft.model import freeze, load_model, save_checkpoint
from sft.render import Renderer
from sft.train import SFTConfig, train
from tests.rl.camera_tools import camera_shed
from tests.rl.reader import Reader, question, says
from toolshed.chat import write_call
from toolshed.environments.environment import find
from toolshed.images import ImageSource, load_image
from toolshed.types import Message

T = TypeVar("T")
TURNS = (
    write_call("camera.left", {"image_index": 0}),
    write_call("camera.top", {"image_index": 1}),
    "<answer>yes</answer>",
)
OTHER_TURNS = (write_call("camera.top", {"image_index": 0}), "<answer>no</answer>")
CONFIG = EngineConfig(max_total_tokens=32768, checked_prompts=1.0, patience_s=150.0)


@dataclass
class Held:
    """Weights of a checkpoint, with the vision tower frozen or not."""

    source: Path
    frozen: str = "vision"

    def __post_init__(self) -> None:
        self.model: Any = load_model(self.source)
        freeze(self.model, self.frozen)

    def trained(self) -> dict[str, Tensor]:
        named = self.model.named_parameters()
        return {name: each.detach() for name, each in named if each.requires_grad}

    def export(self, folder: Path) -> None:
        save_checkpoint(self.model, self.source, folder)


def skip_without_engine() -> None:
    """Skip where the engine's environment was not made."""
    if find(CONFIG.environment).stamp is None:
        pytest.skip("no .envs/sglang here; bash setup_envs.sh sglang makes it")


def odd_question(seed: int) -> Question:
    """About a picture whose size the processor changes."""
    pixels = np.random.default_rng(seed).integers(0, 255, (90, 150, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    data = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
    return replace(question(seed), images=(ImageSource(image=data),))


def taught(source: Path, folder: Path, turns: Sequence[str], num_steps: int = 18) -> Path:
    """A checkpoint that mostly says these turns, as the learner left it."""
    renderer = Renderer.load(source)
    player = Player(policy=Reader(renderer, says(*turns)), renderer=renderer, shed=camera_shed())
    sampling = SamplingParams(max_tokens=500)
    samples = [
        to_sample(
            asyncio.run(run_episode(Job(question=odd_question(i), sampling=sampling), player)), 1.0
        )
        for i in range(3)
    ]
    model = load_model(source)
    optim = OptimConfig(lr=3e-3, warmup_steps=3, schedule="linear")
    learner = Learner(model, renderer, optim, total_steps=num_steps)
    for step in range(num_steps):
        learner.forward_backward([samples[step % len(samples)]])
        learner.optim_step()
    save_checkpoint(model, source, folder)
    return folder


def fine_tuned(source: Path, folder: Path) -> Path:
    """What ``sft.train`` leaves after one step that hardly moves a weight."""
    turns = [{"from": "human", "value": "Look."}, {"from": "gpt", "value": TURNS[-1]}]
    data = folder / "data.json"
    folder.mkdir()
    data.write_text(json.dumps([{"conversations": turns}]))
    return train(
        SFTConfig(
            model=str(source),
            out=str(folder / "run"),
            sources=[SourceConfig(path=str(data), batch_size=1)],
            data=DataConfig(cache=str(folder / "cache")),
            tools=ToolsConfig(config="light", show=["roborefer.detect_one"], schema="any"),
            steps=1,
            learner=LearnerConfig(optim=OptimConfig(lr=1e-12)),
            show=ShowConfig(tensorboard=False),
        )
    )


class Engines:
    """One policy with one engine, and the event loop that it lives in."""

    def __init__(self, tiny: Path, folder: Path) -> None:
        self.folder = folder
        # The engine starts from a checkpoint of sft.train.
        self.first = fine_tuned(taught(tiny, folder / "taught", TURNS), folder / "first")
        self.second = taught(tiny, folder / "second", OTHER_TURNS)
        self.renderer = Renderer.load(tiny)
        self.config = replace(CONFIG, logs=str(folder / "logs"))
        self.policy = SglangPolicy(self.config, self.renderer, self.first)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Engines:
        self._runner.__enter__()
        self.run(self.policy.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self.policy.aclose())
        self._runner.__exit__(kind, error, trace)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this in the loop of the policy."""
        return self._runner.run(work)

    def begin(self) -> SglangPolicy:
        """The policy, with the first checkpoint in its engine and its counters at zero."""
        self.run(update_from_folder(self.policy.fleet, self.first, self.policy.version + 1))
        self.policy.counts.clear()
        return self.policy

    def play(self, num: int, sampling: SamplingParams) -> list[Trajectory]:
        """Episodes with live tools, all at once."""
        player = Player(policy=self.policy, renderer=self.renderer, shed=camera_shed())
        jobs = [Job(question=odd_question(100 + i), sampling=sampling, seed=i) for i in range(num)]

        async def all_of_them() -> list[Trajectory]:
            played = [pair async for pair in run_rollouts(jobs, player, width=num)]
            return [trajectory for _, trajectory in sorted(played, key=lambda pair: pair[0])]

        return self.run(all_of_them())


def prompt_for(renderer: Renderer, name: str, words: str = "look", num_pictures: int = 2) -> Prompt:
    """A conversation with pictures that waits for its first turn."""
    asked = odd_question(7)
    picture = load_image(asked.images[0])
    message = Message(role="user", text="<image>" * num_pictures + words, num_images=num_pictures)
    return Prompt(
        question=asked,
        messages=(message,),
        images=(picture,) * num_pictures,
        token_ids=renderer.prompt([message]),
        trajectory=name,
    )


def difference(checkpoint: Path, trajectories: Sequence[Trajectory], temperature: float) -> float:
    """Largest absolute difference between the engine's log-probs and the learner's."""
    renderer = Renderer.load(checkpoint)
    learner = Learner(
        load_model(checkpoint), renderer, OptimConfig(), total_steps=1, temperature=temperature
    )
    samples = [to_sample(trajectory, 1.0) for trajectory in trajectories]
    with torch.no_grad():
        return max(
            float((learner.logprobs(batch) - batch.logprobs_N).abs().max())
            for batch in micro_batches(samples, renderer, max_tokens=4096)
        )


def greedy(checkpoint: Path, prompt: Prompt, num: int) -> list[int]:
    """What the learner's model would say, token by token over the whole sequence."""
    renderer = Renderer.load(checkpoint)
    model: Any = load_model(checkpoint)
    learner = Learner(model, renderer, OptimConfig(), total_steps=1)
    said: list[int] = []
    while len(said) < num and (not said or said[-1] != renderer.end_of_turn):
        said.append(_next(learner, prompt, said))
    return said


def _next(learner: Learner, prompt: Prompt, said: Sequence[int]) -> int:
    from sft.model import hidden_states

    expanded = learner.renderer.expand((*prompt.token_ids, *said), prompt.images)
    length = len(expanded.token_ids)
    positions = np.concatenate([np.arange(length)[None], expanded.positions])
    with torch.no_grad():
        hidden = hidden_states(
            learner.model,
            torch.from_numpy(expanded.token_ids)[None],
            torch.from_numpy(positions)[:, None],
            learner.features(prompt.images),
        )
        logits = hidden[0, -1] @ learner.model.get_output_embeddings().weight.T
    logits[list(learner.renderer.banned_tokens)] = float("-inf")
    return int(logits.argmax())
