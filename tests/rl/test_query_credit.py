"""Turn-level credit: the tokens of a call turn answer for its query, the rest for the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rl.algorithms.algorithm import Algorithm
from rl.algorithms.samples import is_informative, to_samples
from rl.algorithms.table import Overrides, algorithm_named
from rl.config import RLConfig
from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.questions.data import load_questions
from rl.rewards.query import query_rewards
from rl.rollout import Job, Player, run_rollouts
from rl.tabletop.dataset import Order, write_dataset
from rl.types import Completion, Question, Reward, SamplingParams, StopReason, Trajectory, Turn
from sft.batch import micro_batches
from sft.render import Renderer
from sft.sample import Span
from toolshed.chat import write_call
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.images import ImageSource
from toolshed.shed import Toolshed
from toolshed.types import Detections, Point, ToolCall, ToolResult

SQUARE = "[(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)]"
INSIDE, OUTSIDE = Point(u=0.5, v=0.5), Point(u=0.1, v=0.9)


def call_turn(*points: Point, image: int = 0) -> Turn:
    call = ToolCall(id="1", name="roborefer.detect_one", arguments={"image_index": image})
    held = Detections(obj_name="place", points=points) if points else None
    status = "ok" if points else "refused"
    return Turn(
        completion=Completion(text="", token_ids=(5, 6), logprobs=(-1.0, -1.0)),
        calls=(call,),
        results=(ToolResult(call_id="1", name=call.name, status=status, held=held),),  # type: ignore[arg-type]
    )


def trajectory(
    answer: float, *turns: Turn, kind: str = "point_free", images: int = 1
) -> Trajectory:
    """Call turns of two tokens with a reply of two each, then an answer of one token."""
    last = Turn(completion=Completion(text="", token_ids=(7,), logprobs=(-1.0,)))
    spans = [Span(start=0, end=2, kind="prompt")]
    for _ in turns:
        at = spans[-1].end
        spans.append(Span(start=at, end=at + 2, kind="sampled"))
        spans.append(Span(start=at + 2, end=at + 4, kind="reply"))
    spans.append(Span(start=spans[-1].end, end=spans[-1].end + 1, kind="sampled"))
    return Trajectory(
        question=Question(
            id="q",
            source="s",
            kind=kind,
            messages=(),
            images=(ImageSource(image="picture.png"),) * images,
            target=SQUARE,
        ),
        sample_index=0,
        seed=0,
        turns=(*turns, last),
        messages=(),
        stop_reason=StopReason.ANSWERED,
        token_ids=tuple(range(10, 10 + spans[-1].end)),
        spans=tuple(spans),
        logprobs=(-1.0,) * (2 * len(turns) + 1),
        reward=Reward(value=answer, accuracy=answer, well_formed=True, answer=""),
    )


def group(answers: list[float], points: list[Point]) -> list[Trajectory]:
    return [trajectory(a, call_turn(p)) for a, p in zip(answers, points, strict=True)]


def advantages(groups: list[list[Trajectory]], rule: Algorithm) -> list[tuple[float, ...]]:
    return [s.span_advantages for s in to_samples(groups, rule, max_tokens=100).samples]


def credit(share: float, name: str = "dapo_static") -> Algorithm:
    return algorithm_named(name, Overrides(query_credit=share))


def test_a_query_is_worth_the_share_of_its_points_inside_the_target() -> None:
    played = trajectory(
        1.0,
        call_turn(INSIDE),
        call_turn(OUTSIDE),
        call_turn(INSIDE, OUTSIDE, OUTSIDE, OUTSIDE),
        call_turn(),
        call_turn(INSIDE, image=1),
    )
    assert query_rewards(played) == (1.0, 0.0, 0.25, None, None, None)


def test_points_of_a_real_session_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "point.parquet"
    write_dataset(path, Order(kinds=("point",), num=3, size=112))

    def script(prompt: Prompt) -> str:
        if prompt.turn:
            return "<answer>(0.0, 0.0)</answer>"
        asked = str(prompt.question.extra["object"])
        return write_call("roborefer.detect_one", {"obj_name": asked, "image_index": 0})

    async def play() -> list[Trajectory]:
        tools = parse_tools({"roborefer": {"backend": "light"}, "host": "local"})
        async with Toolshed.open(tools) as shed:
            player = Player(policy=ScriptedPolicy(script), renderer=None, shed=shed)
            jobs = [Job(question=q, sampling=SamplingParams()) for q in load_questions(path)]
            return [t async for _, t in run_rollouts(jobs, player, width=3)]

    rewards = [(each.results[0].status, query_rewards(each)) for each in asyncio.run(play())]
    # The light tool does not find everything that is black.
    expected = {"ok": (1.0, None), "refused": (None, None)}
    assert len(rewards) == 3 and ("ok", expected["ok"]) in rewards
    assert all(got == expected[status] for status, got in rewards), rewards


def test_only_questions_about_a_place_in_one_picture_have_query_rewards() -> None:
    assert query_rewards(trajectory(1.0, call_turn(INSIDE), kind="number")) == (None, None)
    assert query_rewards(trajectory(1.0, call_turn(INSIDE), images=2)) == (None, None)


def test_it_is_off_unless_asked_for() -> None:
    groups = [group([1.0, 0.0], [INSIDE, OUTSIDE])]
    assert advantages(groups, credit(0.0)) == [(), ()]


def test_whole_credit_by_hand() -> None:
    groups = [group([1, 0, 1, 0], [INSIDE, INSIDE, OUTSIDE, OUTSIDE])]
    assert advantages(groups, credit(1.0)) == [(1, 1), (1, -1), (-1, 1), (-1, -1)]


def test_half_credit_by_hand() -> None:
    groups = [group([1, 0, 1, 0], [INSIDE, INSIDE, OUTSIDE, OUTSIDE])]
    # Query turns: 1, 1/2, 1/2, 0; standard deviation sqrt(1/8).
    root = 2**0.5
    got = advantages(groups, credit(0.5))
    assert [each[0] for each in got] == pytest.approx([root, 0, 0, -root])
    assert [each[1] for each in got] == [1, -1, 1, -1]


def test_leave_one_out_over_queries_by_hand() -> None:
    # Queries 1, 0, 0 of two siblings: 1 - 0, 0 - 1/2, 0 - 1/2; answers 1, 0.
    groups = [
        [
            trajectory(1.0, call_turn(INSIDE), call_turn(OUTSIDE)),
            trajectory(0.0, call_turn(OUTSIDE)),
        ]
    ]
    assert advantages(groups, credit(1.0, "rloo")) == [(1.0, -0.5, 1.0), (-0.5, -1.0)]


def test_queries_that_differ_make_a_group_informative() -> None:
    alike = group([0, 0], [INSIDE, OUTSIDE])
    assert not is_informative(alike, credit(0.0), 100)
    assert is_informative(alike, credit(1.0), 100)
    assert advantages([alike], credit(1.0)) == [(1, 0), (-1, 0)]


def test_a_turn_without_points_answers_for_the_answer() -> None:
    groups = [
        [trajectory(1.0, call_turn(), call_turn(INSIDE)), trajectory(0.0, call_turn(OUTSIDE))]
    ]
    assert advantages(groups, credit(1.0)) == [(1, 1, 1), (-1, -1)]


def test_each_token_of_a_micro_batch_has_its_turns_advantage(tiny: Path) -> None:
    groups = [group([1, 0], [OUTSIDE, INSIDE])]
    samples = to_samples(groups, credit(1.0), max_tokens=100).samples
    (batch,) = micro_batches(samples, Renderer.load(tiny), max_tokens=100)
    assert batch.advantages_N.tolist() == [-1, -1, 1, 1, 1, -1]
    assert batch.sequence_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.length_S.tolist() == [3, 3]


def test_the_control_without_information_refuses_it() -> None:
    with pytest.raises(ConfigError, match=r"set overrides\.query_credit=0"):
        RLConfig(shuffle_rewards=True, overrides=Overrides(query_credit=0.5))
