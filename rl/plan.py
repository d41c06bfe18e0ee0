"""A training run before it begins: its config checked against data, checkpoint and tools."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rl.config import RLConfig
from rl.data import check_depth
from rl.needs import check_answerable, check_room
from rl.sources import load_source
from rl.types import Question
from sft.checkpoint import check_schema, resolve_checkpoint
from sft.config import check_device, check_out
from sft.render import Renderer
from sft.trackers import check_trackers
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet


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


def prepare(config: RLConfig) -> Plan:
    """Everything that can be wrong in a config is said here."""
    check_out(config.out)
    check_device(config.device)
    check_trackers(config.track)
    if not config.data:
        raise ConfigError("no questions: give data, for example data=[{path: train.parquet}]")
    tools = ToolSet.named(config.tools.config, config.tools.show or None)
    folder = resolve_checkpoint(config.model)
    warning = check_schema(folder, tools.schema_hash, config.schema)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if config.policy == "sglang":
        _check_engine(config, folder)
    questions, val_questions, renderer = asked_with(config, tools, folder)
    return Plan(
        config=config,
        tools=tools,
        folder=folder,
        renderer=renderer,
        questions=questions,
        val_questions=val_questions,
    )


def _check_engine(config: RLConfig, folder: Path) -> None:
    from rl.policy.sglang.preflight import check_lengths, check_training, missing

    check_training(config.engine, device=config.device, frozen=config.frozen, lora=config.lora)
    check_lengths(config.engine, folder, config.max_length)
    if lacking := missing(config.engine):
        raise ConfigError("; ".join(lacking))


def asked_with(
    config: RLConfig, tools: ToolSet, folder: Path
) -> tuple[list[list[Question]], list[Question], Renderer]:
    """The questions of each part and those of validation, which fit tools, checkpoint and limits,
    with the checkpoint's renderer."""
    questions, val_questions = load_all(config)
    every = [*chain(*questions), *val_questions]
    check_depth(every, tools, config.tools.config)
    check_answerable([question.source for question in every], tools, config.tools.config)
    renderer = Renderer.load(folder, max_pixels=config.max_pixels)
    limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
    check_room(every, tools.specs, renderer, **limits)
    return questions, val_questions, renderer


def load_all(config: RLConfig) -> tuple[list[list[Question]], list[Question]]:
    """The questions of each part, and those of validation."""
    questions = [
        load_source(item.path, rows=item.rows, limit=item.limit, cache=config.cache)
        for item in config.data
    ]
    if not config.val_data:
        return questions, []
    return questions, load_source(config.val_data, limit=config.val_limit, cache=config.cache)
