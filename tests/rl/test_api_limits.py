"""What breaks, costs and is limited behind an API: retries, time-outs, the ledger, settings."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rl.policy.api import ApiPolicy
from rl.policy.api_config import ApiConfig
from rl.policy.prices import CostLimitReached
from rl.rollout import Job, Player, run_episode
from rl.types import SamplingParams, StopReason
from tests.rl.api_play import ANSWER, LEFT, PROVIDERS, config, play
from tests.rl.provider_rules import KEY
from tests.rl.provider_server import Says, provider
from tests.rl.reader import question
from toolshed.errors import ConfigError
from toolshed.toolset import ToolSet


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


# ---- what breaks ----------------------------------------------------------------------------


def test_a_server_that_asks_to_wait_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    busy = Says(status=429, text="slow down", headers={"Retry-After": "1"})
    with provider(busy, ANSWER) as server, caplog.at_level(logging.WARNING):
        (trajectory,), policy = play(config(server), tools=False)
    assert trajectory.stop_reason == StopReason.ANSWERED
    assert trajectory.seconds >= 0.95
    assert policy.usage.retries == 1 and len(server.requests) == 2
    assert "answers 429" in caplog.text and "retry 1 of 2 in 1.0 s" in caplog.text


def test_a_server_that_asks_for_too_long_is_given_up() -> None:
    with provider(Says(status=429, headers={"Retry-After": "3600"})) as server:
        (trajectory,), _ = play(config(server), tools=False)
    assert "asks to wait 3600 s" in trajectory.failure
    assert trajectory.stop_reason == StopReason.TOOL_FAILURE and len(server.requests) == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Says(status=500, text="boom"), "server_error"),
        (Says(status=529, text="overloaded"), "server_error"),
        (Says(raw="<html>"), "bad_response"),
        (Says(raw='{"choices": []}'), "bad_response"),
        (Says(raw='{"choices": "none"}'), "bad_response"),
        (Says(finish="abort"), "aborted"),
        (Says(delay_s=0.6), "timeout"),
    ],
)
def test_a_broken_server_is_a_failure_of_the_machine_and_no_answer(said: Says, reason: str) -> None:
    with provider(said) as server:
        (trajectory,), policy = play(config(server, timeout_s=0.2))
    assert trajectory.stop_reason == StopReason.TOOL_FAILURE
    assert not trajectory.stop_reason.is_trainable
    assert trajectory.turns == () and trajectory.reward is None
    assert trajectory.failure.startswith(f"policy: {reason}: ")
    assert "after 2 retries" in trajectory.failure
    assert len(server.requests) == 3 and policy.usage.retries == 2
    assert policy.usage.lost == (0 if reason == "server_error" else 3)


def test_nobody_there_is_a_failure_of_the_machine() -> None:
    with provider(ANSWER) as server:
        settings = config(server)
    (trajectory,), policy = play(settings)
    assert trajectory.failure.startswith("policy: unreachable: ")
    assert policy.usage.lost == 0


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "change what is said to be wrong"),
        (401, "check the key in the variable TEST_KEY"),
        (403, "check the key in the variable TEST_KEY"),
        (404, "check the model's name, api.base_url and api.provider"),
        (302, "check the model's name, api.base_url and api.provider"),
    ],
)
def test_what_the_user_has_to_mend_stops_at_once(status: int, words: str) -> None:
    told = Says(status=status, text=f"no, {KEY} is wrong")
    with provider(told) as server, pytest.raises(ConfigError) as stopped:
        play(config(server))
    assert len(server.requests) == 1
    assert f"answers {status} for model toy" in str(stopped.value)
    assert words in str(stopped.value)
    assert KEY not in str(stopped.value) and "***" in str(stopped.value)


@pytest.mark.parametrize("secret", ["red cube", "x"])
def test_an_answer_stays_whole_whatever_the_key(
    secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tests.rl.provider_rules.KEY", secret)
    monkeypatch.setenv("TEST_KEY", secret)
    with provider(Says(text="<answer>red cube x</answer>")) as server:
        (trajectory,), _ = play(config(server, raw_dir=str(tmp_path)), tools=False)
    assert trajectory.final_text == "<answer>red cube x</answer>"
    kept = json.loads(next(tmp_path.iterdir()).read_text())
    hidden = "<answer>*** x</answer>" if len(secret) == 8 else trajectory.final_text
    assert kept["reply"]["choices"][0]["message"]["content"] == hidden


def test_an_empty_account_is_not_waited_for() -> None:
    told = Says(status=429, raw='{"error": {"code": "insufficient_quota"}}')
    with provider(told) as server, pytest.raises(ConfigError, match="nothing left"):
        play(config(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_model_that_rejects_the_temperature_is_asked_without(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def script(body: dict[str, Any]) -> Says | None:
        told = "`temperature` is deprecated for this model."
        return Says(status=400, text=told) if "temperature" in body else None

    with provider(ANSWER) as server, caplog.at_level(logging.WARNING):
        server.script = script
        trajectories, policy = play(config(server, name), num=3)
    assert all(each.stop_reason == StopReason.ANSWERED for each in trajectories)
    assert caplog.text.count("toy rejects temperature") == 1
    assert policy.usage.retries == 0 and policy.usage.requests == 3


def test_an_older_server_knows_an_older_word() -> None:
    def script(body: dict[str, Any]) -> Says | None:
        told = "Unsupported parameter: 'max_completion_tokens'"
        return Says(status=400, text=told) if "max_completion_tokens" in body else None

    with provider(ANSWER) as server:
        server.script = script
        play(config(server))
    assert server.requests[-1]["max_tokens"] == 50
    with (
        provider(Says(status=400, text="max_completion_tokens is too large: 50")) as server,
        pytest.raises(ConfigError, match="too large"),
    ):
        play(config(server))


# ---- limits ---------------------------------------------------------------------------------


def test_the_cost_is_summed_and_its_limit_is_kept() -> None:
    prices = [1000.0, 100.0, 2000.0]
    with provider(Says(text="a", usage=(100, 20, 10))) as server:
        settings = config(server, prices=prices)
        _, policy = play(settings, tools=False, num=2)
        cost = policy.usage.cost_usd
        assert cost == pytest.approx(2 * (100 * 1e-3 + 20 * 1e-4 + 10 * 2e-3))
        assert len(policy.usage.trajectories) == 2
        asked = len(server.requests)
        with pytest.raises(CostLimitReached, match="raise the limit"):
            play(replace(settings, cost_limit_usd=1.0), tools=False)
        assert len(server.requests) == asked, "the limit is kept before anything is sent"
    with provider(ANSWER) as server, pytest.raises(ConfigError, match="prices of toy are unknown"):
        play(config(server, cost_limit_usd=1.0))


def test_the_limit_stops_a_run_under_way_before_it_is_exceeded() -> None:
    with provider(Says(text="a", usage=(4000, 0, 10))) as server:
        settings = config(server, prices=[100.0, 10.0, 100.0], cost_limit_usd=4.0, concurrent=1)
        with pytest.raises(CostLimitReached) as stopped:
            play(settings, tools=False, num=40)
    spent = 0.401 * len(server.requests)
    assert 1 <= len(server.requests) < 40 and spent <= 4.0
    assert "are spent" in str(stopped.value)


def test_requests_under_way_are_waited_for_where_the_limit_is_near() -> None:
    """Each may cost far more than it does: one after the other they all fit, and none is lost."""
    with provider(Says(text="a", usage=(10, 0, 1), delay_s=0.02)) as server:
        settings = config(server, prices=[10.0, 10.0, 10.0], cost_limit_usd=0.3)
        trajectories, policy = play(settings, tools=False, num=8)
    assert [each.stop_reason for each in trajectories] == [StopReason.ANSWERED] * 8
    assert server.most_at_once < 8 and policy.usage.lost == 0


def test_few_requests_at_once_and_few_in_a_minute() -> None:
    with provider(Says(text="a", delay_s=0.05)) as server:
        play(config(server, concurrent=2), tools=False, num=6)
        assert server.most_at_once == 2
    with provider(Says(text="a")) as server:
        trajectories, _ = play(config(server, requests_per_minute=600), tools=False, num=4)
        assert max(each.seconds for each in trajectories) >= 0.29


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async def cancelled(settings: ApiConfig) -> ApiPolicy:
        policy = ApiPolicy(settings, ())
        player = Player(policy=policy, renderer=None, shed=None)
        job = Job(question=question(), sampling=SamplingParams(max_tokens=5))
        task = asyncio.ensure_future(run_episode(job, player))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.answers[:] = [ANSWER]
        assert (await run_episode(job, player)).stop_reason == StopReason.ANSWERED
        await policy.aclose()
        return policy

    with provider(Says(text="late", delay_s=5.0)) as server:
        policy = asyncio.run(cancelled(config(server, concurrent=1, prices=[1.0, 1.0, 1.0])))
    assert policy.usage.requests == 1 and policy.usage.lost == 1
    assert policy.usage.most_lost_usd > 0
    assert "1 requests ended without an account" in policy.usage.line()


def test_raw_replies_are_kept_without_key_and_pictures(tmp_path: Path) -> None:
    with provider(Says(status=500), Says(calls=(LEFT,)), ANSWER) as server:
        (trajectory,), _ = play(config(server, raw_dir=str(tmp_path / "raw")))
    files = sorted((tmp_path / "raw").iterdir())
    kept = [json.loads(path.read_text()) for path in files]
    assert sorted((each["turn"], each["status"]) for each in kept) == [(0, 200), (0, 500), (1, 200)]
    last = next(each for each in kept if each["turn"] == 1)
    assert last["reply"]["choices"][0]["message"]["content"] == ANSWER.text
    assert last["pictures"] == [image.sha256 for image in trajectory.images]
    assert all(KEY not in path.read_text() for path in files)
    assert all(path.stat().st_size < 20_000 for path in files)


def test_sampling_is_passed_on() -> None:
    with provider(ANSWER) as server:
        play(config(server), temperature=0.7, num=2)
        play(config(server, "anthropic"), temperature=1.5)
    first, second, third = server.requests
    assert first["temperature"] == 0.7 and first["max_completion_tokens"] == 50
    assert {first["seed"], second["seed"]} == {0, 1}
    assert third["temperature"] == 1.0 and third["max_tokens"] == 50


# ---- before anything is sent ----------------------------------------------------------------


def test_wrong_settings_are_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    good = ApiConfig(model="toy", base_url="http://127.0.0.1:1/v1", key_variable="TEST_KEY")
    cases = {
        "no model given": replace(good, model=" "),
        "is no address": replace(good, base_url="127.0.0.1:1"),
        "a user or a password": replace(good, base_url="http://me:secret@host/v1"),
        "needs api.key_variable=": replace(good, key_variable=""),
        "never the key itself": replace(good, key_variable="sk-12/34"),
        "NO_SUCH_KEY is not set": replace(good, key_variable="NO_SUCH_KEY"),
    }
    for words, settings in cases.items():
        with pytest.raises(ConfigError, match=words) as told:
            ApiPolicy(settings, ())
        assert "sk-12" not in str(told.value)
    with pytest.raises(ConfigError, match="three numbers"):
        ApiConfig(prices=[1.0])
    with pytest.raises(ConfigError, match="none of openai, anthropic"):
        ApiConfig(provider="bard")
    ApiPolicy(replace(good, key_variable="none"), ToolSet.named("none").specs)
