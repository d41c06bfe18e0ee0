"""What samples in a run: made as its config says, and compared with the learner at the start."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from rl.config import RLConfig
from rl.policy.base import LearningPolicy, Weights
from rl.policy.sglang.config import with_limits
from rl.rollout import Job, Limits, Player, run_episode
from rl.types import Question, SamplingParams, Trajectory
from sft.render import IMAGE_MARK, Renderer
from toolshed.errors import ToolFailure
from toolshed.images import ImageSource
from toolshed.types import Message

if TYPE_CHECKING:
    from rl.update import PolicyUpdate

Engine: TypeAlias = Callable[[RLConfig, Weights, Renderer], LearningPolicy]
"""(config, the learner's weights, renderer) -> the policy that plays with them, not started."""

_PROBED = 32
"""Tokens."""
BOUNDS = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 3e-2}
"""Of the mean |log-prob difference| by the less exact of the two dtypes. Half precision differs by
about 0.01 through kernels alone; a tensor in the wrong place by 1 and more."""


def engine_of(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
    """What ``config.policy`` names."""
    return _ENGINES[config.policy](config, weights, renderer)


def _transformers(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
    """In this process, on the learner's device."""
    from rl.policy.transformers import TransformersPolicy

    limits = config.rollout
    return TransformersPolicy(
        weights.model, renderer, num_slots=limits.width, max_length=limits.max_length
    )


def _sglang(config: RLConfig, weights: Weights, renderer: Renderer) -> LearningPolicy:
    """Servers of their own."""
    from rl.policy.sglang.policy import SglangPolicy

    limits = config.rollout
    engine = with_limits(
        config.engine, width=limits.width, max_length=limits.max_length, lora=config.learner.lora
    )
    logs = engine.logs or str(Path(config.out) / "engine")
    return SglangPolicy(replace(engine, logs=logs), renderer, weights.source)


_ENGINES: dict[str, Engine] = {"transformers": _transformers, "sglang": _sglang}


async def check_first_sync(policy: LearningPolicy, update: PolicyUpdate) -> float:
    """Mean |difference| between engine's and learner's log-probs of one answer about a picture.

    ToolFailure where it is above the bound: the engine has other weights, or computes otherwise.
    Nothing is asked of a policy that samples with the learner's own tensors, and 0 returned.
    """
    if not policy.dtype:
        return 0.0
    learner = update.learner
    renderer = learner.renderer
    player = Player(policy=policy, renderer=renderer, shed=None, limits=Limits(max_turns=1))
    sampling = SamplingParams(temperature=learner.temperature, max_tokens=_PROBED)
    said = await run_episode(Job(question=_question(), sampling=sampling), player)
    if said.failure:
        raise ToolFailure("engine_probe", f"the engine answered no first question: {said.failure}")
    difference = _difference(said, update)
    dtypes = {policy.dtype, str(learner.model.dtype).removeprefix("torch.")}
    bound = max(BOUNDS[each] for each in dtypes)
    # Written so that no number (nan) is no agreement.
    if not difference <= bound:
        raise ToolFailure(
            "engine_weights",
            f"log-probs of engine and learner differ by {difference:.2g} on average after the "
            f"first weights were sent, and {bound:g} is allowed for {' and '.join(sorted(dtypes))}"
            "; see whether model= is what the engine serves, and try engine.sync=folder",
        )
    return difference


def _difference(said: Trajectory, update: PolicyUpdate) -> float:
    from rl.algorithms.samples import to_sample

    sample = to_sample(said, 1.0)
    ours = update.logprobs(sample).numpy()
    return float(np.abs(ours - np.asarray(sample.logprobs)).mean())


def _question() -> Question:
    """Fixed: about a picture of all colours."""
    rows, columns = np.mgrid[0:84, 0:112]
    pixels = np.stack([2 * rows, 2 * columns, rows + columns], axis=-1).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    data = base64.b64encode(encoded.getvalue()).decode("ascii")
    text = f"{IMAGE_MARK}What is in the picture?"
    return Question(
        id="first-sync",
        source="first-sync",
        kind="",
        messages=(Message(role="user", text=text, num_images=1),),
        images=(ImageSource(image=f"data:image/png;base64,{data}"),),
        target=None,
    )
