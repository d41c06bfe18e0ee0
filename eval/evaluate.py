"""Ask a policy questions and keep every answer: rows are appended as episodes finish.

What is done already is not asked again; what our machinery broke is. The demo calls ``evaluate`` in
its own process, ``eval.run`` does the same for a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.config import EvalConfig
from eval.failures import Tally, unless_broken
from eval.rows import Draw, EvalRow, RowKey, RowLog, read_rows
from eval.scoring import Judged, judge
from rl.identity import question_identity
from rl.player import load_player
from rl.policy.base import Policy, Prompt
from rl.rewards import DEMO_RULE, RewardRule
from rl.rollout import Job, Limits, Player, run_rollouts
from rl.seeds import seed_of
from rl.show.episode import episode_of
from rl.show.viewer import keep_picture
from rl.types import Completion, Question, SamplingParams, Trajectory
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed
from toolshed.types import ToolImage

RULES = {"default": RewardRule(), "demo": DEMO_RULE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How questions are asked."""

    temperature: float = 0.0
    """0 asks greedily, once; above it ``draws`` answers are sampled."""
    draws: int = 1
    max_tokens: int = 512
    """Of one turn."""
    width: int = 16
    """Episodes under way at once."""
    seed: int = 0
    rule: RewardRule = field(default_factory=RewardRule)
    max_failures: float = 0.2
    """Largest share of questions that our machinery may break before the run stops."""
    retries: int = 0
    """How often a question is asked again in this run after our machinery broke it; never for its
    score."""
    repeat: int = 0
    """Number of the whole run that the answers belong to."""

    @property
    def draw_names(self) -> tuple[Draw, ...]:
        return ("greedy",) if self.temperature == 0 else tuple(range(self.draws))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Who is asked, and where the answers go."""

    out: Path
    """Rows file; pictures without a file of their own go to ``pictures`` beside its folder."""
    policy: str
    """Which weights; a rows file holds the answers of one."""
    benchmark: str = ""
    """Key of the rows; empty for each question's own source."""
    prompt_pictures: Mapping[str, ToolImage] | None = None
    """Question id to the picture that the policy is shown while the tools keep the right one."""
    keep_pictures: int = 24
    """For so many questions of each task pictures are kept for viewing."""


def asking_of(config: EvalConfig) -> Asking:
    """How a config asks greedily; sampled answers differ by temperature and draws."""
    return Asking(
        max_tokens=config.max_turn_tokens,
        width=config.width,
        seed=config.seed,
        rule=RULES[config.reward],
        max_failures=config.max_failures,
        retries=config.retries,
    )


def limits_of(config: EvalConfig) -> Limits:
    return Limits(
        max_turns=config.max_turns,
        max_tokens=config.max_tokens,
        max_calls=config.max_calls,
        max_reply_chars=config.max_reply_chars,
    )


def player_of(config: EvalConfig, checkpoint: Path, shed: Toolshed | None) -> Player:
    """A checkpoint under a config's limits."""
    return load_player(
        checkpoint,
        shed,
        limits=limits_of(config),
        width=config.width,
        max_length=config.max_length,
        device=config.device,
        devices=config.devices,
        dtype=config.dtype,
        threads=config.threads,
        max_pixels=config.max_pixels,
    )


