"""The in-process policy: its forward, its independence of neighbours, its waiting rows."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rl.policy.base import Prompt
from rl.policy.transformers import TransformersPolicy
from rl.types import Completion, Question, SamplingParams
from sft.batch import micro_batches
from sft.config import OptimConfig
from sft.learner import Learner
from sft.model import load_model
from sft.render import Renderer, Rendering
from sft.sample import TrainingSample
from toolshed.errors import ConfigError
from toolshed.images import make_image
from toolshed.types import Message, ToolImage

SAMPLING = SamplingParams(max_tokens=12)


def picture(seed: int) -> ToolImage:
    rng = np.random.default_rng(seed)
    return make_image(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8))


def make_policy(tiny: Path, num_slots: int = 16) -> TransformersPolicy:
    return TransformersPolicy(
        load_model(tiny), Renderer.load(tiny), num_slots=num_slots, max_length=384
    )


class Conversation:
    """A trajectory under the test's own control."""

    def __init__(self, policy: TransformersPolicy, name: str, seed: int, words: str) -> None:
        self.policy, self.name, self.seed = policy, name, seed
        self.images = [picture(seed)]
        self.messages = [Message(role="user", text="<image>" + words, num_images=1)]
        self.rendering = Rendering()
        self.rendering.append(policy.renderer.prompt(self.messages), "prompt")
        self.completions: list[Completion] = []

    async def turn(self, sampling: SamplingParams = SAMPLING) -> None:
        prompt = Prompt(
            question=Question(
                id=self.name, source="", kind="", messages=(), images=(), target=None
            ),
            messages=tuple(self.messages),
            images=tuple(self.images),
            token_ids=tuple(self.rendering.token_ids),
            trajectory=self.name,
            seed=self.seed,
        )
        completion = await self.policy.generate(prompt, sampling)
        self.completions.append(completion)
        self.rendering.append(completion.token_ids, "sampled")
        closing = self.policy.renderer.closing(completion.finish)
        if closing:
            self.rendering.append(closing, "template")

    def reply(self, text: str, image: ToolImage | None = None) -> None:
        mark = "<image>" if image else ""
        message = Message(role="user", text=mark + text, num_images=1 if image else 0)
        self.rendering.append(self.policy.renderer.reply(message), "reply")
        if image:
            self.images.append(image)

    async def three_turns(self, wait_s: float = 0.0) -> Conversation:
        for text, image in (("short", None), ("x" * 60, None), ("look", picture(99))):
            await self.turn()
            await asyncio.sleep(wait_s)
            self.reply(text, image)
        await self.turn()
        self.policy.release(self.name)
        return self

    @property
    def logprobs(self) -> list[float]:
        return [value for c in self.completions for value in c.logprobs]


def learner_difference(tiny: Path, conversation: Conversation) -> float:
    sample = TrainingSample(
        token_ids=tuple(conversation.rendering.token_ids),
        spans=tuple(conversation.rendering.spans),
        images=tuple(conversation.images),
        logprobs=tuple(conversation.logprobs),
    )
    renderer = conversation.policy.renderer
    learner = Learner(load_model(tiny), renderer, OptimConfig(), total_steps=1)
    batch = micro_batches([sample], renderer, max_tokens=4096)[0]
    with torch.no_grad():
        return float((learner.logprobs(batch) - batch.logprobs_N).abs().max())


@pytest.mark.parametrize("num", [1, 5, 16])
def test_log_probs_equal_the_learners_on_episodes_with_pictures_from_tools(
    tiny: Path, num: int
) -> None:
    policy = make_policy(tiny)

    async def play() -> list[Conversation]:
        talks = [Conversation(policy, str(i), i, "word " * (i % 5)) for i in range(num)]
        # Different waits: rows of one tile are idle while their neighbours decode.
        return await asyncio.gather(*(t.three_turns(0.002 * (i % 3)) for i, t in enumerate(talks)))

    for conversation in asyncio.run(play()):
        assert learner_difference(tiny, conversation) <= 1e-5


def test_a_trajectory_is_bit_for_bit_the_same_at_widths_1_to_16(tiny: Path) -> None:
    policy = make_policy(tiny)

    async def play(width: int) -> Conversation:
        talks = [Conversation(policy, str(i), i, "word " * (i % 4)) for i in range(width)]
        # The one that is watched starts last, so it sits in another slot every time.
        done = await asyncio.gather(*(t.three_turns() for t in reversed(talks)))
        return next(talk for talk in done if talk.name == "0")

    first = asyncio.run(play(1))
    for width in range(2, 17):
        other = asyncio.run(play(width))
        assert other.rendering.token_ids == first.rendering.token_ids
        assert other.logprobs == first.logprobs


