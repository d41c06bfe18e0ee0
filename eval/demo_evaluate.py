"""How the demo examines its stages: the same questions for all, each with the stage's own tools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eval import demo_data
from eval.evaluate import Asked, Asking, evaluate
from eval.identity import policy_identity
from eval.stages import BY_NAME, TASKS, Stage
from rl.player import load_player
from rl.policy.scripted import ScriptedPolicy
from rl.rewards import DEMO_RULE
from rl.rollout import Limits, Player
from rl.teacher import teach
from rl.types import Question
from sft.checkpoint import resolve_checkpoint
from toolshed.config import load_tools
from toolshed.images import load_image
from toolshed.shed import Toolshed
from toolshed.types import ToolImage

WIDTH = 64
MAX_LENGTH = 320
LIMITS = Limits(max_turns=7, max_tokens=220)
SAMPLED_TOKENS = 64
"""Of one turn."""
POINT_TOOLS = ("roborefer.detect_one",)
FOLDERS = {"base_raw": "base/raw", "swapped_image": "full_rl"}
"""Checkpoint of a stage that is not named after its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """What the answers of a stage depend on besides its weights."""

    stage: str
    tools: str
    """``demo`` (all), ``point`` (step 1's), ``base`` (step 1's for ``point``), ``none``."""
    seed: int
    smoke: bool

    def stage_plan(self) -> Stage:
        plan = BY_NAME[self.stage]
        if not self.smoke:
            return plan
        sampled = 4 if plan.num_sampled else 0
        return replace(plan, num_greedy=4, num_greedy_nearer=4, num_sampled=sampled)


def evaluate_stage(out: Path, config: EvaluateConfig) -> None:
    """Append the stage's rows to ``rows/STAGE.jsonl``; what is there is not asked again."""
    asyncio.run(_evaluate_stage(out, config))


async def _evaluate_stage(out: Path, config: EvaluateConfig) -> None:
    plan = config.stage_plan()
    folder = resolve_checkpoint(out / FOLDERS.get(config.stage, config.stage))
    player = load_player(folder, None, limits=LIMITS, width=WIDTH, max_length=MAX_LENGTH)
    identity = policy_identity(folder)
    for point_only, tasks in _task_groups(config.tools, plan.tasks):
        shed = _open(out, config.tools, point_only)
        try:
            for task in tasks:
                await _ask(out, config, plan, task, replace(player, shed=shed), identity)
        finally:
            if shed is not None:
                await shed.aclose()
    await player.policy.aclose()


def _task_groups(tools: str, tasks: Sequence[str]) -> list[tuple[bool, list[str]]]:
    """Tasks by tool set: (with step 1's tool alone, tasks)."""
    alone = [task for task in tasks if tools == "point" or (tools == "base" and task == "point")]
    rest = [task for task in tasks if task not in alone]
    return [(only, group) for only, group in ((True, alone), (False, rest)) if group]


def _open(out: Path, tools: str, point_only: bool) -> Toolshed | None:
    if tools == "none":
        return None
    return Toolshed.open(
        load_tools(out / "tools.yaml"), show=list(POINT_TOOLS) if point_only else None
    )


async def _ask(
    out: Path, config: EvaluateConfig, plan: Stage, task: str, player: Player, identity: str
) -> None:
    questions = demo_data.questions(out, "test", task)
    pictures = _exchanged(questions) if config.stage == "swapped_image" else None
    asked = Asked(
        out=out / "rows" / f"{config.stage}.jsonl", policy=identity, prompt_pictures=pictures
    )
    asking = Asking(max_tokens=SAMPLED_TOKENS, width=WIDTH, seed=config.seed, rule=DEMO_RULE)
    await evaluate(questions[: plan.greedy(task)], player, asked, asking)
    if plan.num_sampled:
        sampled = replace(asking, temperature=1.0, draws=plan.draws)
        await evaluate(questions[: plan.num_sampled], player, asked, sampled)


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
    shed = _open(out, config.tools, False)
    player = Player(policy=ScriptedPolicy(teach), renderer=None, shed=shed, limits=LIMITS)
    asked = Asked(out=out / "rows" / "tool_ceiling.jsonl", policy="teacher", keep_pictures=0)
    asking = Asking(width=WIDTH, seed=config.seed, rule=DEMO_RULE)
    try:
        for task in TASKS:
            questions = demo_data.questions(out, "test", task)
            await evaluate(questions[:4] if config.smoke else questions, player, asked, asking)
    finally:
        if shed is not None:
            await shed.aclose()
