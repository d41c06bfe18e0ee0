"""A collection goes on: the same bytes in the end, nothing asked twice, other settings refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl.collect import CollectConfig, Collected, collect, main, prepare
from rl.collection.config import BudgetConfig
from rl.collection.journal import Journal
from rl.collection.played import Played
from rl.policy.api_config import ApiConfig
from rl.questions.data import load_questions, write_questions
from rl.rewards import DEMO_RULE
from rl.tabletop.dataset import Order, write_dataset
from sft.config import ToolsConfig
from sft.data import load_transcripts
from tests.rl.provider_rules import KEY
from tests.rl.provider_server import Provider, Says, provider
from toolshed.errors import ConfigError, ToolFailure
from toolshed.shed import Toolshed

TOOLS = {"host": "local", "replies": "compact", "roborefer": {"backend": "light"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_dataset(folder / "q.parquet", Order(kinds=("point",), num=6, seed=31))
    (folder / "tools.yaml").write_text(yaml.safe_dump(TOOLS))
    return folder


@pytest.fixture(scope="module")
def shed(folder: Path) -> Iterator[Toolshed]:
    with Toolshed.open(folder / "tools.yaml") as opened:
        yield opened


def settings(folder: Path, **changes: Any) -> CollectConfig:
    tools = ToolsConfig(config=str(folder / "tools.yaml"))
    return CollectConfig(tools=tools, reward=DEMO_RULE, **changes)


Run = Callable[..., Collected]


@pytest.fixture
def run(folder: Path, shed: Toolshed, tmp_path: Path) -> Run:
    def run(name: str, *, force: bool = False, **changes: Any) -> Collected:
        config = settings(folder, **changes)
        data, out = folder / "q.parquet", tmp_path / f"{name}.json"
        return collect(prepare("teacher", data, out, config, force=force), shed)

    return run


def interrupt_after(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    add, seen = Journal.add, []

    def counted(self: Journal, played: Played) -> None:
        add(self, played)
        seen.append(played)
        if len(seen) == num:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", counted)


def test_an_interrupted_collection_ends_with_the_same_bytes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole", samples=2)
    with monkeypatch.context() as patch:
        interrupt_after(5, patch)
        with pytest.raises(KeyboardInterrupt, match="same command goes on"):
            run("cut", samples=2, width=2)
    journal = tmp_path / "cut.json.collecting" / "trajectories.jsonl"
    num = len(journal.read_text().splitlines())
    assert not (tmp_path / "cut.json").exists() and 5 <= num < 12
    with journal.open("a") as file:
        file.write('{"question": "q/5", "samp')
    done = run("cut", samples=2)
    assert (done.num_kept, done.questions) == (12, {"kept": 6, "filtered": 0, "failed": 0})
    assert len(journal.read_text().splitlines()) == 12
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert run("cut", samples=2) == done, "finished: nothing is done, nothing refused"


def test_what_is_played_is_filtered_again_without_playing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a", samples=2)
    interrupt_after(1, monkeypatch)
    with pytest.raises(ConfigError, match=r"other transcripts .* --force"):
        run("a", samples=2, keep=1)
    assert run("a", samples=2, keep=1, force=True).num_kept == 6
    assert run("a", samples=1, force=True).num_kept == 6
    assert len(load_transcripts(tmp_path / "a.json")) == 6


def test_other_settings_and_questions_are_named(run: Run, folder: Path, tmp_path: Path) -> None:
    run("a", limit=2)
    run("a", limit=4, force=True)
    with pytest.raises(
        ConfigError, match=r"other settings \(max_turns=8 there, max_turns=7 now\); name another"
    ):
        run("a", max_turns=7)
    path = tmp_path / "q.parquet"
    first, *rest = load_questions(folder / "q.parquet")
    text = first.messages[-1].text + " Look well."
    asked = (*first.messages[:-1], replace(first.messages[-1], text=text))
    write_questions(path, [replace(first, messages=asked), *rest])
    with pytest.raises(ConfigError, match="another question q/0 than the one asked now"):
        collect(prepare("teacher", path, tmp_path / "a.json", settings(folder, limit=4)))


def test_a_folder_in_use_is_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    questions = load_questions(folder / "q.parquet")
    journal = Journal(questions, tmp_path / "a.json.collecting")
    with pytest.raises(ConfigError, match="in use by another collection"):
        run("a")
    journal.close()


def test_a_question_with_enough_gets_no_further_sample(run: Run, tmp_path: Path) -> None:
    run("a", samples=3, keep=1, budget=BudgetConfig(stop_early=True))
    journal = tmp_path / "a.json.collecting"
    assert len((journal / "trajectories.jsonl").read_text().splitlines()) == 6
    ends = [json.loads(line) for line in (journal / "questions.jsonl").read_text().splitlines()]
    assert all("keep=1 are found" in end["stopped"] for end in ends)


def test_what_is_written_of_calls_and_reward(run: Run, tmp_path: Path) -> None:
    run("a", limit=1)
    (row,) = json.loads((tmp_path / "a.json").read_text())
    (call,) = row["calls"]
    assert call["name"] == "roborefer.detect_one" and call["turn"] == 0
    assert (call["status"], call["reason"], call["variables"]) == ("ok", "", [])
    assert len(call["point"]) == 2 and all(0 < each < 1 for each in call["point"])
    assert (
        row["answer_kind"] == "point_object" and row["answer"] in row["conversations"][-1]["value"]
    )
    assert row["reward"] == {
        "value": 1.0, "accuracy": 1.0, "well_formed": True, "parts": {"num_points": 1.0},
    }  # fmt: skip


# ---- behind an API ------------------------------------------------------------------------------


@pytest.fixture
def api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CollectConfig]:
    monkeypatch.setenv("TEST_KEY", KEY)

    def config(server: Provider, provider: str = "openai", **changes: Any) -> CollectConfig:
        words = {"backoff_s": 0.01, "retries": 0, "prices": [2.5, 1.25, 10.0], **changes}
        own = ApiConfig(base_url=server.url, key_variable="TEST_KEY", provider=provider, **words)
        kept = {
            "min_score": 0,
            "need_call": False,
            "max_turn_tokens": 50,
            "width": 1,
            "temperature": 0.5,
        }
        return settings(folder, api=own, **kept)

    return config


def answering(body: dict[str, Any]) -> Says:
    """A call first, then an answer."""
    point = '{"image_index": 0, "obj_name": "red cube"}'
    if any(
        "tool_result" in json.dumps(each) or each["role"] == "tool" for each in body["messages"]
    ):
        return Says(text="<answer>[(0.5, 0.5)]</answer>")
    return Says(calls=(("roborefer__detect_one", point),))


@pytest.mark.parametrize("form", ["openai", "anthropic"])
def test_the_limit_of_cost_stops_and_the_next_command_goes_on(
    form: str, folder: Path, shed: Toolshed, api: Callable[..., CollectConfig], tmp_path: Path
) -> None:
    data, out = folder / "q.parquet", tmp_path / "traces.json"
    with provider() as server:
        server.script = answering
        limited = api(server, form, cost_limit_usd=0.03)
        with pytest.raises(ConfigError, match=r"cost_limit_usd=0.03: .* raise the limit and give"):
            collect(prepare("api:toy", data, out, limited), shed)
        assert 0 < len(server.requests) < 12 and not out.exists()
        done = collect(prepare("api:toy", data, out, api(server, form)), shed)
        asked = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert len(asked) == 12
        assert form == "anthropic" or len(set(asked)) == 12
    assert done.spent.startswith("toy: ") and "12 requests" in done.spent
    assert "(17% from the cache)" in done.spent and "per kept trace" in done.spent
    assert {row["source"] for row in json.loads(out.read_text())} == {"distilled"}
    assert KEY not in "".join(
        path.read_text() for path in tmp_path.rglob("*.*l*") if path.is_file()
    )


def test_a_server_that_is_down_stops_the_command_and_is_tried_again_when_told(
    folder: Path, shed: Toolshed, api: Callable[..., CollectConfig], tmp_path: Path
) -> None:
    data, out = folder / "q.parquet", tmp_path / "traces.json"
    with provider(Says(status=503, text="down")) as server:
        config = api(server)
        for num in (4, 4):
            with pytest.raises(ToolFailure, match=r"2 of 6 trajectories failed.*--retry-failed"):
                collect(prepare("api:toy", data, out, config), shed)
            assert len(server.requests) == num, "two tries of two questions, and no more"
        server.script = answering
        done = collect(prepare("api:toy", data, out, config, retry_failed=True), shed)
    assert done.num_kept == 6 and done.num_failed == 0


def test_the_plan_tells_what_it_may_cost(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    words = ["api:gpt-4o", str(folder / "q.parquet"), str(tmp_path / "traces.json"), "samples=2"]
    words += [f"tools={folder / 'tools.yaml'}", "--dry-run"]
    assert main([*words, "key_variable=TEST_KEY", "api.cost_limit_usd=2"]) == 0
    told = capsys.readouterr().out
    assert "would play 12 trajectories with api:gpt-4o" in told
    assert "estimate: roughly 0.0" in told and "stops at 2 USD" in told
    assert main([*words, "key_variable=NO_SUCH"]) == 2
    assert "NO_SUCH is not set" in capsys.readouterr().err
    assert main([*words, "key_variable=TEST_KEY", "api.prices=[]", "budget.usd=1"]) == 0
    assert main(["teacher", *words[1:], "budget.usd=1"]) == 2
    assert "budget.usd=1 needs a model behind an API" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
