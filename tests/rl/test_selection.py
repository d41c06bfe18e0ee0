"""Prompt selection: the uniform order, informative questions first, exact resume, counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.questions.data import QuestionStream
from rl.scheduling.difficulty import Posteriors, histogram, spread_probability
from rl.scheduling.schedule import Drawn
from rl.scheduling.selection import PromptSelection, SelectionConfig
from rl.seeds import seed_of
from rl.types import Question, Reward, StopReason, Trajectory
from toolshed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Population:
    """Questions whose chances of success follow a Beta distribution, and how they are asked."""

    num: int = 100
    beta: tuple[float, float] = (0.3, 0.3)
    group_size: int = 8
    num_prompts: int = 16
    num_steps: int = 20

    def chances(self) -> dict[str, float]:
        drawn = np.random.default_rng(1).beta(*self.beta, self.num).tolist()
        return {q.id: c for q, c in zip(questions(self.num), drawn, strict=True)}


SMALL = Population()
U_SHAPED = Population(num=600, num_steps=60)
RELEASED = Population(num=5500, beta=(0.5, 0.17), group_size=5, num_prompts=64, num_steps=85)
"""As the released full-tool stage: one pass over 5,500 questions, most of them solved."""


def questions(num: int, source: str = "tabletop-point") -> list[Question]:
    return [
        Question(id=f"{source}/{i}", source=source, kind="number", messages=(), images=(), target=i)
        for i in range(num)
    ]


def selection(
    order: str, *parts: list[Question], pool: float = 4.0, group_size: int = 8
) -> PromptSelection:
    return PromptSelection(
        parts,
        [1.0] * len(parts),
        seed=3,
        group_size=group_size,
        config=SelectionConfig(order=order, pool=pool),
    )


def played(question: Question, values: Sequence[float | None]) -> list[Trajectory]:
    return [
        Trajectory(
            question=question,
            sample_index=i,
            seed=0,
            turns=(),
            messages=(),
            stop_reason=StopReason.TOOL_FAILURE if value is None else StopReason.ANSWERED,
            reward=None
            if value is None
            else Reward(value=value, accuracy=value, well_formed=True, answer=""),
        )
        for i, value in enumerate(values)
    ]


def steps(chosen: PromptSelection, people: Population, begin: int, end: int) -> list[list[Drawn]]:
    """Draw and observe; what each step drew."""
    chances, every = people.chances(), []
    for step in range(begin, end):
        drawn = chosen.draw(step, people.num_prompts)
        rng = np.random.default_rng(step)
        values = [
            (rng.random(people.group_size) < chances[each.question.id]).astype(float).tolist()
            for each in drawn
        ]
        groups = [played(d.question, v) for d, v in zip(drawn, values, strict=True)]
        chosen.observe(step, drawn, groups)
        every.append(drawn)
    return every


def shares(order: str, people: Population) -> tuple[float, float]:
    """Expected share of groups with spread: of all steps, and of the last quarter."""
    chosen = selection(
        order, questions(people.num), pool=SelectionConfig().pool, group_size=people.group_size
    )
    chances = people.chances()
    drawn = [
        [chances[d.question.id] for d in s] for s in steps(chosen, people, 0, people.num_steps)
    ]
    spread = spread_probability(np.array(drawn), people.group_size).mean(axis=1)
    return float(spread.mean()), float(spread[-people.num_steps // 4 :].mean())


def test_the_uniform_order_is_that_of_the_streams() -> None:
    parts = [questions(5), questions(7, "tabletop-depth")]
    chosen = selection("uniform", *parts)
    streams = [QuestionStream(part, seed_of(3, "data", i)) for i, part in enumerate(parts)]
    for step in range(6):
        rng = np.random.default_rng(seed_of(3, "draw", step))
        sources = rng.choice(2, size=4, p=np.array([0.5, 0.5]))
        expected = [next(streams[source]) for source in sources]
        assert [each.question for each in chosen.draw(step, 4)] == expected
    assert chosen.figures(6)["skipped"] == 0


@pytest.mark.parametrize(
    ("people", "gain", "late_gain"), [(U_SHAPED, 1.2, 1.4), (RELEASED, 1.2, 1.35)]
)
def test_informative_selection_raises_the_share_of_groups_with_spread(
    people: Population, gain: float, late_gain: float
) -> None:
    uniform, late_uniform = shares("uniform", people)
    informative, late = shares("informative", people)
    assert informative > gain * uniform, (uniform, informative)
    assert late > late_gain * late_uniform, (late_uniform, late)


def test_the_same_seed_gives_the_same_order_and_another_another() -> None:
    asked = questions(SMALL.num)
    once, again = (steps(selection("informative", asked), SMALL, 0, 10) for _ in range(2))
    assert once == again
    assert once != steps(selection("uniform", asked), SMALL, 0, 10)


@pytest.mark.parametrize("order", ["uniform", "informative"])
def test_a_resume_goes_on_exactly(order: str, tmp_path: Path) -> None:
    asked = questions(SMALL.num)
    whole = selection(order, asked)
    steps(whole, SMALL, 0, 7)
    whole.save(tmp_path)
    whole.figures(7)
    resumed = selection(order, asked)
    resumed.load(tmp_path)
    assert steps(resumed, SMALL, 7, 20) == steps(whole, SMALL, 7, 20)
    assert resumed.figures(20) == whole.figures(20)
    with pytest.raises(ConfigError, match="belongs to another data set"):
        selection(order, questions(99)).load(tmp_path)


def test_every_question_is_offered_and_none_lost_when_the_pool_is_larger_than_the_set() -> None:
    chosen = selection("informative", questions(6), pool=100.0)
    drawn = chosen.draw(0, 6)
    assert sorted(each.question.id for each in drawn) == sorted(q.id for q in questions(6))
    assert len(chosen.draw(1, 9)) == 9


def test_counters_tell_what_was_drawn_skipped_and_refilled() -> None:
    chosen = selection("informative", questions(100))
    first = chosen.draw(0, 10)
    chosen.observe(0, first, [played(each.question, [1.0] * 4) for each in first])
    second = chosen.draw(0, 5, refill=1)
    chosen.observe(0, second, [played(each.question, [0.0, 1.0, None]) for each in second])
    figures = chosen.figures(0)
    assert (figures["drawn"], figures["refilled"], figures["skipped"]) == (10, 5, 30 + 15)
    # (1/2 + 4) / 5 = 0.9 and (1/2 + 1) / 3 = 0.5.
    assert figures["task/point/difficulty"] == [0, 0, 0, 0, 0, 5, 0, 0, 0, 10]
    assert chosen.figures(1)["drawn"] == 0


def test_posteriors_by_hand() -> None:
    posteriors = Posteriors(prior=(0.5, 0.5), decay=0.5)
    posteriors.observe("a", [1.0, 1.0, 0.0, 0.5], step=3)
    posteriors.observe("b", [], step=3)
    assert posteriors.beta(["a", "b"], 3).tolist() == [[3.0, 2.0], [0.5, 0.5]]
    assert posteriors.beta(["a"], 5).tolist() == [[0.5 + 2.5 / 4, 0.5 + 1.5 / 4]]
    posteriors.observe("a", [1.0], step=4)
    assert posteriors.beta(["a"], 4).tolist() == [[0.5 + 1.25 + 1, 0.5 + 0.75]]
    assert posteriors.means(4) == {"a": 2.75 / 4.0}
    again = Posteriors(prior=(0.5, 0.5), decay=0.5)
    again.restore(posteriors.state())
    assert again.means(7) == posteriors.means(7)


def test_spread_and_histogram_by_hand() -> None:
    got = spread_probability(np.array([0.0, 0.5, 1.0]), 3)
    assert got.tolist() == [0.0, 0.75, 0.0]
    assert histogram([0.0, 0.05, 0.1, 0.99, 1.0]) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": "hard"}, "order='hard' is none of uniform, informative"),
        ({"prior": (0.0, 1.0)}, r"prior=\[0.0, 1.0\] must be"),
        ({"decay": 0.0}, "decay=0.0"),
        ({"decay": 1.5}, "decay=1.5"),
        ({"pool": 0.5}, "pool=0.5"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SelectionConfig(**change)
