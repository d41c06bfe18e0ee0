"""A trace played by our own schedule, rollouts, sessions, cache and queues, in virtual time.

Simulated are the model (a script at a fixed pace) and what tools compute (a pause of the trace's
length); everything in between is what training runs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rl.policy.base import Prompt
from rl.policy.paced import PacedPolicy, Said
from rl.rollout import Limits, Player
from rl.scheduling.schedule import Drawn, Rules, Schedule
from rl.scheduling.virtual_time import run_virtual
from rl.types import Completion, Question, SamplingParams
from scripts.bench.rollout_trace import TOKEN_S, Trace
from toolshed.backend import Answer, Request
from toolshed.caching import RememberingHost
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.hosting import Host
from toolshed.pacing import PacedHost
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import IndexedValue, Json, Message

_FAMILIES = "scripts.bench.served_tools"
_MAX_TURNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """How a trace is played; what is not the default is a handicap or a baseline."""

    width: int = 1 << 20
    max_staleness: int = 0
    update_s: float = 0.0
    """The learner's share of a step."""
    remember: bool = False
    per_turn_barrier: bool = False
    missing_replicas: int = 0
    """Of each family that has several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    makespan_s: float
    """From the first token until the last step is trained."""
    num_executions: int
    staleness: float
    """Mean over the trajectories of all steps."""


class TurnBarrier(PacedPolicy):
    """The baseline: as in a synchronous multi-turn loop, all trajectories decode their turn, then
    all call their tools, and each waits for the last."""

    def __init__(self, policy: PacedPolicy, num: int) -> None:
        super().__init__(policy.script, token_s=policy.token_s)
        self._num_playing = num
        self._arrived: list[asyncio.Future[None]] = []

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        await self._all_are_here()
        completion = await super().generate(prompt, sampling)
        await self._all_are_here()
        return completion

    def release(self, trajectory: str) -> None:
        self._num_playing -= 1
        self._open()

    async def _all_are_here(self) -> None:
        here: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived.append(here)
        self._open()
        await here

    def _open(self) -> None:
        if len(self._arrived) == self._num_playing:
            for each in self._arrived:
                each.set_result(None)
            self._arrived = []


class _Done:
    """What every tool answers."""

    async def call(self, request: Request) -> Answer:
        return Answer(text="done", value=IndexedValue(u=0.0, v=0.0, value=0.0, kind=""))

    async def aclose(self) -> None:
        pass

    def close(self) -> None:
        pass


def play(steps: Sequence[Trace], setting: Setting) -> Played:
    """Roll out one trace a step, all of one form, and train ``update_s`` on each."""
    return run_virtual(_play(steps, setting))


async def _play(steps: Sequence[Trace], setting: Setting) -> Played:
    first = steps[0]
    size = first.num_siblings
    num = len(first.trajectories)
    replicas = {
        name: max(1, count - setting.missing_replicas) for name, count in first.replicas.items()
    }
    tools = PacedHost(_Done(), replicas=replicas, service_s=_seconds)
    shed = _shed(list(replicas), tools, remember=setting.remember)
    policy = PacedPolicy(lambda prompt: _said(prompt, steps), token_s=TOKEN_S)
    if setting.per_turn_barrier:
        policy = TurnBarrier(policy, num)
    limits = Limits(max_turns=_MAX_TURNS)
    player = Player(policy=policy, renderer=None, shed=shed, limits=limits)
    rules = Rules(
        batch=num // size,
        group_size=size,
        width=setting.width,
        sampling=SamplingParams(),
        seed=0,
        max_staleness=setting.max_staleness,
        steps=len(steps),
        retries=0,
    )
    ages = Counter[int]()
    schedule = Schedule(player, rules, _draw, lambda trajectory: None)
    async with aclosing(schedule):
        for _ in steps:
            groups = await schedule.step()
            for group in groups:
                for each in group.trajectories:
                    assert each.stop_reason == "answered", each.failure
                    assert all(result.status == "ok" for result in each.results)
                    oldest = min(turn.completion.version for turn in each.turns)
                    ages[schedule.version - oldest] += 1
            await asyncio.sleep(setting.update_s)
            policy.version += 1
            schedule.trained()
    return Played(
        makespan_s=asyncio.get_running_loop().time(),
        num_executions=sum(tools.executed.values()),
        staleness=sum(age * count for age, count in ages.items()) / ages.total(),
    )


def _draw(step: int, num: int, refill: int) -> list[Drawn]:
    go = Message(role="user", text="go")
    return [
        Drawn(
            question=Question(
                id=f"{step}", source="", kind="", messages=(go,), images=(), target=None
            ),
            source=0,
        )
        for _ in range(num)
    ]


def _said(prompt: Prompt, steps: Sequence[Trace]) -> Said:
    """The turn that the trace has for a trajectory, which its name tells: step/place/seed."""
    step, place, _ = prompt.trajectory.split("/")
    traced = steps[int(step)].trajectories[int(place)]
    calls = traced.rounds[prompt.turn] if prompt.turn < len(traced.rounds) else ()
    texts = [
        write_call(f"{call.family}.work", {"what": call.what, "seconds": call.seconds})
        for call in calls
    ]
    return Said(text="".join(texts) or "done", num_tokens=traced.decode_s[prompt.turn] / TOKEN_S)


def _seconds(request: Request) -> float:
    seconds = request.arguments["seconds"]
    assert isinstance(seconds, float), seconds
    return seconds


def _shed(families: Sequence[str], host: Host, *, remember: bool) -> Toolshed:
    words: dict[str, Json] = {
        name: {"backend": f"{_FAMILIES}:{name.capitalize()}"} for name in families
    }
    config = parse_tools({"replies": "compact", **words})
    remembering = RememberingHost(host, families if remember else ())
    return Toolshed(config, ToolSet.of(config), remembering)