async def evaluate(
    questions: Sequence[Question],
    player: Player,
    asked: Asked,
    asking: Asking,
    *,
    on_row: Callable[[EvalRow], None] | None = None,
) -> list[EvalRow]:
    """Ask what is missing in ``asked.out`` and return the rows of these questions and draws.

    Raises ConfigError where the file holds another policy's answers or those to other questions,
    and ToolFailure where too many episodes broke; the rows so far are kept then, and asked again
    is only what is missing.
    """
    if asked.prompt_pictures is not None:
        player = replace(player, policy=OtherPicture(player.policy, asked.prompt_pictures))
    schema_hash = player.shed.schema_hash if player.shed is not None else "none"
    kept = _with_kept_pictures(questions, asked.keep_pictures)
    hashes = _hashes(questions, asked)
    with RowLog(asked.out) as log:
        _check_same_run(log.rows, asked, schema_hash, hashes)
        there = [row for row in _wanted(log.rows, questions, asked, asking) if not row.failed]
        tally = Tally(most=asking.max_failures, num_there=len(there))
        for _ in range(asking.retries + 1):
            jobs, keys = _missing(questions, log, asked, asking)
            rollouts = run_rollouts(jobs, player, width=asking.width)
            async with contextlib.aclosing(rollouts):
                async for index, played in rollouts:
                    key, trajectory = keys[index], unless_broken(played)
                    question_hash = hashes[key.benchmark, key.question_id]
                    row = _scored_row(trajectory, key, asked, asking, schema_hash, question_hash)
                    row = replace(row, repeat=key.repeat, attempt=log.num_broken(key))
                    log.append(row)
                    if trajectory.question.id in kept:
                        _keep_pictures(trajectory, asked)
                    if on_row is not None:
                        on_row(row)
                    tally.add(row)
            if not tally.broken:
                break
        tally.check()
        return _wanted(log.rows, questions, asked, asking)


def rows_there(
    questions: Sequence[Question], asked: Asked, asking: Asking, schema_hash: str
) -> list[EvalRow]:
    """What ``evaluate`` has answered already; ConfigError where it would refuse to go on."""
    rows = read_rows(asked.out) if asked.out.is_file() else []
    if rows:
        _check_same_run(rows, asked, schema_hash, _hashes(questions, asked))
    return _wanted(rows, questions, asked, asking)


def _wanted(
    rows: Sequence[EvalRow], questions: Sequence[Question], asked: Asked, asking: Asking
) -> list[EvalRow]:
    wanted = {
        RowKey(_benchmark(question, asked), question.id, draw, asking.repeat)
        for question in questions
        for draw in asking.draw_names
    }
    return [row for row in rows if row.key in wanted]


def row_of(
    trajectory: Trajectory,
    *,
    benchmark: str,
    draw: Draw,
    schema_hash: str,
    policy: str,
    question_hash: str,
    judged: Judged,
    prompt_picture: ToolImage | None = None,
) -> EvalRow:
    """The row of a judged trajectory, or of one that broke."""
    episode = episode_of(replace(trajectory, reward=judged.reward), prompt_picture)
    return EvalRow(
        benchmark=benchmark,
        task=task_of(trajectory.question, benchmark),
        question_id=episode.question_id,
        draw=draw,
        question_type=judged.question_type,
        state=judged.state,
        answer=episode.answer,
        target=episode.target,
        score=episode.accuracy,
        reward=episode.reward,
        stop_reason=episode.stop_reason,
        num_calls=episode.num_calls,
        seconds=episode.seconds,
        seed=trajectory.seed,
        schema_hash=schema_hash,
        policy=policy,
        question_hash=question_hash,
        failure=episode.failure,
        episode=episode,
    )


def task_of(question: Question, benchmark: str) -> str:
    """Column of a question: its tabletop kind, the part of RoboSpatial, or the benchmark."""
    if question.source.startswith("tabletop-"):
        return question.source.removeprefix("tabletop-")
    if benchmark == "robospatial":
        return "robospatial-vqa" if question.kind == "yesno" else "robospatial-vacant"
    return benchmark


class OtherPicture:
    """A policy whose first picture is exchanged; its tools see the question's own."""

    def __init__(self, policy: Policy, pictures: Mapping[str, ToolImage]) -> None:
        self.policy = policy
        self.version = policy.version
        self._pictures = pictures

    async def generate(self, prompt: Prompt, sampling: SamplingParams) -> Completion:
        other = self._pictures[prompt.question.id]
        return await self.policy.generate(
            replace(prompt, images=(other, *prompt.images[1:])), sampling
        )

    def release(self, trajectory: str) -> None:
        self.policy.release(trajectory)

    async def aclose(self) -> None:
        await self.policy.aclose()


