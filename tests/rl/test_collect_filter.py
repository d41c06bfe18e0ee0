"""What passes the filter, which of several is the best, and when a question has enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rl.collection.config import BudgetConfig, CollectConfig
from rl.collection.filter import ended, rejection
from rl.collection.played import Played
from rl.policy.prices import Prices, TokenUsage
from rl.types import Question, Reward, StopReason
from sft.config import load_config
from toolshed.errors import ConfigError

PRICES = Prices(input=1.0, cached=0.1, output=1.0)
CALL = {"turn": 0, "name": "x.y", "arguments": {}, "status": "ok", "reason": ""}


def question(kind: str) -> Question:
    return Question(id="q/0", source=f"set-{kind}", kind=kind, messages=(), images=(), target="Yes")


def played(accuracy: float, sample: int = 0, *, calls: int = 1, **changes: Any) -> Played:
    parts = {"nce": changes.pop("nce")} if "nce" in changes else {}
    reward = Reward(
        value=accuracy,
        accuracy=accuracy,
        well_formed=changes.pop("well_formed", True),
        answer=changes.pop("answer", "Yes"),
        parts=parts,
    )
    said = {"from": "assistant", "value": "x" * changes.pop("chars", 10)}
    words: dict[str, Any] = {
        "question": "q/0",
        "question_hash": "",
        "sample": sample,
        "stop_reason": StopReason.ANSWERED,
        "reward": reward,
        "conversations": (said,),
        "calls": (CALL,) * calls,
    }
    return Played(**words | changes)


def broken(sample: int) -> Played:
    return Played(
        question="q/0",
        question_hash="",
        sample=sample,
        stop_reason=StopReason.TOOL_FAILURE,
        failure="roborefer.detect_one: out_of_memory",
    )


@pytest.mark.parametrize(
    ("kind", "worse", "better"),
    [
        ("yesno", played(0.0), played(1.0)),
        ("choice", played(0.5), played(1.0)),
        ("point_object", played(0.5), played(0.51)),
        ("point_free", played(0.0), played(1.0)),
        ("pose", played(0.3), played(0.31)),
        ("grasp", played(0.9, nce=2.0), played(0.1, nce=1.99)),
        ("grasp", played(0.9, nce=10.0), played(0.0, nce=0.0)),
    ],
)
def test_the_published_thresholds(kind: str, worse: Played, better: Played) -> None:
    config = CollectConfig()
    assert rejection(worse, kind, config).startswith("wrong (not above min_score=")
    assert not rejection(better, kind, config)


def test_one_number_holds_for_all_kinds_and_a_table_for_its_own() -> None:
    whole = load_config(CollectConfig, "rl", "collect", ["min_score=1.0"])
    assert rejection(played(0.9), "pose", whole) and not rejection(played(1.0), "pose", whole)
    own = load_config(CollectConfig, "rl", "collect", ["min_score.pose=0.6"])
    assert rejection(played(0.55), "pose", own) and not rejection(played(1.0), "yesno", own)
    assert own.min_score_of("grasp") == 0.8 and own.min_score_of("yesno") == 0.5
    any_score = CollectConfig(min_score=0)
    assert not rejection(played(0.0), "yesno", any_score)
    with pytest.raises(ConfigError, match=r"min_score names 'boxes', .* there are choice, yesno"):
        CollectConfig(min_score={"boxes": 0.3})
    with pytest.raises(ConfigError, match=r"min_score\.pose=2\.0 must lie in \[0, 1\]"):
        CollectConfig(min_score={"pose": 2.0})
    with pytest.raises(ConfigError, match="min_score=high"):
        CollectConfig(min_score="high")


def test_calls_and_form() -> None:
    config, lax = CollectConfig(), CollectConfig(need_call=False, need_form=False)
    assert rejection(played(1.0, calls=0), "yesno", config) == "no answered call (need_call)"
    refused = replace(played(1.0), calls=({**CALL, "status": "refused"},))
    assert rejection(refused, "yesno", config) == "no answered call (need_call)"
    assert not rejection(played(1.0, calls=0), "yesno", lax)
    ill = played(1.0, well_formed=False)
    assert rejection(ill, "yesno", config) == "badly formed (need_form)"
    assert not rejection(ill, "yesno", lax)
    mute = played(0.0, answer=None)
    assert rejection(mute, "yesno", config) == "no answer, answered (not above min_score=0.5)"
    assert rejection(broken(0), "yesno", lax) == "broken"


def test_the_best_are_kept() -> None:
    config = CollectConfig(samples=5, keep=2)
    samples = {
        0: played(0.7, 0),
        1: played(0.9, 1, calls=2),
        2: played(0.9, 2, calls=1, chars=30),
        3: played(0.9, 3, calls=1, chars=20),
        4: played(0.0, 4),
    }
    found = ended(question("pose"), samples, config, None)
    assert [each.sample for each in found.kept] == [2, 3], "in the order of the samples"
    assert found.end == "kept" and not found.reason
    assert list(found.reasons) == ["keep is reached"] * 2 + ["wrong (not above min_score=0.3)"]
    one = ended(question("pose"), samples, replace(config, keep=1), None)
    assert [each.sample for each in one.kept] == [3], "fewest calls, then shortest"


def test_every_question_ends_in_one_way() -> None:
    config = CollectConfig(samples=2)
    filtered = ended(question("yesno"), {0: played(0.0), 1: broken(1)}, config, None)
    assert (filtered.end, filtered.reason) == ("filtered", "wrong (not above min_score=0.5)")
    failed = ended(question("yesno"), {0: broken(0), 1: broken(1)}, config, None)
    assert failed.end == "failed" and "out_of_memory" in failed.reason and not failed.reasons
    kept = ended(question("yesno"), {0: broken(0), 1: played(1.0, 1)}, config, None)
    assert kept.end == "kept" and len(kept.kept) == 1


@pytest.mark.parametrize(
    ("budget", "num", "said"),
    [
        (BudgetConfig(stop_early=True), 2, "keep=1 are found"),
        (BudgetConfig(tokens=300), 3, "300 tokens are used"),
        (BudgetConfig(usd=0.0001), 1, "0.0001 USD are spent"),
        (BudgetConfig(tokens=10_000), 4, ""),
    ],
)
def test_what_came_after_a_question_had_enough_does_not_count(
    budget: BudgetConfig, num: int, said: str
) -> None:
    config = CollectConfig(samples=4, keep=1, budget=budget)
    usage = TokenUsage(input=60, output=40)
    scores = (0.0, 1.0, 1.0, 1.0)
    samples = {n: played(score, n, usage=usage) for n, score in enumerate(scores)}
    found = ended(question("yesno"), samples, config, PRICES)
    assert len(found.played) == num and said in found.stopped
    assert found.end == ("kept" if num > 1 else "filtered")


def test_stopping_early_needs_to_know_when() -> None:
    with pytest.raises(ConfigError, match="give keep=1"):
        CollectConfig(budget=BudgetConfig(stop_early=True))
    with pytest.raises(ConfigError, match="tries=0 must be above 0"):
        BudgetConfig(tries=0)
