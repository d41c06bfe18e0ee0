"""How the demo examines its stages: the same questions for all, each with the stage's own tools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval.config import EvalConfig
from eval.demo import data_sets
from eval.demo.stages import BY_NAME, CEILING, Stage
from eval.evaluate import Asked, asking_of, evaluate, limits_of, player_of
from rl.identity import policy_identity
from rl.policy.scripted import ScriptedPolicy
from rl.rollout import Player
from rl.tabletop.teacher import teach
from rl.types import Question
from sft.checkpoint import resolve_checkpoint
from toolshed.config import load_tools
from toolshed.images import load_image
from toolshed.shed import Toolshed
from toolshed.types import ToolImage

POINT_TOOLS = ("roborefer.detect_one",)
FOLDERS = {"base_raw": "base/raw", "swapped_image": "full_rl"}
"""Checkpoint of a stage that is not named after its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What the answers of a stage depend on besides its weights."""

    stage: Stage
    tools: str
    """``demo`` (all), ``point`` (step 1's), ``base`` (step 1's for ``point``), ``none``."""
    settings: EvalConfig
    """Of ``configs/eval/demo.yaml``; how many answers is the stage's affair."""


def stage_plan(name: str, *, smoke: bool) -> Stage:
    """What is asked of a stage, or of the scripted teacher: every test question, greedily."""
    plan = BY_NAME.get(name) or Stage(
        name=CEILING,
        label="tool ceiling",
        lane="control",
        remark="the scripted teacher over the same tools",
        num_greedy=256,
        num_greedy_nearer=512,
        num_sampled=0,
    )
    if not smoke:
        return plan
    sampled = 4 if plan.num_sampled else 0
    return replace(plan, num_greedy=4, num_greedy_nearer=4, num_sampled=sampled)


def evaluate_stage(out: Path, config: EvaluateConfig) -> None:
    """Append the stage's rows to ``rows/STAGE.jsonl``; what is there is not asked again."""
    asyncio.run(_evaluate_stage(out, config))


async def _evaluate_stage(out: Path, config: EvaluateConfig) -> None:
    name = config.stage.name
    folder = resolve_checkpoint(out / FOLDERS.get(name, name))
    player = player_of(config.settings, folder, None)
    identity = policy_identity(folder)
    for point_only, tasks in _task_groups(config.tools, config.stage.tasks):
        shed = _open(config, point_only)
        try:
            for task in tasks:
                await _ask(out, config, task, replace(player, shed=shed), identity)
        finally:
            if shed is not None:
                await shed.aclose()
    await player.policy.aclose()


def _task_groups(tools: str, tasks: Sequence[str]) -> list[tuple[bool, list[str]]]:
    """Tasks by tool set: (with step 1's tool alone, tasks)."""
    alone = [task for task in tasks if tools == "point" or (tools == "base" and task == "point")]
    rest = [task for task in tasks if task not in alone]
    return [(only, group) for only, group in ((True, alone), (False, rest)) if group]


def _open(config: EvaluateConfig, point_only: bool) -> Toolshed | None:
    if config.tools == "none":
        return None
    tools = load_tools(config.settings.tools.config)
    return Toolshed.open(tools, show=list(POINT_TOOLS) if point_only else None)


async def _ask(out: Path, config: EvaluateConfig, task: str, player: Player, identity: str) -> None:
    stage = config.stage
    questions = data_sets.questions(out, "test", task)
    pictures = _exchanged(questions) if stage.name == "swapped_image" else None
    asked = Asked(
        out=out / "rows" / f"{stage.name}.jsonl",
        policy=identity,
        prompt_pictures=pictures,
        keep_pictures=config.settings.keep_pictures,
    )
    asking = asking_of(config.settings)
    await evaluate(questions[: stage.greedy(task)], player, asked, asking)
    if stage.num_sampled:
        sampled = replace(asking, temperature=config.settings.temperature, draws=stage.draws)
        await evaluate(questions[: stage.num_sampled], player, asked, sampled)


def _exchanged(questions: Sequence[Question]) -> dict[str, ToolImage]:
    """Each question with the picture of the next one about another scene."""
    sources = [question.images[0] for question in questions]
    exchanged = {}
    for index, question in enumerate(questions):
        others = sources[index + 1 :] + sources[:index]
        other = next(source for source in others if source != question.images[0])
        exchanged[question.id] = load_image(other)
    return exchanged


def tool_ceiling(out: Path, config: EvaluateConfig) -> None:
    """What the tools allow: the scripted teacher over the same questions."""
    asyncio.run(_tool_ceiling(out, config))


async def _tool_ceiling(out: Path, config: EvaluateConfig) -> None:
    shed = _open(config, False)
    player = Player(
        policy=ScriptedPolicy(teach), renderer=None, shed=shed, limits=limits_of(config.settings)
    )
    asked = Asked(out=out / "rows" / f"{CEILING}.jsonl", policy="teacher", keep_pictures=0)
    try:
        for task in config.stage.tasks:
            questions = data_sets.questions(out, "test", task)[: config.stage.greedy(task)]
            await evaluate(questions, player, asked, asking_of(config.settings))
    finally:
        if shed is not None:
            await shed.aclose()
