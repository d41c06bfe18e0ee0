"""Groups that stream to a learner: none lost, trained twice or too old, at any staleness."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.base import Prompt
from rl.rollout import Job, Player, run_rollouts
from rl.scheduling.position import Position
from rl.scheduling.schedule import Drawn, Schedule
from rl.scheduling.virtual_time import run_virtual
from rl.seeds import seed_of
from rl.types import Completion, SamplingParams, Trajectory
from sft.render import Renderer
from tests.rl.camera_tools import camera_shed
from tests.rl.paced_run import RULES, SIZE, Learner, Questions, judge, known, paced, player
from tests.rl.reader import Reader, question, says
from toolshed.chat import write_call

LEFT = write_call("camera.left", {"image_index": 0})


# ---- synchronous --------------------------------------------------------------------------------


def test_without_staleness_a_step_is_what_its_rollouts_alone_would_be(tiny: Path) -> None:
    renderer = Renderer.load(tiny)
    shed = camera_shed(lambda request: 0.002 * (len(str(request.arguments)) % 3))

    def script(prompt: Prompt) -> str:
        turns = (f"{LEFT}{prompt.seed}", f"<answer>{prompt.seed}</answer>")
        return says(*turns[prompt.seed % 2 :])(prompt)

    playing = Player(policy=Reader(renderer, script), renderer=renderer, shed=shed)
    questions = [question(i) for i in range(3)]
    jobs = [
        Job(
            question=each,
            sampling=RULES.sampling,
            sample_index=place * SIZE + sibling,
            seed=seed_of(RULES.seed, "rollout", 0, place, sibling),
        )
        for place, each in enumerate(questions)
        for sibling in range(SIZE)
    ]

    async def alone() -> list[Trajectory]:
        played = [pair async for pair in run_rollouts(jobs, playing, width=4)]
        return [trajectory for _, trajectory in sorted(played, key=lambda pair: pair[0])]

    async def scheduled() -> list[Trajectory]:
        def draw(step: int, num: int, refill: int) -> list[Drawn]:
            assert (step, num, refill) == (0, 3, 0)
            return [Drawn(question=each, source=0) for each in questions]

        schedule = Schedule(playing, replace(RULES, width=4), draw, judge)
        async with aclosing(schedule):
            groups = await schedule.step()
            assert schedule.position().open == []
        return [each for group in groups for each in group.trajectories]

    def content(trajectory: Trajectory) -> tuple[object, ...]:
        images = [image.sha256 for image in trajectory.images]
        texts = [turn.completion.text for turn in trajectory.turns]
        return (
            trajectory.seed,
            trajectory.sample_index,
            trajectory.messages,
            trajectory.token_ids,
            trajectory.spans,
            trajectory.logprobs,
            trajectory.stop_reason,
            images,
            texts,
        )

    theirs, ours = asyncio.run(alone()), asyncio.run(scheduled())
    assert len({each.token_ids for each in ours}) > 1
    assert [content(each) for each in ours] == [content(each) for each in theirs]


def test_nothing_is_drawn_before_the_step_that_asks_for_it() -> None:
    async def main() -> None:
        policy, draw = paced(), Questions()
        schedule = Schedule(player(policy), RULES, draw, judge)
        async with aclosing(schedule):
            learner = Learner(policy, schedule)
            for step in range(3):
                assert sorted(await learner.train()) == [f"{step}-{place}" for place in range(3)]
                assert len(draw.drawn) == 3 * (step + 1)
                assert schedule.figures.read()["staleness_max"] == 0

    run_virtual(main())


def test_unwanted_groups_are_replaced_within_the_step_as_far_as_allowed() -> None:
    def wanted(group: Sequence[Trajectory]) -> bool:
        return group[0].question.id not in ("0-0", "0-2", "0-3", "1-1")

    async def main(staleness: int) -> list[list[str]]:
        policy = paced()
        rules = replace(RULES, extra=3, max_staleness=staleness)
        schedule = Schedule(player(policy), rules, Questions(), judge, wanted=wanted)
        async with aclosing(schedule):
            return [await Learner(policy, schedule).train() for _ in range(2)]

    first, second = run_virtual(main(0))
    assert first == [f"0-{place}" for place in range(6)]
    assert second == [f"1-{place}" for place in range(4)]
    ahead = run_virtual(main(1))
    assert len(ahead[0] + ahead[1]) == len(set(ahead[0] + ahead[1]))


# ---- ahead of the learner -----------------------------------------------------------------------


@settings(max_examples=40)
@given(
    staleness=st.integers(0, 3),
    width=st.integers(1, 30),
    salt=st.integers(0, 1 << 30),
    kills=st.lists(st.floats(0.1, 60), max_size=4),
    save_every=st.integers(1, 3),
)
def test_none_is_lost_trained_twice_or_too_old_however_often_a_run_is_killed(
    staleness: int, width: int, salt: int, kills: list[float], save_every: int
) -> None:
    rules = replace(RULES, max_staleness=staleness, width=width, steps=6)
    saved, draw_state = Position(next_number=0, next_step=0, open=[]), Questions().drawn
    trained: list[list[str]] = []
    """Of each step of the checkpoint's lineage."""

    async def life(seconds: float) -> None:
        nonlocal saved, trained, draw_state
        lived, draw, policy = list(trained), Questions(), paced(salt)
        draw.drawn.update(draw_state)
        policy.version = len(lived)
        schedule = Schedule(player(policy), rules, draw, judge, version=len(lived))
        schedule.restore(saved, known)
        learner = Learner(policy, schedule)
        async with asyncio.timeout(seconds), aclosing(schedule):
            while len(lived) < rules.steps:
                lived.append(await learner.train())
                told = schedule.figures.read()
                oldest = told["staleness_max"]
                assert isinstance(oldest, int) and oldest <= staleness
                if len(lived) % save_every == 0 or len(lived) == rules.steps:
                    trained, saved = list(lived), schedule.position()
                    draw_state = Counter(draw.drawn)

    for seconds in (*kills, 1e6):
        try:
            run_virtual(life(seconds))
        except TimeoutError:
            continue
        if len(trained) == rules.steps:
            break
    assert [len(step) for step in trained] == [RULES.batch] * rules.steps
    asked = Counter(name for step in trained for name in step)
    assert set(asked.values()) == {1}
    assert set(asked) == {f"{step}-{place}" for step in range(6) for place in range(RULES.batch)}
    assert saved.open == []


