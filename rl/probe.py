"""How often a policy would call a tool: one sampled turn per question, no tool is run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rl.policy.base import Prompt
from rl.policy.transformers import TransformersPolicy
from rl.seeds import seed_of
from rl.tabletop import wording
from rl.tabletop.exercises import Picture
from rl.types import Question, SamplingParams
from sft.render import Renderer
from toolshed.chat import parse_calls, system_prompt
from toolshed.types import Message, ToolSpec


async def call_rate(
    policy: TransformersPolicy, pictures: Sequence[Picture], specs: Sequence[ToolSpec], seed: int
) -> float:
    """Share of first turns at temperature 1 that hold a well-formed call, on point questions."""

    async def calls(index: int) -> bool:
        prompt = _prompt(
            policy.renderer, pictures[index], specs, seed_of(seed, "probe", index), index
        )
        completion = await policy.generate(prompt, SamplingParams(max_tokens=48))
        policy.release(prompt.trajectory)
        return bool(parse_calls(completion.text).calls)

    called = await asyncio.gather(*(calls(index) for index in range(len(pictures))))
    return sum(called) / len(called)


def _prompt(
    renderer: Renderer, picture: Picture, specs: Sequence[ToolSpec], seed: int, index: int
) -> Prompt:
    name = picture.objects[0].name
    messages = (
        Message(role="system", text=system_prompt(wording.DEMO_INSTRUCTION, specs)),
        Message(role="user", text="<image>" + wording.point_question(name), num_images=1),
    )
    question = Question(
        id=str(index), source="probe", kind="", messages=messages, images=(), target=None
    )
    return Prompt(
        question=question,
        messages=messages,
        images=(picture.image,),
        token_ids=renderer.prompt(messages),
        trajectory=str(index),
        seed=seed,
    )
