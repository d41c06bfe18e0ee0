"""Recorded conversations played again through our own parser, session and argument checks.

Calls are written in the released syntax, the tools are those of ``v1`` with our own contracts, and
what they reply is what was recorded; everything that we count of them must be as recorded.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.chains import Chain, chain_of
from rl.policy.base import Prompt
from rl.policy.scripted import ScriptedPolicy
from rl.questions.data import data_uri
from rl.rollout import Job, Player, run_rollouts
from rl.show.episode import CallRecord, Episode, TurnRecord, episode_of
from rl.types import Question, SamplingParams, Trajectory
from tests.toolshed.fake_tools import picture
from toolshed.backend import Answer, Request
from toolshed.chat import parse_calls
from toolshed.config import load_tools
from toolshed.errors import ToolRefusal
from toolshed.images import ImageSource
from toolshed.shed import Toolshed
from toolshed.toolset import ToolSet
from toolshed.types import Message, Point, TextReply, Variable

Json = Any
ERROR = "Error: "
KEPT = {
    each.name: each
    for each in (
        Variable(name="depth_map", kind="depth_map", value=np.ones((8, 8), dtype=np.float32)),
        Variable(name="point_cloud", kind="point_cloud", value=np.ones((64, 3), dtype=np.float32)),
        Variable(name="focal_length_px", kind="number", value=500.0),
        Variable(name="segmentation_mask", kind="mask", value=np.ones((8, 8), dtype=np.bool_)),
    )
}
"""What the tools behind these names keep; of the pictures of these questions nothing is known."""
NOT_MADE = ("TypeError: ",)
"""How the release's replies begin where a call could not be made with these arguments."""


def variable(name: str) -> Variable:
    """What a recorded reply announces."""
    if name.endswith("_detections"):
        return Variable(name=name, kind="points", value=(Point(u=0.5, v=0.5),))
    return KEPT[name]


class RecordedHost:
    """Answers the calls of one conversation with their recorded texts."""

    def __init__(self, record: Json) -> None:
        self.turn = -1
        self._replies: dict[tuple[int, str], list[str]] = {}
        for number, turn in enumerate(record["trajectory"]):
            for call, reply in zip(turn["tool_calls"], turn["tool_responses"], strict=True):
                assert call["name"] == reply["name"]
                self._replies.setdefault((number, call["name"]), []).append(reply["text"])

    async def call(self, request: Request) -> Answer:
        text = self._replies[self.turn, request.name].pop(0)
        if text.startswith(ERROR):
            raise ToolRefusal("recorded", text.removeprefix(ERROR))
        kept = tuple(map(variable, re.findall(r"\$(\w+)", text)))
        return Answer(text=text, value=TextReply(text=text, variables=kept), variables=kept)

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


def said(turn: Json) -> str:
    """One recorded turn of the assistant in the released syntax."""
    words = "".join(f"<think>{thought}</think>\n" for thought in turn["think"] or ())
    for call in turn["tool_calls"]:
        inside = json.dumps({"name": call["name"], "arguments": call["arguments"]})
        words += f"<tool_call>\n{inside}\n</tool_call>\n"
    if turn["answer"] is not None:
        words += f"<answer>{turn['answer']}</answer>"
    return words


def replay(record: Json, uri: str) -> Trajectory:
    host = RecordedHost(record)

    def script(prompt: Prompt) -> str:
        host.turn = prompt.turn
        return said(record["trajectory"][prompt.turn])

    question = Question(
        id=f"{record['benchmark']}/{record['sample_id']}",
        source=record["benchmark"],
        kind="",
        messages=(
            Message(role="system", text="Call tools."),
            Message(role="user", text=f"<image>{record['question']}", num_images=1),
        ),
        images=(ImageSource(image=uri),),
        target=record["ground_truth"],
    )
    config = load_tools("v1")
    shed = Toolshed(config, ToolSet.of(config), host)
    player = Player(policy=ScriptedPolicy(script), renderer=None, shed=shed)

    async def play() -> Trajectory:
        jobs = [Job(question=question, sampling=SamplingParams(temperature=0.0))]
        found = [trajectory async for _, trajectory in run_rollouts(jobs, player, width=1)]
        return found[0]

    return asyncio.run(play())


def conversations(folder: Path) -> Iterator[Json]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["trajectory"] is not None:
                yield record


@pytest.fixture(scope="module")
def uri() -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture().pixels).save(buffer, "PNG")
    return data_uri(buffer.getvalue())