def test_a_trajectory_that_moves_to_another_tile_is_bit_for_bit_the_same(tiny: Path) -> None:
    async def play(others: int) -> tuple[Conversation, int, int]:
        policy = make_policy(tiny, num_slots=64)
        brief = [Conversation(policy, str(i), i, "a") for i in range(1, others + 1)]
        watched = Conversation(policy, "0", 0, "a")
        few = SamplingParams(max_tokens=4)
        await asyncio.gather(*(each.turn(few) for each in brief), watched.turn())
        began = policy._slot_of["0"]
        for each in brief:
            policy.release(each.name)
        watched.reply("a reply that is long enough to be read at once, as most of them are")
        await watched.turn()
        return watched, began, policy._slot_of["0"]

    alone, began, ended = asyncio.run(play(0))
    assert (began, ended) == (0, 0)
    beside, began, ended = asyncio.run(play(40))
    assert began >= 32 > ended
    assert beside.rendering.token_ids == alone.rendering.token_ids
    assert beside.logprobs == alone.logprobs


def test_more_trajectories_than_slots_take_turns(tiny: Path) -> None:
    policy = make_policy(tiny, num_slots=2)

    async def play() -> list[Conversation]:
        talks = [Conversation(policy, str(i), i, "a") for i in range(7)]
        return await asyncio.gather(*(talk.three_turns() for talk in talks))

    assert len(asyncio.run(play())) == 7


def test_vision_tokens_are_never_sampled(tiny: Path) -> None:
    policy = make_policy(tiny)

    async def play() -> list[Conversation]:
        talks = [Conversation(policy, str(i), i, "a") for i in range(16)]
        await asyncio.gather(
            *(t.turn(SamplingParams(temperature=5.0, max_tokens=60)) for t in talks)
        )
        return talks

    sampled = {token for t in asyncio.run(play()) for c in t.completions for token in c.token_ids}
    assert not sampled & set(policy.renderer.banned_tokens)


def test_temperature_divides_logits_before_the_log_probs(tiny: Path) -> None:
    policy = make_policy(tiny)

    async def play() -> Conversation:
        talk = Conversation(policy, "a", 3, "a")
        await talk.turn(SamplingParams(temperature=2.0, max_tokens=6))
        return talk

    talk = asyncio.run(play())
    sample = TrainingSample(
        token_ids=tuple(talk.rendering.token_ids),
        spans=tuple(talk.rendering.spans),
        images=tuple(talk.images),
        logprobs=tuple(talk.logprobs),
    )
    learner = Learner(
        load_model(tiny), policy.renderer, OptimConfig(), total_steps=1, temperature=2.0
    )
    batch = micro_batches([sample], policy.renderer, max_tokens=4096)[0]
    with torch.no_grad():
        assert float((learner.logprobs(batch) - batch.logprobs_N).abs().max()) <= 1e-5


def test_new_weights_change_what_is_sampled_and_the_version(tiny: Path) -> None:
    policy = make_policy(tiny)
    model = load_model(tiny)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(0.5)  # type: ignore[operator]

    async def play(name: str) -> Conversation:
        talk = Conversation(policy, name, 3, "a")
        await talk.turn()
        policy.release(name)
        return talk

    before = asyncio.run(play("a"))
    policy.load(model, 7)
    after = asyncio.run(play("b"))
    assert after.completions[0].version == 7
    assert after.logprobs != before.logprobs


def test_a_trajectory_that_cannot_fit_is_refused_with_the_remedy(tiny: Path) -> None:
    policy = make_policy(tiny)

    async def play() -> None:
        await Conversation(policy, "a", 1, "x" * 300).turn(SamplingParams(max_tokens=100))

    with pytest.raises(ConfigError, match="max_length"):
        asyncio.run(play())


def test_a_rollout_that_is_cancelled_as_its_slot_comes_gives_it_back(tiny: Path) -> None:
    policy = make_policy(tiny, num_slots=1)

    async def play() -> None:
        first = Conversation(policy, "0", 0, "a")
        await first.turn()
        waiting = asyncio.ensure_future(Conversation(policy, "1", 1, "a").turn())
        await asyncio.sleep(0)
        policy.release("0")
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(Conversation(policy, "2", 2, "a").turn(), 30)

    asyncio.run(play())
