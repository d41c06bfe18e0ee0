"""Wiring proven apart from learning: right tool use scores 1.0, wrong use 0.0, in real sessions.

The teacher plays over exact back-ends for every kind and over the light ones for the printed
ceiling; the saboteur plays over the light ones.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.questions.data import load_questions
from rl.rewards import DEMO_RULE, KINDS, RewardRule, score
from rl.rollout import Job, Player, run_rollouts
from rl.tabletop.dataset import Order, write_dataset
from rl.tabletop.kinds import TASK_KINDS, Shot
from rl.tabletop.teacher import teach
from rl.tabletop.wording import DEMO_KINDS
from rl.types import Question, SamplingParams, StopReason, Trajectory
from tests.rl import oracle_tools
from tests.rl.saboteur import saboteur
from toolshed.images import load_image
from toolshed.shed import Toolshed
from toolshed.tabletop.render import render
from toolshed.tabletop.scene import make_scene

SEED = 4242
CEILINGS = {"point": 0.97, "depth": 0.95, "leftmost": 0.95, "nearer": 0.95}
"""Least accuracy of the teacher over the light tools on the demo's kinds."""

ORACLES = {
    "vision_ops": "OracleVisionOps",
    "bounding_box": "OracleBoxes",
    "sam2": "OracleSegmentation",
    "grasp_generator": "OracleGrasping",
    "depth_estimator": "OracleDepth",
    "roborefer": "OraclePointing",
    "robot": "OracleRobot",
}


def oracle_config(folder: Path, replies: str) -> Path:
    """A tool YAML whose every back-end is exact."""
    families = {
        name: {"backend": f"tests.rl.oracle_tools:{found}"} for name, found in ORACLES.items()
    }
    path = folder / f"oracle_{replies}.yaml"
    path.write_text(yaml.safe_dump({"replies": replies, "host": "local"} | families))
    return path


def play(
    questions: Sequence[Question],
    script: Callable[[Prompt], str],
    config: str | Path,
    rule: RewardRule,
) -> list[Trajectory]:
    """Scored trajectories, in the order of the questions."""

    async def run() -> list[Trajectory]:
        async with Toolshed.open(config, host="local") as shed:
            player = Player(policy=ScriptedPolicy(script), renderer=None, shed=shed)
            jobs = [
                Job(question=question, sampling=SamplingParams(), seed=index)
                for index, question in enumerate(questions)
            ]
            found = [item async for item in run_rollouts(jobs, player, width=4)]
        played = [trajectory for _, trajectory in sorted(found, key=lambda item: item[0])]
        return [replace(t, reward=score(t.question, t, rule)) for t in played]

    return asyncio.run(run())


def accuracies(played: Sequence[Trajectory]) -> dict[str, float]:
    """Mean accuracy by kind of question; a trajectory without reward is an error here."""
    found: dict[str, list[float]] = {}
    for trajectory in played:
        assert trajectory.reward is not None, trajectory.failure
        kind = trajectory.question.source.removeprefix("tabletop-")
        found.setdefault(kind, []).append(trajectory.reward.accuracy)
    return {kind: sum(values) / len(values) for kind, values in found.items()}


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    out = tmp_path_factory.mktemp("oracle") / "questions.parquet"
    write_dataset(out, Order(kinds=tuple(TASK_KINDS), num=3, seed=SEED))
    loaded = load_questions(out)
    for question in loaded:
        for source in question.images:
            style, seed = Path(source.image).stem.split("-")[-2:]
            scene = make_scene(int(seed), next(t.style for t in TASK_KINDS.values()
                                               if t.style.name == style))  # fmt: skip
            shot = Shot(scene=scene, rendering=render(scene, noise_seed=scene.seed))
            oracle_tools.remember(load_image(source), shot)
    return loaded


def of(questions: Sequence[Question], kinds: Sequence[str]) -> list[Question]:
    return [each for each in questions if each.source.removeprefix("tabletop-") in kinds]


def test_teacher_scores_one_on_every_kind(questions: list[Question], tmp_path: Path) -> None:
    rule = RewardRule(correct=0.7, format=0.3, pose="iou")
    played = play(questions, teach, oracle_config(tmp_path, "released"), rule)
    assert accuracies(played) == {kind: pytest.approx(1.0, abs=1e-9) for kind in TASK_KINDS}
    assert {trajectory.question.kind for trajectory in played} == set(KINDS)
    for trajectory in played:
        assert trajectory.reward is not None and trajectory.stop_reason is StopReason.ANSWERED
        assert trajectory.reward.value == pytest.approx(1.0), trajectory.messages
        assert all(result.status == "ok" for result in trajectory.results)
        called = {call.name for call in trajectory.calls}
        kind = trajectory.question.source.removeprefix("tabletop-")
        # The oracle points at free places; for other tools the teacher falls back on a box.
        assert called == set(TASK_KINDS[kind].tools[: 1 if kind == "point_free" else None])


def test_teacher_scores_one_with_compact_replies(questions: list[Question], tmp_path: Path) -> None:
    demo = of(questions, DEMO_KINDS)
    played = play(demo, teach, oracle_config(tmp_path, "compact"), DEMO_RULE)
    assert accuracies(played) == dict.fromkeys(DEMO_KINDS, 1.0)
    num_calls = {t.question.source: len(t.calls) for t in played}
    assert sorted(num_calls.values()) == [1, 3, 3, 5]


def test_teacher_thinks_before_every_step_of_the_released_kinds(
    questions: list[Question], tmp_path: Path
) -> None:
    others = of(questions, [kind for kind in TASK_KINDS if kind not in DEMO_KINDS])
    rule = RewardRule(correct=0.5, format=0.5, well_formed="thinking", pose="iou")
    played = play(others, teach, oracle_config(tmp_path, "released"), rule)
    assert all(t.reward is not None and t.reward.well_formed for t in played)


def test_tool_ceiling_of_the_light_back_ends(
    questions: list[Question], capsys: pytest.CaptureFixture[str]
) -> None:
    demo = accuracies(play(of(questions, DEMO_KINDS), teach, "demo", DEMO_RULE))
    others = of(questions, [kind for kind in TASK_KINDS if kind not in DEMO_KINDS])
    light = accuracies(play(others, teach, "light", RewardRule()))
    with capsys.disabled():
        shown = ", ".join(f"{kind} {value:.2f}" for kind, value in (demo | light).items())
        print(f"\ntool ceiling (light back-ends, 3 questions a kind): {shown}")
    assert all(demo[kind] >= least for kind, least in CEILINGS.items())
    assert min(light.values()) > 0.5


def test_every_number_of_a_demo_trace_was_read(questions: list[Question]) -> None:
    for trajectory in play(of(questions, DEMO_KINDS), teach, "demo", DEMO_RULE):
        for place, message in enumerate(trajectory.messages):
            if message.role == "assistant":
                known = "".join(m.text for m in trajectory.messages[1:place])
                assert all(n in known for n in _numbers(message.text)), message.text


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+", text)


@pytest.mark.parametrize("rule", [RewardRule(), DEMO_RULE])
def test_saboteur_scores_zero_and_breaks_nothing(
    questions: list[Question], rule: RewardRule
) -> None:
    for trajectory in play(questions * 3, saboteur, "light", rule):
        assert trajectory.reward is not None, trajectory.failure
        assert trajectory.reward.value == trajectory.reward.accuracy == 0.0
        assert all(result.status != "failed" for result in trajectory.results)
        for message in trajectory.messages[2:]:
            if message.role == "user":
                assert message.text.count("<image>") == message.num_images