def _benchmark(question: Question, asked: Asked) -> str:
    return asked.benchmark or question.source


def _hashes(questions: Sequence[Question], asked: Asked) -> dict[tuple[str, str], str]:
    return {(_benchmark(q, asked), q.id): question_identity(q) for q in questions}


def _check_same_run(
    rows: Sequence[EvalRow],
    asked: Asked,
    schema_hash: str,
    hashes: Mapping[tuple[str, str], str],
) -> None:
    """One policy a file, one set of tools a benchmark, one question an id."""
    benchmarks = {benchmark for benchmark, _ in hashes}
    for row in rows:
        if row.policy != asked.policy:
            raise ConfigError(
                f"{asked.out} holds the answers of {row.policy}, this is {asked.policy}; "
                "give another out= or move the file away"
            )
        if row.benchmark in benchmarks and row.schema_hash != schema_hash:
            raise ConfigError(
                f"{asked.out} was made with tool schema {row.schema_hash[:12]}, this run offers "
                f"{schema_hash[:12]}; give another out= or use the same tools"
            )
        asked_now = hashes.get((row.benchmark, row.question_id), row.question_hash)
        if row.question_hash != asked_now:
            raise ConfigError(
                f"{asked.out} answers another question {row.question_id} than the one asked now "
                "(its text, target or pictures differ); give another out= or the data of before"
            )


def _missing(
    questions: Sequence[Question], log: RowLog, asked: Asked, asking: Asking
) -> tuple[list[Job], list[RowKey]]:
    jobs, keys = [], []
    for question in questions:
        for number, draw in enumerate(asking.draw_names):
            key = RowKey(_benchmark(question, asked), question.id, draw, asking.repeat)
            if log.has(key):
                continue
            keys.append(key)
            jobs.append(
                Job(
                    question=question,
                    sampling=SamplingParams(
                        temperature=asking.temperature, max_tokens=asking.max_tokens
                    ),
                    sample_index=number,
                    seed=_seed(key, asking.seed),
                )
            )
    return jobs, keys


def _seed(key: RowKey, seed: int) -> int:
    """Of a job; sampled draws of each whole run are others, greedy ones have nothing to draw."""
    repeat = (f"repeat {key.repeat}",) if key.repeat and key.draw != "greedy" else ()
    return seed_of("eval", seed, *key[:3], *repeat)


def _scored_row(
    trajectory: Trajectory,
    key: RowKey,
    asked: Asked,
    asking: Asking,
    schema_hash: str,
    question_hash: str,
) -> EvalRow:
    question = trajectory.question
    shown = asked.prompt_pictures[question.id] if asked.prompt_pictures is not None else None
    return row_of(
        trajectory,
        judged=judge(key.benchmark, question, trajectory, asking.rule),
        benchmark=key.benchmark,
        draw=key.draw,
        schema_hash=schema_hash,
        policy=asked.policy,
        question_hash=question_hash,
        prompt_picture=shown,
    )


def _with_kept_pictures(questions: Sequence[Question], most: int) -> set[str]:
    """The first questions of each source."""
    seen: Counter[str] = Counter()
    kept = set()
    for question in questions:
        seen[question.source] += 1
        if seen[question.source] <= most:
            kept.add(question.id)
    return kept


def _keep_pictures(trajectory: Trajectory, asked: Asked) -> None:
    """Write the pictures that no file holds: data URIs, those of tools, exchanged ones."""
    folder = asked.out.parent.parent / "pictures"
    sources = [source.image for source in trajectory.question.images]
    for number, image in enumerate(trajectory.images):
        if number >= len(sources) or sources[number].startswith("data:"):
            keep_picture(image, folder)
    if asked.prompt_pictures is not None:
        keep_picture(asked.prompt_pictures[trajectory.question.id], folder)
