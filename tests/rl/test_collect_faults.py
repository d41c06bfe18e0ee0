"""A collection behind an API that fails a fifth of its requests and is killed in the middle: every
question ends once, and what ended is never asked, or paid for, again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl.policy.prices import prices_of
from rl.policy.replies import Replies
from rl.questions.data import load_questions, write_questions
from rl.tabletop.dataset import Order, write_dataset
from tests.rl.faulty_provider import FAULTS, FaultyProvider, faulty_provider
from tests.rl.provider_rules import KEY

NUM = 20
TRIES = 2
"""Of a sample, by default."""
TOOLS = {"host": "local", "replies": "compact", "roborefer": {"backend": "light"}}
DOOMED, MISTAKEN = "(doomed)", "(mistaken)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Questions, of which one is never answered and one wrongly, and tools without Ray."""
    write_dataset(tmp_path / "q.parquet", Order(kinds=("point",), num=NUM, seed=31))
    questions = load_questions(tmp_path / "q.parquet")
    for number, mark in ((3, DOOMED), (5, MISTAKEN)):
        asked = questions[number].messages
        text = f"{asked[-1].text} {mark}"
        last = replace(asked[-1], text=text)
        questions[number] = replace(questions[number], messages=(*asked[:-1], last))
    write_questions(tmp_path / "q.parquet", questions)
    (tmp_path / "tools.yaml").write_text(yaml.safe_dump(TOOLS))
    return tmp_path


def command(server: FaultyProvider, folder: Path, out: str) -> subprocess.Popen[str]:
    words = [
        "api:toy", str(folder / "q.parquet"), str(folder / out), f"base_url={server.url}",
        "key_variable=TEST_KEY", f"tools={folder / 'tools.yaml'}", "api.prices=[2.5,1.25,10]",
        "api.timeout_s=1", "api.backoff_s=0.02", "api.retries=3", "width=5", "temperature=0",
        "max_failure_share=0.2",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "rl.collect", *words],
        env={**os.environ, "TEST_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file that may be being written."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_nothing_that_ended_is_paid_twice(folder: Path) -> None:
    working = folder / "killed.json.collecting"
    with faulty_provider(0.2, seed=4) as server:
        server.doomed, server.mistaken = DOOMED, MISTAKEN
        killed = command(server, folder, "killed.json")
        until = time.monotonic() + 60
        while len(lines(working / "trajectories.jsonl")) < NUM // 3:
            assert time.monotonic() < until and killed.poll() is None, killed.communicate()[1]
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        tries = lines(working / "trajectories.jsonl")
        # A first try that broke is no end yet.
        broken = Counter(line["question"] for line in tries if line["failure"])
        ended = {line["question"] for line in tries if not line["failure"]}
        ended |= {question for question, num in broken.items() if num == TRIES}
        paid = {
            line["digest"] for line in lines(working / "replies.jsonl") if line["bill"]["is_answer"]
        }
        assert NUM // 3 - 1 <= len(ended) < NUM and not (folder / "killed.json").exists()
        before = len(server.log)
        told, said = command(server, folder, "killed.json").communicate()
        again = server.log[before:]
        whole, problems = command(server, folder, "whole.json").communicate()
    assert f"(questions: {NUM - 2} kept, 1 filtered, 1 failed" in told, said
    assert f"{NUM - 2} kept, 1 filtered, 1 failed" in whole, problems
    assert (folder / "killed.json").read_bytes() == (folder / "whole.json").read_bytes()
    seeds = seeds_of(working)
    assert not {seed for _, seed, _ in again} & {seeds[name] for name in ended}
    assert len(seeds) == NUM
    check_ends(working)
    check_accounts(working, server, told)
    assert paid, "turns of unfinished trajectories were paid as well"
    suffered = Counter(what for _, _, what in server.log)
    assert all(suffered[fault] for fault in FAULTS), suffered


def seeds_of(working: Path) -> dict[str, int]:
    """By question: the seed that its requests carried."""
    found = {}
    for line in lines(working / "replies.jsonl"):
        question = line["trajectory"].rpartition("/")[0].rpartition("/")[0]
        found[question] = line["request"]["seed"]
    return found


def check_ends(working: Path) -> None:
    """Every question ends once, and the counts add up."""
    ends = lines(working / "questions.jsonl")
    assert [end["question"] for end in ends] == [f"q/{number}" for number in range(NUM)]
    assert Counter(end["end"] for end in ends) == {"kept": NUM - 2, "filtered": 1, "failed": 1}
    assert ends[3]["end"] == "failed" and "server_error" in ends[3]["reason"]
    assert ends[5]["end"] == "filtered" and ends[5]["reason"].startswith("wrong")
    trajectories = lines(working / "trajectories.jsonl")
    scored = Counter(line["question"] for line in trajectories if not line["failure"])
    assert scored == {f"q/{number}": 1 for number in range(NUM) if number != 3}
    tries = Counter(line["question"] for line in trajectories if line["failure"])
    assert tries.pop("q/3") == TRIES and all(num == 1 for num in tries.values())


def check_accounts(working: Path, server: FaultyProvider, told: str) -> None:
    """No request that was answered and read was answered again; the sums are those of the file."""
    answered = Counter(
        line["digest"] for line in lines(working / "replies.jsonl") if line["bill"]["is_answer"]
    )
    assert set(answered.values()) == {1}
    assert len(answered) == 2 * (NUM - 1), "two turns of each question that got answers"
    replies = Replies(working / "replies.jsonl")
    replies.close()
    assert replies.num_requests == len(answered)
    assert replies.tokens.output == 10 * len(answered)
    prices = prices_of("toy", [2.5, 1.25, 10])
    assert prices is not None and f"toy: {prices.cost_usd(replies.tokens):.4f} USD" in told
    assert f"{len(answered)} requests" in told and "per kept trace" in told
    assert replies.num_lost > 0 and "ended without an account" in told
