"""Traces for SFT: play questions, keep what passes a score filter, write one transcript file.

    python -m rl.collect POLICY QUESTIONS.parquet OUT.json [key=value ...]

POLICY is `teacher` (the scripted one) or a checkpoint. The same command gives the same file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from rl.player import check_tools, load_player
from rl.policy.scripted import ScriptedPolicy
from rl.questions.data import check_depth, load_questions
from rl.rewards import RewardRule, score
from rl.rollout import Job, Limits, Player, run_rollouts
from rl.seeds import seed_of
from rl.start.needs import check_answerable, check_room
from rl.tabletop.teacher import teach
from rl.types import Question, SamplingParams, Trajectory
from sft.config import (
    DTYPES,
    ToolsConfig,
    check_choice,
    check_device,
    check_not_negative,
    check_positive,
    help_text,
    load_config,
)
from sft.render import Renderer
from sft.run_dir import check_writable, draft_file, write_atomic
from toolshed.command import run_command
from toolshed.config import load_tools
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import Json, ToolImage

TEACHER = "teacher"
SOURCES = {TEACHER: "teacher", "": "distilled"}
"""Default ``source`` mark of a transcript: the scripted teacher's, any other policy's."""


@dataclass
class CollectConfig:
    """How questions are played and which trajectories are kept."""

    tools: ToolsConfig = field(default_factory=lambda: ToolsConfig(config="demo"))
    reward: RewardRule = field(default_factory=RewardRule)
    min_score: float = 0.5
    """Least accuracy of a kept trajectory."""
    need_call: bool = True
    """Keep only trajectories with at least one answered tool call."""
    need_form: bool = True
    """Keep only well-formed trajectories."""
    samples: int = 1
    """Rollouts of one question."""
    keep: int = 0
    """Most kept rollouts of one question; 0 for all."""
    limit: int = 0
    """Play only the first questions; 0 for all."""
    source: str = ""
    """Mark of the transcripts; ``teacher`` or ``distilled`` if empty."""
    temperature: float = 1.0
    max_turns: int = 8
    max_tokens: int = 4096
    """Sampled and reply tokens of one trajectory."""
    max_turn_tokens: int = 1024
    max_length: int = 8192
    """Places of the policy's cache for one trajectory, prompt and pictures included."""
    width: int = 16
    """Trajectories in flight."""
    max_failure_share: float = 0.2
    """Of all trajectories; above it nothing is written."""
    seed: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    """CPU threads; on small models a second one costs more than it brings."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_score <= 1.0:
            raise ConfigError(f"min_score={self.min_score} must lie in [0, 1], as scores do")
        check_choice(self, dtype=DTYPES)
        check_not_negative(self, "keep", "limit", "seed", "max_failure_share")
        check_positive(self, "samples", "width", "temperature", "max_turns", "threads")
        check_positive(self, "max_tokens", "max_turn_tokens", "max_length")


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What became of the trajectories."""

    num_kept: int
    num_rejected: int
    """Scored, but below the filter."""
    num_failed: int
    """Broken by our machinery: neither kept nor scored."""
    reasons: dict[str, int]
    """Why those that the filter rejected were, by kind of question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """One collection, checked before anything is loaded."""

    policy: str
    questions: tuple[Question, ...]
    out: Path
    config: CollectConfig
    tools: ToolSet
    folder: Path | None
    """Of the checkpoint; None for the teacher."""


def prepare(
    policy: str, data: str | Path, out: str | Path, config: CollectConfig, *, force: bool = False
) -> Collection:
    """Everything that can be wrong is said here, before any work."""
    if not str(out).strip():
        raise ConfigError("no file to write: name one, for example runs/my_data/traces.json")
    out = Path(out).absolute()
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, for example {out}/traces.json")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists; name another file or pass --force to make it again")
    check_writable(out.parent)
    check_device(config.device)
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    schema: Literal["same", "any"] = "any" if config.tools.schema == "any" else "same"
    folder = None if policy == TEACHER else check_tools(policy, tools, schema)
    questions = load_questions(data)[: config.limit or None]
    check_depth(questions, tools, config.tools.config)
    sources = [question.source for question in questions]
    check_answerable(sources, tools, config.tools.config, taught=folder is None)
    if folder is not None:
        limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
        check_room(questions, tools.specs, Renderer.load(folder), **limits)
    return Collection(
        policy=policy,
        questions=tuple(questions),
        out=out,
        config=config,
        tools=tools,
        folder=folder,
    )


def collect(collection: Collection, shed: Toolshed | None = None) -> Collected:
    """Play, filter and write; ``shed`` lends tools that are already open."""
    try:
        played = asyncio.run(_play(collection, shed))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("nothing was written") from stop
    failed = [trajectory for trajectory in played if trajectory.reward is None]
    if len(failed) > collection.config.max_failure_share * len(played):
        raise ToolFailure(
            "too_many_failures",
            f"{len(failed)} of {len(played)} trajectories failed, the last with "
            f"{failed[-1].failure[:300]}; nothing was written",
        )
    kept = _filter(played, collection.config)
    rows = [_transcript(trajectory, collection) for trajectory in kept]
    write_atomic(collection.out, json.dumps(rows, indent=1, ensure_ascii=False))
    return Collected(
        num_kept=len(kept),
        num_rejected=len(played) - len(failed) - len(kept),
        num_failed=len(failed),
        reasons=_reasons(played, kept, collection.config),
    )


def _reasons(
    played: Sequence[Trajectory], kept: Sequence[Trajectory], config: CollectConfig
) -> dict[str, int]:
    """Why trajectories were not kept, counted by kind of question; the commonest first."""
    chosen = {id(trajectory) for trajectory in kept}
    found = Counter(
        f"{trajectory.question.source}: {rejection(trajectory, config) or 'keep is reached'}"
        for trajectory in played
        if id(trajectory) not in chosen and trajectory.reward is not None
    )
    return dict(found.most_common())


def _filter(played: Sequence[Trajectory], config: CollectConfig) -> list[Trajectory]:
    kept: list[Trajectory] = []
    per_question: dict[str, int] = {}
    for trajectory in played:
        name = trajectory.question.id
        full = config.keep and per_question.get(name, 0) >= config.keep
        if not full and passes(trajectory, config):
            kept.append(trajectory)
            per_question[name] = per_question.get(name, 0) + 1
    return kept


def passes(trajectory: Trajectory, config: CollectConfig) -> bool:
    """Whether a trajectory is worth imitating."""
    return not rejection(trajectory, config)


def rejection(trajectory: Trajectory, config: CollectConfig) -> str:
    """Why a trajectory is not worth imitating; empty if it is."""
    reward = trajectory.reward
    if reward is None:
        return "broken"
    if config.need_call and not any(result.status == "ok" for result in trajectory.results):
        return "no answered call (need_call)"
    if reward.accuracy < config.min_score:
        words = "wrong" if reward.answer is not None else f"no answer, {trajectory.stop_reason}"
        return f"{words} (below min_score={config.min_score:g})"
    if config.need_form and not reward.well_formed:
        return "badly formed (need_form)"
    return ""


# ---- playing ------------------------------------------------------------------------------------


async def _play(collection: Collection, shed: Toolshed | None) -> list[Trajectory]:
    """Scored trajectories in the order of the jobs."""
    from tqdm import tqdm

    config = collection.config
    own = shed is None and config.tools.config != "none"
    if own:
        shed = Toolshed.open(load_tools(config.tools.config), show=config.tools.show or None)
    try:
        player = _player(collection, shed)
        jobs = _jobs(collection)
        played: dict[int, Trajectory] = {}
        with tqdm(total=len(jobs), desc=f"collect {collection.out.name}", disable=None) as bar:
            async for index, trajectory in run_rollouts(jobs, player, width=config.width):
                reward = score(trajectory.question, trajectory, config.reward)
                played[index] = replace(trajectory, reward=reward)
                bar.update()
        await player.policy.aclose()
        return [played[index] for index in sorted(played)]
    finally:
        if own and shed is not None:
            await shed.aclose()


def _player(collection: Collection, shed: Toolshed | None) -> Player:
    config = collection.config
    limits = Limits(max_turns=config.max_turns, max_tokens=config.max_tokens)
    if collection.folder is None:
        return Player(policy=ScriptedPolicy(teach), renderer=None, shed=shed, limits=limits)
    return load_player(
        collection.folder,
        shed,
        limits=limits,
        width=config.width,
        max_length=config.max_length,
        device=config.device,
        dtype=config.dtype,
    )


def _jobs(collection: Collection) -> list[Job]:
    config = collection.config
    sampling = SamplingParams(temperature=config.temperature, max_tokens=config.max_turn_tokens)
    return [
        Job(
            question=question,
            sampling=sampling,
            sample_index=sample,
            seed=seed_of(config.seed, "collect", question.id, sample),
        )
        for question in collection.questions
        for sample in range(config.samples)
    ]


# ---- writing ------------------------------------------------------------------------------------


def _transcript(trajectory: Trajectory, collection: Collection) -> dict[str, Json]:
    """One conversation in the released SFT layout; the system turn is kept without tools."""
    question, reward = trajectory.question, trajectory.reward
    assert reward is not None, "only scored trajectories are written"
    mark = SOURCES.get(collection.policy, SOURCES[""])
    return {
        "task_id": f"{question.id}/{trajectory.sample_index}",
        "dataset_index": _row_of(question),
        "score": reward.accuracy,
        "conversations": [
            {"from": message.role, "value": message.text}
            for message in trajectory.messages
            if message.role != "system"
        ],
        "system": "\n\n".join(m.text for m in question.messages if m.role == "system"),
        "images": [*_pictures(trajectory, collection.out)],
        "source": collection.config.source or mark,
        "tools_schema_hash": collection.tools.schema_hash,
        "ground_truth": question.target,
        "question_type": question.source.removeprefix("tabletop-"),
    }


def _row_of(question: Question) -> int:
    """Row of the parquet, which ``load_questions`` writes into the id."""
    return int(question.id.rpartition("/")[2])


def _pictures(trajectory: Trajectory, out: Path) -> list[str]:
    """Where each picture of the conversation lies; those that tools took are saved beside OUT."""
    asked = [_near(source.image, out) for source in trajectory.question.images]
    taken = trajectory.images[len(asked) :]
    return asked + [_near(_saved(image, out), out) for image in taken]


def _near(location: str, out: Path) -> str:
    if location.startswith("data:"):
        return location
    return os.path.relpath(location, out.parent)


def _saved(image: ToolImage, out: Path) -> str:
    from PIL import Image

    path = out.parent / f"{out.stem}_images" / f"{image.sha256[:24]}.png"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft_file(path) as draft:
            Image.fromarray(image.pixels).save(draft, "PNG", compress_level=1)
    return str(path)


# ---- command line -------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rl.collect",
        description="Play questions and write the good trajectories as transcripts for SFT.",
        epilog="keys and defaults:\n" + help_text(CollectConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("policy", help="'teacher' (scripted, tabletop only) or a checkpoint folder")
    parser.add_argument("questions", help="parquet in the released layout")
    parser.add_argument("out", help="JSON file to write")
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help="overrides")
    parser.add_argument(
        "--config", default="collect", help="collect, collect_demo, or a YAML file (collect)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    parser.add_argument("--dry-run", action="store_true", help="check everything and stop")
    args = parser.parse_intermixed_args(words)
    return run_command(lambda: _run(args), "toolshed", "sft", "rl")


def _run(args: argparse.Namespace) -> int:
    config = load_config(CollectConfig, "rl", args.config, args.words)
    ready = prepare(args.policy, args.questions, args.out, config, force=args.force)
    if args.dry_run:
        num = len(ready.questions) * config.samples
        print(f"would play {num} trajectories with {ready.policy} and write {ready.out}")
        return 0
    done = collect(ready)
    counts = f"kept {done.num_kept}, rejected {done.num_rejected}, failed {done.num_failed}"
    print(f"{ready.out}: {counts}")
    for reason, num in done.reasons.items():
        print(f"  {num:>6} {reason}")
    if not done.num_kept:
        raise ConfigError(
            f"nothing passed the filter, so {ready.out} is empty; lower "
            f"min_score={config.min_score}, or allow need_call=false, need_form=false"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
