"""A training run before it begins: its config checked against data, checkpoint and tools."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rl.config import RLConfig
from rl.questions.data import check_depth
from rl.questions.sources import at_commit, load_source, on_the_hub
from rl.start.needs import check_answerable, check_room
from rl.types import Question
from sft.checkpoint import check_schema, resolve_checkpoint
from sft.config import check_device, check_out
from sft.ranks import num_ranks
from sft.render import Renderer
from sft.trackers import check_trackers
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet

DATA_FILE = "data.json"
"""In a run's folder: the commits of its data sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run whose config was checked; no weights are loaded, nothing is opened or written yet."""

    config: RLConfig
    tools: ToolSet
    folder: Path
    """Checkpoint to start from."""
    renderer: Renderer
    questions: list[list[Question]]
    """Of each part of the prompts."""
    val_questions: list[Question]
    commits: dict[str, str]
    """Of each word of the hub in ``data`` and ``val.data``, the commit that was read."""


def prepare(config: RLConfig) -> Plan:
    """Everything that can be wrong in a config is said here."""
    check_out(config.out)
    check_device(config.device)
    check_trackers(config.show.track)
    if not config.data:
        raise ConfigError("no questions: give data, for example data=[{path: train.parquet}]")
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    folder = resolve_checkpoint(config.model)
    warning = check_schema(folder, tools.schema_hash, config.tools.schema)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if note := staleness_note(config):
        print(f"note: {note}", file=sys.stderr)
    if config.policy == "sglang":
        _check_engine(config, folder)
    commits = commits_of(config)
    questions, val_questions, renderer = asked_with(config, tools, folder, commits)
    return Plan(
        config=config,
        tools=tools,
        folder=folder,
        renderer=renderer,
        questions=questions,
        val_questions=val_questions,
        commits=commits,
    )


def staleness_note(config: RLConfig) -> str:
    """What of ``max_staleness`` this run has no use for; empty where there is nothing to say."""
    given, last = config.max_staleness, config.steps - 1
    if given < 2:
        return ""
    if given > last:
        return f"max_staleness={given} is as {max(last, 0)} in a run of steps={config.steps}"
    size, width = config.num_prompts * config.group_size, config.rollout.width
    in_flight = math.ceil(width / size)
    if given <= 2 * in_flight:
        return ""
    return (
        f"max_staleness={given} lets rollouts be {given} steps ahead, and rollout.width={width} "
        f"holds those of {in_flight} ({size} each): what ends early only gets older waiting"
    )


def _check_engine(config: RLConfig, folder: Path) -> None:
    from rl.policy.sglang.preflight import check_lengths, check_training, missing

    check_training(
        config.engine,
        device=config.device,
        frozen=config.learner.frozen,
        lora=config.learner.lora,
        ranks=num_ranks(),
    )
    check_lengths(config.engine, folder, config.rollout.max_length)
    if lacking := missing(config.engine):
        raise ConfigError("; ".join(lacking))


def asked_with(
    config: RLConfig,
    tools: ToolSet,
    folder: Path,
    commits: Mapping[str, str],
    *,
    fetches: bool = True,
) -> tuple[list[list[Question]], list[Question], Renderer]:
    """The questions of each part and those of validation, which fit tools, checkpoint and limits,
    with the checkpoint's renderer; ``commits`` and ``fetches`` are those of ``load_all``."""
    questions, val_questions = load_all(config, commits, fetches=fetches)
    every = [*chain(*questions), *val_questions]
    check_depth(every, tools, config.tools.config)
    check_answerable([question.source for question in every], tools, config.tools.config)
    renderer = Renderer.load(folder, max_pixels=config.rollout.max_pixels)
    limits = {"max_tokens": config.rollout.max_tokens, "max_length": config.rollout.max_length}
    check_room(every, tools.specs, renderer, **limits)
    return questions, val_questions, renderer


def commits_of(config: RLConfig, *, fetches: bool = True) -> dict[str, str]:
    """The commit of each word of the hub: the one that the run in ``out`` began with, else that of
    today, or without ``fetches`` the one that was fetched last."""
    held = Path(config.out) / DATA_FILE
    known: dict[str, str] = {}
    if config.out and held.is_file():
        try:
            known = dict(json.loads(held.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{held} cannot be read ({error}); it is what a run keeps of its data sets: "
                "delete it to take their commits of today"
            ) from error
    words = [item.path for item in config.data] + [config.val.data] * bool(config.val.data)
    found = {word: on_the_hub(at_commit(word, known, fetches=fetches)) for word in words}
    return {word: each.revision for word, each in found.items() if each is not None}


def load_all(
    config: RLConfig, commits: Mapping[str, str], *, fetches: bool = True
) -> tuple[list[list[Question]], list[Question]]:
    """The questions of each part, and those of validation, with words of the hub at ``commits``;
    without ``fetches`` from what is on this machine."""

    def load(word: str, *, limit: int, rows: int = 0) -> list[Question]:
        word = at_commit(word, commits, fetches=fetches)
        return load_source(word, rows=rows, limit=limit, cache=config.cache, fetches=fetches)

    questions = [load(item.path, rows=item.rows, limit=item.limit) for item in config.data]
    if not config.val.data:
        return questions, []
    return questions, load(config.val.data, limit=config.val.limit)
