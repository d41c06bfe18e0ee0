"""What tests of schedules play with: paced answers, counted questions, a learner that waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from rl.policy.paced import PacedPolicy, Said
from rl.rollout import Player
from rl.scheduling.schedule import Drawn, Rules, Schedule
from rl.seeds import seed_of
from rl.types import Question, Reward, SamplingParams, Trajectory
from toolshed.types import Message

SIZE = 2
RULES = Rules(batch=3, group_size=SIZE, width=100, sampling=SamplingParams(), seed=5)


def plain(step: int, place: int) -> Question:
    text = Message(role="user", text="go")
    return Question(
        id=f"{step}-{place}", source="s", kind="", messages=(text,), images=(), target=None
    )


class Questions:
    """Says which question it is by its name; counts how often each was drawn."""

    def __init__(self) -> None:
        self.drawn: Counter[str] = Counter()
        self._places: Counter[int] = Counter()

    def __call__(self, step: int, num: int, refill: int) -> list[Drawn]:
        first = self._places[step]
        self._places[step] += num
        found = [plain(step, first + i) for i in range(num)]
        self.drawn.update(each.id for each in found)
        return [Drawn(question=each, source=0) for each in found]


def known(source: int, name: str) -> Question:
    step, place = name.split("-")
    return plain(int(step), int(place))


def judge(trajectory: Trajectory) -> Reward | None:
    if not trajectory.stop_reason.is_trainable:
        return None
    return Reward(value=1.0, accuracy=1.0, well_formed=True, answer=None)


def paced(salt: object = 0) -> PacedPolicy:
    """Answers at once or takes long, by chance."""
    return PacedPolicy(
        lambda prompt: Said(text="ok", num_tokens=seed_of(salt, prompt.trajectory) % 100),
        token_s=0.1,
    )


def player(policy: PacedPolicy) -> Player:
    return Player(policy=policy, renderer=None, shed=None)


@dataclass
class Learner:
    """Trains on nothing, takes its time, and keeps who it was given."""

    policy: PacedPolicy
    schedule: Schedule
    step_s: float = 2.0

    async def train(self) -> list[str]:
        groups = await self.schedule.step()
        version = self.schedule.version
        for group in groups:
            assert len(group.trajectories) == SIZE
            assert all(each.reward is not None for each in group.trajectories)
            assert version - group.version <= RULES.max_staleness + 3
        await asyncio.sleep(self.step_s)
        self.policy.version += 1
        self.schedule.trained()
        return [group.order.drawn.question.id for group in groups]