@pytest.fixture(scope="module")
def replayed(recorded_eval: Path, uri: str) -> list[tuple[Json, Trajectory]]:
    return [(record, replay(record, uri)) for record in conversations(recorded_eval)]


Replayed = list[tuple[Json, Trajectory]]


@pytest.mark.shared
def test_every_conversation_is_there(replayed: Replayed) -> None:
    assert len(replayed) == 96
    assert sum(len(turn["tool_calls"]) for r, _ in replayed for turn in r["trajectory"]) == 259


@pytest.mark.shared
def test_calls_are_parsed_as_recorded(replayed: Replayed) -> None:
    for record, trajectory in replayed:
        assert not any(turn.errors for turn in trajectory.turns)
        written = [turn["tool_calls"] for turn in record["trajectory"]]
        parsed = [
            [{"name": call.name, "arguments": call.arguments} for call in turn.calls]
            for turn in trajectory.turns
        ]
        assert parsed == written, trajectory.question.id


@pytest.mark.shared
def test_chains_and_turns_are_as_recorded(replayed: Replayed) -> None:
    for record, trajectory in replayed:
        chain = chain_of(episode_of(trajectory))
        name = trajectory.question.id
        assert chain.signature == record["chain_signature"], name
        assert chain.verl_turns == record["num_turns_verl_convention"], name
        assert chain.num_calls == record["n_tool_calls"], name
        assert chain.families == record["tool_stats"], name
        assert chain.methods == record["tool_stats_by_method"], name
        assert str(trajectory.stop_reason) == "answered", name


@pytest.mark.shared
def test_the_final_answer_is_as_recorded(replayed: Replayed) -> None:
    for record, trajectory in replayed:
        assert episode_of(trajectory).answer == record["raw_answer"], trajectory.question.id


@pytest.mark.shared
def test_replies_are_read_as_recorded_and_refused_is_what_was(replayed: Replayed) -> None:
    """Our checks refuse the calls that the release could not make either, and no other."""
    refused = []
    for record, trajectory in replayed:
        recorded = [each for turn in record["trajectory"] for each in turn["tool_responses"]]
        for call, result, reply in zip(trajectory.calls, trajectory.results, recorded, strict=True):
            assert (result.status == "ok") == (not reply["text"].startswith(ERROR)), call
            if result.reason in ("", "recorded"):
                assert result.text == reply["text"], call
            else:
                assert reply["text"].startswith(tuple(ERROR + each for each in NOT_MADE)), call
                refused.append((call.name, result.text))
    assert [name for name, _ in refused] == ["bounding_box.compute_bbox"] * 2
    assert 'point_cloud: no variable "$point_cloud"' in refused[0][1]
    assert "compute_bbox needs mask" in refused[1][1]


@pytest.mark.shared
def test_variables_are_those_of_the_record(replayed: Replayed) -> None:
    for record, trajectory in replayed:
        kept = {each.name for result in trajectory.results for each in result.variables}
        used = {
            value[1:]
            for call in trajectory.calls
            for value in call.arguments.values()
            if isinstance(value, str) and value.startswith("$")
        }
        assert kept == set(record["vars_exposed"])
        assert used == set(record["vars_used"])
        assert used - kept == set(record["vars_phantom"])


# ---- without the records ----------------------------------------------------------------------


def test_a_chain_counts_calls_and_turns() -> None:
    def turn(text: str, errors: tuple[str, ...] = ()) -> TurnRecord:
        calls = tuple(
            CallRecord(name=call.name, arguments=call.arguments, status="refused")
            for call in parse_calls(text).calls
        )
        return TurnRecord(text=text, calls=calls, errors=errors)

    call = '<tool_call>{"name": "sam2.segment_from_point", "arguments": {}}</tool_call>'
    other = '<tool_call>{"name": "bounding_box.compute_bbox", "arguments": {}}</tool_call>'
    turns = (turn(call + call + other), turn("", errors=("not JSON",)), turn("<answer>A</answer>"))
    episode = Episode(question_id="q", source="s", kind="choice", question="?", pictures=())
    assert chain_of(episode) == Chain(turns=0, verl_turns=1)
    chain = chain_of(dataclasses.replace(episode, turns=turns))
    assert (chain.signature, chain.verl_turns) == ("bounding_boxx1+sam2x2@3t", 6)
    assert chain.methods == {"bounding_box.compute_bbox": 1, "sam2.segment_from_point": 2}
    alone = chain_of(dataclasses.replace(episode, turns=turns[2:]))
    assert (alone.signature, alone.verl_turns, alone.num_calls) == ("@1t", 2, 0)
