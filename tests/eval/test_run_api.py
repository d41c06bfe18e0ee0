"""``eval.run api:MODEL`` against a server on this machine; no real provider is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.api_model import USAGE_FILE
from eval.run import main
from rl.policy.api_config import whole_words
from rl.questions.data import write_questions
from rl.types import Question
from tests.rl.provider_rules import KEY
from tests.rl.provider_server import Provider, Says, provider

ANSWER = Says(text="<answer>[(0.5, 0.5)]</answer>")
PRICES = "api.prices=[2.5,1.25,10]"
NAME = "org/toy-model"


def command(server: Provider, folder: Path, *words: str) -> list[str]:
    return [
        f"api:{NAME}", "tabletop-point", f"base_url={server.url}", "key_variable=TEST_KEY",
        f"data={folder}", f"out={folder / 'out'}", "tools=light", "api.backoff_s=0.01",
        "api.retries=1", *words,
    ]  # fmt: skip


@pytest.fixture
def folder(questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    point = [q for q in questions if q.source == "tabletop-point"]
    write_questions(tmp_path / "tabletop-point.parquet", point[:3])
    monkeypatch.setenv("TEST_KEY", KEY)
    return tmp_path


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "out" / "rows" / "tabletop-point.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def usage(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "out" / USAGE_FILE).read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("form", ["openai", "anthropic"])
def test_an_api_model_is_examined_with_tools(
    form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = '{"image_index": 0, "obj_name": "red cube"}'

    def script(body: dict[str, Any]) -> Says | None:
        asked = len(body["messages"]) <= 2 - (form == "anthropic")
        return Says(calls=(("roborefer__detect_one", point),)) if asked else None

    with provider(ANSWER) as server:
        server.script = script
        words = command(server, folder, f"provider={form}", PRICES)
        assert main(words) == 0
        told = capsys.readouterr()
        num_asked = len(server.requests)
        assert main(words) == 0, "nothing is missing"
        assert len(server.requests) == num_asked == 6
        assert main([*words, "api.timeout_s=9", "api.cost_limit_usd=9"]) == 0
        assert main([*words, "api.image_format=jpeg"]) == 2
        assert "api.image_format=png there" in capsys.readouterr().err
    assert told.err.count("its schema is unknown") == 1
    assert "cost 0.002" in told.out and "USD: 6 requests, 0 retries" in told.out
    assert "report: " in told.out
    found = rows(folder)
    assert [row["num_calls"] for row in found] == [1, 1, 1]
    assert all(row["score"] is not None for row in found)
    assert {row["policy"] for row in found} == {f"{NAME} {form} {server.url} calls=native"}
    calls = [call for row in found for turn in row["episode"]["turns"] for call in turn["calls"]]
    assert {call["name"] for call in calls} == {"roborefer.detect_one"}
    assert [entry["requests"] for entry in usage(folder)] == [6]
    assert KEY not in told.out + told.err + (folder / "out" / "config.yaml").read_text()


def test_the_plan_asks_nothing_and_shows_no_key(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(ANSWER) as server:
        words = command(server, folder, "tools=none")
        assert main([*words, "--check"]) == 0
        told = capsys.readouterr().out
        monkeypatch.delenv("TEST_KEY")
        assert main([*words, "--check"]) == 2
        without = capsys.readouterr().out
        assert main(words) == 2
        assert "TEST_KEY is not set" in capsys.readouterr().err
        assert not server.requests
    assert f"model       {NAME}" in told and f"provider    openai, {server.url}" in told
    assert "key         variable TEST_KEY, set" in told and KEY not in told
    assert "variable TEST_KEY, NOT SET" in without
    assert "prices      unknown" in told


def test_a_broken_server_breaks_episodes_and_they_are_asked_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with provider(Says(status=503, text="down")) as server:
        words = command(server, folder, "tools=none", "retries=0")
        assert main(words) == 3
        said = capsys.readouterr()
        assert "3 of 3 episodes broke" in said.err
        assert "NO SCORES" in said.out and "server_error" in said.out
        assert all(row["score"] is None for row in rows(folder))
        assert all("policy: server_error" in row["failure"] for row in rows(folder))
        server.answers[:] = [ANSWER]
        assert main(words) == 0
        assert sum(row["score"] is not None for row in rows(folder)) == 3
    assert [entry["retries"] for entry in usage(folder)] == [3, 0]


def test_the_limit_of_cost_keeps_what_is_answered(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dear = Says(text=ANSWER.text, usage=(50_000, 0, 10))
    with provider(dear) as server:
        words = command(server, folder, "tools=none", "width=1", "api.prices=[10,1,10]")
        assert main([*words, "api.cost_limit_usd=0.8"]) == 2
        told = capsys.readouterr()
        assert "api.cost_limit_usd=0.8: 0.5001 USD are spent" in told.err
        assert "cost 0.5001 USD: 1 requests" in told.out
        assert len(rows(folder)) == 1
        # The limit is the folder's, not each command's.
        assert main([*words, "api.cost_limit_usd=0.5"]) == 2
        assert "api.cost_limit_usd=0.5: 0.5001 USD are spent" in capsys.readouterr().err
        assert len(server.requests) == 1
        assert main([*words, "api.cost_limit_usd=5"]) == 0
        assert len(rows(folder)) == len(server.requests) == 3


def test_a_limit_without_prices_is_said_by_the_plan(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with provider() as server:
        words = command(server, folder, "tools=none", "api.cost_limit_usd=1", "--check")
        assert main(words) == 2
    assert "missing: api.cost_limit_usd=1, but the prices of" in capsys.readouterr().out


def test_a_checkpoint_and_a_model_are_not_both_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "tabletop-point", "api.model=toy"]) == 2
    assert "give api:toy in its place" in capsys.readouterr().err
    assert main(["api:", "tabletop-point"]) == 2
    assert "no model given" in capsys.readouterr().err
    assert whole_words(["tools=light", "tools={config: a}", "seed=1", "provider=openai"]) == [
        "tools.config=light", "tools={config: a}", "seed=1", "api.provider=openai",
    ]  # fmt: skip
