"""One question in, one trajectory out: a coroutine per trajectory, no barrier between them.

Token ids are only ever appended: what the policy sampled is kept as sampled, and each tool reply is
encoded on its own. A failed tool or policy ends the trajectory as ``tool_failure``, unscored.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import operator
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rl.policy.base import Policy, PolicyFailure, Prompt
from rl.show.flight import Flight
from rl.types import Completion, Question, SamplingParams, StopReason, Trajectory, Turn
from sft.render import IMAGE_MARK, Renderer, Rendering
from toolshed import chat
from toolshed.arrays import num_bytes
from toolshed.byte_lru import ByteLRU
from toolshed.images import ImageSource, load_image
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Message, ToolImage, ToolResult, ToolSpec

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Where a trajectory is cut."""

    max_turns: int = 8
    max_tokens: int = 4096
    """Sampled tokens and reply tokens together, every token of a returned picture counted."""
    max_calls: int = 8
    """Calls of one turn that are run; each further one is answered with an error."""
    max_reply_chars: int = 0
    """A longer reply of a tool loses its middle (``toolshed.chat.cut_middle``); 0 cuts none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """Everything that a rollout needs besides the question."""

    policy: Policy
    renderer: Renderer | None
    """None for policies without tokens."""
    shed: Toolshed | None
    """None plays without tools."""
    limits: Limits = Limits()
    flight: Flight | None = None
    """Is told what every trajectory does, where somebody looks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One rollout to be done."""

    question: Question
    sampling: SamplingParams
    sample_index: int = 0
    seed: int = 0
    rank: int = 0
    """Of tool calls that wait for a replica, those of the smaller rank go first."""


async def run_rollouts(
    jobs: Sequence[Job], player: Player, *, width: int
) -> AsyncGenerator[tuple[int, Trajectory], None]:
    """Play all jobs, ``width`` at a time; yields (index of the job, trajectory) as they finish."""
    works = [functools.partial(run_episode, job, player) for job in jobs]
    async with contextlib.aclosing(run_works(works, width=width)) as done:
        async for pair in done:
            yield pair


async def run_works(
    works: Sequence[Callable[[], Coroutine[Any, Any, T]]], *, width: int
) -> AsyncGenerator[tuple[int, T], None]:
    """Do all works, ``width`` at a time, begun in their order; yields (index, what it returned) as
    they finish.

    Nothing is kept of what was yielded, so that memory does not grow with the number of works.
    """
    waiting = iter(range(len(works)))
    doing: dict[asyncio.Task[T], int] = {}

    def fill() -> None:
        for index in itertools.islice(waiting, width - len(doing)):
            doing[asyncio.ensure_future(works[index]())] = index

    try:
        fill()
        while doing:
            done, _ = await asyncio.wait(doing, return_when=asyncio.FIRST_COMPLETED)
            finished = sorted(
                ((doing.pop(task), task.result()) for task in done), key=operator.itemgetter(0)
            )
            fill()
            while finished:
                yield finished.pop(0)
    finally:
        for pending in doing:
            pending.cancel()
        # Waited for, so that nothing of an abandoned batch still runs, or is reported, later.
        await asyncio.gather(*doing, return_exceptions=True)


async def run_episode(job: Job, player: Player) -> Trajectory:
    """Play one question to its end."""
    episode = _Episode(job, player)
    try:
        return await episode.play()
    finally:
        player.policy.release(episode.name)
        if player.flight is not None:
            player.flight.leaves(episode.name)


def episode_name(job: Job) -> str:
    """What a policy calls the trajectory of a job."""
    return f"{job.question.id}/{job.sample_index}/{job.seed}"


def opening(question: Question, specs: Sequence[ToolSpec]) -> list[Message]:
    """The messages that a trajectory begins with, the tools written into the system turn."""
    return [
        replace(m, text=chat.system_prompt(m.text, specs)) if m.role == "system" else m
        for m in question.messages
    ]


class _Episode:
    """One trajectory under way; single-use."""

    def __init__(self, job: Job, player: Player) -> None:
        question = job.question
        self.job, self.player = job, player
        self.name = episode_name(job)
        self.images: list[ToolImage] = [_load(source) for source in question.images]
        self.session: Session | None = None
        if player.shed is not None:
            self.session = player.shed.session(self.images, scene=question.scene, rank=job.rank)
        specs = player.shed.specs if player.shed is not None else ()
        self.messages = opening(question, specs)
        self.turns: list[Turn] = []
        self.rendering = Rendering()
        if player.renderer is not None:
            self.rendering.append(player.renderer.prompt(self.messages), "prompt")
        self.num_prompt = len(self.rendering.token_ids)
        self.num_picture_places = 0
        self.logprobs: list[float] = []
        self.failure = ""
        self.started = _now_s()

    async def play(self) -> Trajectory:
        for _ in range(self.player.limits.max_turns):
            reason = await self._turn()
            if reason is not None:
                return self._freeze(reason)
        return self._freeze(StopReason.MAX_TURNS)

    async def _turn(self) -> StopReason | None:
        """One assistant turn and the replies to its calls; a reason if the episode is over."""
        begun, flight = _now_s(), self.player.flight
        if flight is not None:
            flight.samples(self.name)
        try:
            completion = await self.player.policy.generate(self._prompt(), self._sampling())
        except PolicyFailure as failure:
            self.failure = f"policy: {failure}"
            return StopReason.TOOL_FAILURE
        generated = _now_s()
        self._append(completion)
        parsed = chat.parse_calls(completion.text, max_calls=self.player.limits.max_calls)
        over = completion.finish == "length"
        if self.session is None or over or not (parsed.calls or parsed.errors):
            self.turns.append(Turn(completion=completion, generate_s=generated - begun))
            return StopReason.MAX_TOKENS if over else StopReason.ANSWERED
        if flight is not None:
            flight.calls(self.name, [call.name for call in parsed.calls])
        answered = await asyncio.gather(*(self.session.call(call) for call in parsed.calls))
        most = self.player.limits.max_reply_chars
        results = [replace(each, text=chat.cut_middle(each.text, most)) for each in answered]
        self.turns.append(
            Turn(
                completion=completion,
                calls=parsed.calls,
                errors=parsed.errors,
                results=tuple(results),
                generate_s=generated - begun,
                tools_s=_now_s() - generated,
            )
        )
        broken = next((result for result in results if result.status == "failed"), None)
        if broken is not None:
            self.failure = f"{broken.name}: {broken.reason}: {broken.text}"
            return StopReason.TOOL_FAILURE
        return self._reply(chat.reply_texts(parsed, results), results)

    def _reply(self, texts: Sequence[str], results: Sequence[ToolResult]) -> StopReason | None:
        """Append the replies with their pictures, all or nothing."""
        images = [image for result in results for image in result.images]
        message = Message(role="user", text=chat.write_replies(texts), num_images=len(images))
        assert not images or message.text.count(IMAGE_MARK) == len(images), message.text
        renderer = self.player.renderer
        if renderer is not None:
            ids = renderer.reply(message)
            # A placeholder stands for all places of its picture.
            places = sum(renderer.vision(image).num_tokens - 1 for image in images)
            if self._used() + len(ids) + places >= self.player.limits.max_tokens:
                return StopReason.MAX_TOKENS
            self.num_picture_places += places
            self.rendering.append(ids, "reply")
        self.messages.append(message)
        self.images.extend(images)
        return None

    def _append(self, completion: Completion) -> None:
        self.messages.append(Message(role="assistant", text=completion.text))
        self.logprobs.extend(completion.logprobs)
        renderer = self.player.renderer
        if renderer is not None:
            self.rendering.append(completion.token_ids, "sampled")
            closing = renderer.closing(completion.finish)
            if closing:
                self.rendering.append(closing, "template")

    def _prompt(self) -> Prompt:
        return Prompt(
            question=self.job.question,
            messages=tuple(self.messages),
            images=tuple(self.images),
            token_ids=tuple(self.rendering.token_ids),
            trajectory=self.name,
            turn=len(self.turns),
            seed=self.job.seed,
        )

    def _sampling(self) -> SamplingParams:
        left = self.player.limits.max_tokens - self._used()
        return replace(self.job.sampling, max_tokens=min(self.job.sampling.max_tokens, left))

    def _used(self) -> int:
        """Places of the cache beyond the prompt, whole pictures included."""
        return len(self.rendering.token_ids) - self.num_prompt + self.num_picture_places

    def _freeze(self, reason: StopReason) -> Trajectory:
        return Trajectory(
            question=self.job.question,
            sample_index=self.job.sample_index,
            seed=self.job.seed,
            turns=tuple(self.turns),
            messages=tuple(self.messages),
            stop_reason=reason,
            token_ids=tuple(self.rendering.token_ids),
            spans=tuple(self.rendering.spans),
            logprobs=tuple(self.logprobs),
            images=tuple(self.images),
            seconds=_now_s() - self.started,
            failure=self.failure,
        )


def _now_s() -> float:
    """The event loop's clock, which a simulation may move by itself."""
    return asyncio.get_running_loop().time()


PICTURES_BYTES = 256 << 20
"""Of decoded pictures kept for siblings and for questions that share one; the newest stays."""

_pictures: ByteLRU[ToolImage] = ByteLRU(PICTURES_BYTES)


def _load(source: ImageSource) -> ToolImage:
    # Not repr, which takes long over a data URI.
    key = "\n".join((source.image, source.depth or "", str(source.focal_length_px)))
    known = _pictures.get(key)
    if known is None:
        known = load_image(source)
        _pictures.put(key, known, num_bytes(known))
    return known
