"""A training run before it begins: its config checked against data, checkpoint and tools."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rl.config import RLConfig
from rl.data import check_depth, load_questions
from rl.needs import check_answerable, check_room
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
    questions = [load_questions(item.path)[: item.limit or None] for item in config.data]
    val_questions: list[Question] = []
    if config.val_data:
        val_questions = load_questions(config.val_data)[: config.val_limit]
    every = [*chain(*questions), *val_questions]
    check_depth(every, tools, config.tools.config)
    check_answerable([question.source for question in every], tools, config.tools.config)
    renderer = Renderer.load(folder)
    limits = {"max_tokens": config.max_tokens, "max_length": config.max_length}
    check_room(every, tools.specs, renderer, **limits)
    return Plan(
        config=config,
        tools=tools,
        folder=folder,
        renderer=renderer,
        questions=questions,
        val_questions=val_questions,
    )
