"""Turns played behind an API, against a strict server of both protocols on this machine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rl.policy.openai_api import PICTURES_OF_REPLIES
from rl.show.episode import episode_of
from rl.types import StopReason
from tests.rl.api_play import ANSWER, LEFT, POINTS, PROVIDERS, config, play
from tests.rl.camera_tools import camera_shed
from tests.rl.provider_rules import KEY
from tests.rl.provider_server import Says, provider
from toolshed.chat import write_call


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


# ---- turns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_plain_answer(name: str) -> None:
    with provider(ANSWER) as server:
        (trajectory,), policy = play(config(server, name), tools=False)
    assert trajectory.stop_reason == StopReason.ANSWERED
    assert trajectory.final_text == ANSWER.text
    assert "tools" not in server.requests[0]
    assert server.requests[0]["temperature"] == 0
    assert policy.usage.tokens.output == 10 and policy.usage.tokens.cached == 20
    assert policy.usage.cost_usd is None and "cost unknown" in policy.usage.line()
    assert policy.usage.trajectories == {"q0/0/0": policy.usage.tokens}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_chain_of_calls_with_a_picture_in_a_reply(name: str) -> None:
    calls = [Says(text="I look.", calls=(LEFT,)), Says(calls=(POINTS,)), ANSWER]
    with provider(*calls) as server:
        (trajectory,), _ = play(config(server, name))
    assert trajectory.stop_reason == StopReason.ANSWERED
    left = write_call("camera.left", {"image_index": 0})
    assert trajectory.turns[0].completion.text == f"I look.\n{left}"
    assert trajectory.turns[1].completion.text == write_call("camera.points", {"num": 2})
    assert [result.status for result in trajectory.results] == ["ok", "ok"]
    assert len(trajectory.images) == 2
    last = json.dumps(server.requests[-1])
    assert "<tool_call>" not in last and "<tool_response>" not in last
    assert last.count("base64") == 2
    if name == "openai":
        roles = [message["role"] for message in server.requests[-1]["messages"]]
        assert roles == ["system", "user", "assistant", "tool", "user", "assistant", "tool"]
        assert server.requests[-1]["messages"][4]["content"][0]["text"] == PICTURES_OF_REPLIES


@pytest.mark.parametrize("name", PROVIDERS)
def test_calls_in_parallel_even_more_than_are_run(name: str) -> None:
    with provider(Says(text="Look.", calls=(LEFT, POINTS, *[LEFT] * 8)), ANSWER) as server:
        (trajectory,), _ = play(config(server, name))
    assert len(trajectory.turns[0].calls) == 8
    assert [error.reason for error in trajectory.turns[0].errors] == ["excess"] * 2
    assert trajectory.stop_reason == StopReason.ANSWERED
    last = json.dumps(server.requests[-1])
    assert last.count("only 8 calls are made in one turn") == 2


def test_arguments_that_are_no_json_are_refused_and_read_back_as_text() -> None:
    broken = Says(calls=(("camera__points", '{"num": 2'), POINTS))
    with provider(broken, ANSWER) as server:
        (trajectory,), _ = play(config(server))
    assert [error.reason for error in trajectory.turns[0].errors] == ["malformed"]
    assert len(trajectory.turns[0].calls) == 1
    assert '"num": 2' in trajectory.turns[0].completion.text
    again = server.requests[-1]["messages"][2]
    assert again == {"role": "assistant", "content": trajectory.turns[0].completion.text}
    assert trajectory.stop_reason == StopReason.ANSWERED


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_tool_that_nobody_has_is_refused(name: str) -> None:
    with provider(Says(calls=(("weather__today", "{}"),)), ANSWER) as server:
        (trajectory,), _ = play(config(server, name))
    assert trajectory.calls[0].name == "weather.today"
    assert trajectory.results[0].status == "refused"
    assert trajectory.stop_reason == StopReason.ANSWERED


@pytest.mark.parametrize("name", PROVIDERS)
def test_calls_as_text_are_asked_for_as_our_own_checkpoints_are(name: str) -> None:
    call = write_call("camera.points", {"num": 2})
    with provider(Says(text=call), ANSWER) as server:
        (trajectory,), _ = play(config(server, name, calls="text"))
    assert trajectory.results[0].status == "ok"
    last = json.dumps(server.requests[-1])
    assert "tools" not in server.requests[-1]
    assert "# Tools" in last and "<tool_response>" in last


def test_native_tools_are_not_written_into_the_system_turn() -> None:
    with provider(ANSWER) as server:
        play(config(server))
    system = server.requests[0]["messages"][0]["content"]
    assert system == "Answer the question about the picture."
    names = [tool["function"]["name"] for tool in server.requests[0]["tools"]]
    assert names == [spec.name.replace(".", "__") for spec in camera_shed().specs]


def test_hints_for_the_cache_cover_system_and_pictures() -> None:
    with provider(Says(calls=(LEFT,)), ANSWER) as server:
        play(config(server, "anthropic"))
    last = server.requests[-1]
    assert "cache_control" in last["system"][-1]
    assert ["cache_control" in json.dumps(message) for message in last["messages"]] == [
        True, False, True,
    ]  # fmt: skip


def test_what_a_provider_wants_back_comes_back() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    said = Says(calls=(LEFT,), edit=lambda answer: answer["content"].insert(0, thinking))
    with provider(said, ANSWER) as server:
        play(config(server, "anthropic"))
    assert server.requests[-1]["messages"][1]["content"][0] == thinking

    def sign(answer: dict[str, Any]) -> None:
        answer["choices"][0]["message"]["tool_calls"][0]["extra_content"] = {"google": {"s": "x"}}

    with provider(Says(calls=(LEFT,), edit=sign), ANSWER) as server:
        play(config(server))
    call = server.requests[-1]["messages"][2]["tool_calls"][0]
    assert call["extra_content"] == {"google": {"s": "x"}}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_refusal_is_an_answer_and_a_cut_turn_is_cut(name: str) -> None:
    with provider(Says(text="I cannot say.", finish="refusal")) as server:
        (trajectory,), policy = play(config(server, name))
    assert trajectory.stop_reason == StopReason.ANSWERED
    assert episode_of(trajectory).turns[0].finish == "refusal"
    assert policy.usage.refusals == 1
    with provider(Says(text="Once upon", finish="length")) as server:
        (trajectory,), _ = play(config(server, name))
    assert trajectory.stop_reason == StopReason.MAX_TOKENS