def test_the_learner_waits_for_less_the_more_staleness_it_allows() -> None:
    async def main(staleness: int) -> tuple[float, int]:
        policy = paced(1)
        rules = replace(RULES, max_staleness=staleness)
        schedule = Schedule(player(policy), rules, Questions(), judge)
        carried = 0
        async with aclosing(schedule):
            for _ in range(20):
                await Learner(policy, schedule).train()
                carried += schedule.figures.num_carried
        return asyncio.get_running_loop().time(), carried

    times, carried = zip(*(run_virtual(main(staleness)) for staleness in (0, 1, 3)), strict=True)
    assert times[0] > 1.15 * times[1] > 1.15 * times[2]
    assert carried[0] == 0 and carried[2] > 0


class CountingReader(Reader):
    """Takes its time; its tokens are those of its present version."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer, says("<answer>red</answer>"))
        self.playing: set[str] = set()
        self.most_first = self.most = 0
        """Trajectories at once, before the first has ended and ever."""

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        self.playing.add(prompt.trajectory)
        self.most = max(self.most, len(self.playing))
        if asyncio.get_running_loop().time() < 1:
            self.most_first = self.most
        await asyncio.sleep(1)
        return replace(await super().generate(prompt, sampling), version=self.version)

    def release(self, trajectory: str) -> None:
        self.playing.remove(trajectory)


@pytest.mark.parametrize("staleness", [0, 1])
def test_groups_in_flight_fill_the_places_of_the_cache_and_no_more(
    tiny: Path, staleness: int
) -> None:
    policy = CountingReader(Renderer.load(tiny))
    places = 0

    async def main() -> None:
        nonlocal places
        playing = Player(policy=policy, renderer=policy.renderer, shed=None)
        rules = replace(
            RULES, batch=8, max_staleness=staleness, kv_tokens=400, max_length=1000, steps=4
        )

        def draw(step: int, num: int, refill: int) -> list[Drawn]:
            return [Drawn(question=question(step), source=0) for _ in range(num)]

        schedule = Schedule(playing, rules, draw, judge)
        async with aclosing(schedule):
            for _ in range(4):
                (*_, group) = await schedule.step()
                policy.version += 1
                schedule.trained()
        one, other = (len(each.token_ids) for each in group.trajectories)
        # The picture of 112 x 112 pixels has 16 places, of which one is in the ids; it is shared.
        num_sampled = len(group.trajectories[0].logprobs)
        assert one == other
        places = one - num_sampled + 15 + SIZE * num_sampled

    run_virtual(main())
    assert policy.most_first == SIZE, "of unknown lengths one group is enough"
    assert policy.most == SIZE * (400 // places) > 3 * SIZE


def test_a_position_survives_its_file(tmp_path: Path) -> None:
    async def main() -> Position:
        policy = paced()
        rules = replace(RULES, max_staleness=2)
        schedule = Schedule(player(policy), rules, Questions(), judge)
        async with aclosing(schedule):
            await Learner(policy, schedule).train()
            return schedule.position()

    position = run_virtual(main())
    assert len(position.open) == 9
    assert Position.load(tmp_path) is None
    position.save(tmp_path)
    assert Position.load(tmp_path) == position
