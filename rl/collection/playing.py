"""Samples of questions played under their budgets, each kept as soon as it ends."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from rl.collection.filter import stopped
from rl.collection.journal import Journal
from rl.collection.played import Played, played_of
from rl.collection.players import player_of
from rl.collection.prepare import Collection
from rl.rewards import score
from rl.rollout import Job, Player, episode_name, run_episode, run_works
from rl.seeds import seed_of
from rl.types import Question, SamplingParams
from toolshed.config import load_tools
from toolshed.errors import ToolFailure
from toolshed.shed import Toolshed


async def play_missing(collection: Collection, journal: Journal, shed: Toolshed | None) -> None:
    """Play what the journal lacks; nothing starts where it lacks nothing.

    Raises ToolFailure once more trajectories have failed than the config allows.
    """
    config = collection.config
    missing = missing_samples(collection, journal)
    failed = failures(collection, journal)
    _check_failures(collection, failed)
    if not missing:
        return
    own = shed is None and config.tools.config != "none"
    if own:
        shed = Toolshed.open(load_tools(config.tools.config), show=config.tools.show or None)
    try:
        player = await player_of(collection, journal, shed)
        try:
            await _play(missing, collection, journal, player)
        finally:
            await player.policy.aclose()
    finally:
        if own and shed is not None:
            await shed.aclose()


async def _play(
    missing: Sequence[tuple[Question, range]],
    collection: Collection,
    journal: Journal,
    player: Player,
) -> None:
    from tqdm import tqdm

    failed = failures(collection, journal)
    total = num_missing(collection, journal)
    with tqdm(total=total, desc=f"collect {collection.out.name}", disable=None) as bar:

        def tell(played: Played) -> None:
            nonlocal failed
            bar.update()
            if played.failure:
                failed.append(played)
                _check_failures(collection, failed)

        works = [
            functools.partial(_samples, question, samples, collection, journal, player, tell)
            for question, samples in missing
        ]
        rollouts = run_works(works, width=collection.config.width)
        async with contextlib.aclosing(rollouts):
            async for _ in rollouts:
                pass


def missing_samples(collection: Collection, journal: Journal) -> list[tuple[Question, range]]:
    """Samples that are missing: each alone, or those of a question in turns under its budget."""
    config = collection.config
    whole, tries = range(config.samples), config.budget.tries
    if not config.budget.in_turns:
        return [
            (question, range(sample, sample + 1))
            for question in collection.questions
            for sample in whole
            if journal.last(question.id, sample, tries) is None
        ]
    return [
        (question, whole)
        for question in collection.questions
        if not _is_over(question, collection, journal)
    ]


def num_missing(collection: Collection, journal: Journal) -> int:
    """Samples that may still be played; those of a question in turns at most."""
    tries = collection.config.budget.tries
    return sum(
        journal.last(question.id, sample, tries) is None
        for question, samples in missing_samples(collection, journal)
        for sample in samples
    )


def _is_over(question: Question, collection: Collection, journal: Journal) -> bool:
    config = collection.config
    there: list[Played] = []
    for sample in range(config.samples):
        if there and stopped(question, there, config, collection.prices):
            return True
        last = journal.last(question.id, sample, config.budget.tries)
        if last is None:
            return False
        there.append(last)
    return True


async def _samples(
    question: Question,
    samples: range,
    collection: Collection,
    journal: Journal,
    player: Player,
    tell: Callable[[Played], None],
) -> None:
    """Play these samples one after the other, until the question has enough."""
    config = collection.config
    there: list[Played] = []
    for sample in samples:
        if there and stopped(question, there, config, collection.prices):
            return
        last = journal.last(question.id, sample, config.budget.tries)
        while last is None:
            journal.add(await _sample(question, sample, collection, journal, player))
            last = journal.last(question.id, sample, config.budget.tries)
            if last is not None:
                tell(last)
        there.append(last)


async def _sample(
    question: Question, sample: int, collection: Collection, journal: Journal, player: Player
) -> Played:
    """One try of one sample; its seed is that of every try, so that paid turns are used again."""
    config = collection.config
    job = Job(
        question=question,
        sampling=SamplingParams(temperature=config.temperature, max_tokens=config.max_turn_tokens),
        sample_index=sample,
        seed=seed_of(config.seed, "collect", question.id, sample),
    )
    trajectory = await run_episode(job, player)
    reward = score(question, trajectory, config.reward)
    name, usage = episode_name(job), None
    if journal.replies is not None:
        usage = journal.replies.usage_of(name)
        if reward is not None:
            journal.replies.forget(name)
    return played_of(
        replace(trajectory, reward=reward),
        question_hash=journal.hashes[question.id],
        out=collection.out,
        usage=usage,
    )


def failures(collection: Collection, journal: Journal) -> list[Played]:
    """Samples that machinery broke as often as may be."""
    config = collection.config
    ends = [
        journal.last(question.id, sample, config.budget.tries)
        for question in collection.questions
        for sample in range(config.samples)
    ]
    return [end for end in ends if end is not None and end.failure]


def _check_failures(collection: Collection, failed: Sequence[Played]) -> None:
    config = collection.config
    total = len(collection.questions) * config.samples
    if len(failed) <= config.max_failure_share * total:
        return
    way_on = ""
    if collection.working is not None:
        way_on = "; mend what broke and give the same command with --retry-failed"
    raise ToolFailure(
        "too_many_failures",
        f"{len(failed)} of {total} trajectories failed, the last with "
        f"{failed[-1].failure[:300]}; nothing was written{way_on}",
    )
