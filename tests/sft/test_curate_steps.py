"""Steps after cleaning: duplicates, contamination, balance, mixture, queries."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.overlap import EXPORT_FORMAT
from eval.overlap import main as overlap
from sft.curation.balance import answer_word, balance, shares
from sft.curation.config import BalanceConfig, DuplicateConfig, RewriteConfig
from sft.curation.contamination import FORMAT, read_lists, without_contamination
from sft.curation.duplicates import without_duplicates
from sft.curation.ledger import Ledger
from sft.curation.mixture import mix, wanted
from sft.curation.pictures import Fingerprints
from sft.curation.rewriting import rewrite
from sft.curation.traces import Trace
from tests.sft.curate_rows import Spoken, answered, detect, row, traces, without_fields, write_rows
from tests.sft.test_fingerprint import picture
from toolshed.errors import ConfigError


def prints_of(rows: list[Trace]) -> Fingerprints:
    prints = Fingerprints()
    prints.read(rows)
    return prints


# ---- duplicates -----------------------------------------------------------------------------


def left(rows: list[Trace], config: DuplicateConfig) -> list[int]:
    kept = without_duplicates(rows, config, prints_of(rows), Ledger())
    return [rows.index(trace) for trace in kept]


def test_the_same_text_about_the_same_pixels_comes_once(tmp_path: Path) -> None:
    write_rows(tmp_path, row())
    Image.open(tmp_path / "1.png").save(tmp_path / "copy.webp", lossless=True)
    shouted = row(Spoken(question="where is THE red cube"), image="copy.webp")
    rows = traces(
        tmp_path,
        row(),
        shouted,
        row(image="2.png"),
        row(Spoken(thought="Here.")),
        row(image=None),
    )
    assert left(rows, DuplicateConfig()) == [0, 2, 3, 4]
    assert left(rows, DuplicateConfig(by="question")) == [0, 2, 4]
    assert left(rows, DuplicateConfig(by="none")) == [0, 1, 2, 3, 4]


def test_near_pictures_are_duplicates_where_asked(tmp_path: Path) -> None:
    write_rows(tmp_path, row())
    picture(1).save(tmp_path / "near.jpg", quality=90)
    for name in ("flat", "pale"):
        Image.new("RGB", (64, 64), (9, 9, 9) if name == "flat" else (8, 8, 8)).save(
            tmp_path / f"{name}.png"
        )
    images = ("1.png", "near.jpg", "2.png", "flat.png", "pale.png")
    both = row(images=["1.png", "2.png"])
    both["conversations"][0]["value"] = "<image>" + both["conversations"][0]["value"]
    rows = traces(tmp_path, *(row(image=name) for name in images), both)
    assert left(rows, DuplicateConfig(near_bits=5)) == [0, 2, 3, 4, 5]
    assert left(rows, DuplicateConfig()) == [0, 1, 2, 3, 4, 5]


# ---- contamination --------------------------------------------------------------------------


@pytest.fixture
def hashes(tmp_path: Path) -> Path:
    """What eval.overlap writes of an evaluation set that asks one thing about 0.png."""
    write_rows(tmp_path, row())
    asked = {"question": "Where is the red cube?", "image": "0.png"}
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps(asked) + "\n")
    path = tmp_path / "hashes.json"
    assert overlap(["--against", str(held), "--export", str(path), "--", str(held)]) == 0
    return path


def test_rows_of_evaluation_sets_are_dropped_in_the_ways_asked_for(
    hashes: Path, tmp_path: Path
) -> None:
    picture(0).save(tmp_path / "near.jpg", quality=90)
    rows = traces(
        tmp_path,
        row(image="0.png"),
        row(Spoken(question="What else is there?"), image="0.png"),
        row(image="near.jpg"),
        row(Spoken(question="What else is there?"), image="near.jpg"),
        row(),
        row(Spoken(question="What else is there?")),
    )
    lists = read_lists([str(hashes)])

    def kept(*ways: str) -> list[int]:
        ledger = Ledger()
        found, meetings = without_contamination(rows, lists, ways, prints_of(rows), ledger)
        assert {one.way: one.rows for one in meetings} == {
            "same_picture": 2,
            "near_picture": 2,
            "same_text": 3,
            "picture_and_text": 2,
        }
        assert len(ledger.drops) == len(rows) - len(found)
        return [rows.index(trace) for trace in found]

    assert kept("same_picture", "picture_and_text") == [3, 4, 5]
    assert kept("same_text") == [1, 3, 5]
    assert kept("near_picture") == [0, 1, 4, 5]
    assert kept() == [0, 1, 2, 3, 4, 5]


def test_a_list_without_pictures_is_said_to_check_none(hashes: Path, tmp_path: Path) -> None:
    held: dict[str, Any] = json.loads(hashes.read_text())
    held["sets"]["held"] |= {"picture_sha256": [], "picture_dhash": []}
    hashes.write_text(json.dumps(held))
    rows, ledger = traces(tmp_path, row(image="0.png")), Ledger()
    lists = read_lists([str(hashes)])
    kept, _ = without_contamination(rows, lists, ["same_picture"], prints_of(rows), ledger)
    assert kept == rows
    assert ledger.unchecked == {("contamination", "not checked: no pictures in held"): 1}


def test_lists_that_are_none_are_an_error(hashes: Path, tmp_path: Path) -> None:
    assert FORMAT == EXPORT_FORMAT
    held: dict[str, Any] = json.loads(hashes.read_text())
    bad = tmp_path / "bad.json"
    for content, said in (
        (json.dumps(held | {"format": "hashes-9"}), "format 'hashes-9', not spacetools"),
        (json.dumps({"format": FORMAT}), "is not whole"),
        (json.dumps([1]), "format 'list'"),
        ("{", "is no JSON"),
    ):
        bad.write_text(content)
        with pytest.raises(ConfigError, match=f"{said}.*--export"):
            read_lists([str(bad)])
    with pytest.raises(ConfigError, match=r"gone.json does not exist; .*--export"):
        read_lists([str(tmp_path / "gone.json")])


# ---- balance --------------------------------------------------------------------------------


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 60), min_size=2),
    st.floats(0.0, 1.0),
)
def test_shares_are_held_by_taking_rows_away(counts: dict[str, int], more: float) -> None:
    least = 1 / len(counts)
    share = least + more * (1 - least)
    targets = shares(counts, share)
    total = sum(targets.values())
    assert total > 0
    assert all(0 < targets[word] <= counts[word] for word in counts)
    assert all(number <= share * total + 1e-6 for number in targets.values())


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12, deadline=None
)
@given(
    words=st.lists(st.sampled_from(["Yes", "No"]), min_size=2, max_size=20),
    share=st.floats(0.5, 1.0),
    seed=st.integers(0, 3),
)
def test_balance_leaves_rows_out_and_makes_none(
    words: list[str], share: float, seed: int, tmp_path: Path
) -> None:
    rows = answered(tmp_path, ["Yes", "No", *words])
    kept = balance(rows, BalanceConfig(max_share=share), seed, Ledger())
    assert [rows.index(trace) for trace in kept] == sorted({rows.index(trace) for trace in kept})
    assert max(Counter(map(answer_word, kept)).values()) <= share * len(kept) + 1e-6
    assert kept == balance(rows, BalanceConfig(max_share=share), seed, Ledger())


def test_three_quarters_of_no_become_half_and_rare_chains_stay(tmp_path: Path) -> None:
    plain = [row(Spoken(question=f"{n}?", answer="No", kind="yesno")) for n in range(10)]
    both = [detect("red cube", (0.43, 0.57)), detect("ball", (0.8, 0.2))]
    rare = [row(Spoken(question=f"r{n}?", calls=both, answer="No", kind="yesno")) for n in range(2)]
    some = [row(Spoken(question=f"y{n}?", answer="Yes", kind="yesno")) for n in range(4)]
    rows = traces(tmp_path, *plain, *rare, *some)
    ledger = Ledger()
    kept = balance(rows, BalanceConfig(max_share=0.5), 1, ledger)
    assert Counter(map(answer_word, kept)) == {"no": 4, "yes": 4}
    assert sum(len(trace.calls) == 2 for trace in kept) == 2
    assert ledger.reasons() == {("balance", "share"): 8}
    assert balance(rows, BalanceConfig(max_share=0), 1, Ledger()) == rows
    other = balance(rows, BalanceConfig(max_share=0.5, kinds=["choice"]), 1, Ledger())
    assert other == rows


def test_a_share_that_cannot_be_held_is_an_error(tmp_path: Path) -> None:
    rows = answered(tmp_path, ["No", "No"])
    with pytest.raises(ConfigError, match=r"max_share=0.6 cannot be held .* 1 answers \(no\)"):
        balance(rows, BalanceConfig(), 1, Ledger())


def test_a_cell_has_no_more_rows_than_its_cap(tmp_path: Path) -> None:
    rows = answered(tmp_path, ["Yes"] * 5 + ["No"] * 2)
    kept = balance(rows, BalanceConfig(max_share=0, cap=3), 1, Ledger())
    assert Counter(map(answer_word, kept)) == {"yes": 3, "no": 2}


# ---- mixture --------------------------------------------------------------------------------


def mixed(
    folder: Path, parts: dict[str, int], *, repeat: bool = False
) -> tuple[list[Trace], list[Trace], Ledger]:
    teacher = [row(Spoken(question=f"{n}?"), task_id=f"t{n}") for n in range(7)]
    distilled = [row(Spoken(question=f"d{n}?"), source="distilled") for n in range(2)]
    other = [row(Spoken(question="o?"), source="other")]
    rows, ledger = traces(folder, *teacher, *distilled, *other), Ledger()
    return rows, mix(rows, parts, repeat, 1, ledger), ledger


def test_a_ratio_is_kept_by_the_scarcer_side(tmp_path: Path) -> None:
    rows, kept, ledger = mixed(tmp_path, {"teacher": 3, "distilled": 1})
    assert Counter(trace.source for trace in kept) == {"teacher": 6, "distilled": 2}
    assert [rows.index(trace) for trace in kept] == sorted(rows.index(trace) for trace in kept)
    assert ledger.reasons() == {("mix", "ratio"): 1, ("mix", "other_source"): 1}
    assert mixed(tmp_path, {})[1] == rows


def test_scarce_rows_are_repeated_where_asked(tmp_path: Path) -> None:
    _, kept, ledger = mixed(tmp_path, {"teacher": 1, "distilled": 1}, repeat=True)
    assert Counter(trace.source for trace in kept) == {"teacher": 7, "distilled": 7}
    assert sorted(Counter(trace.question for trace in kept).values())[-2:] == [3, 4]
    assert ledger.reasons() == {("mix", "other_source"): 1}


def test_fewer_rows_keep_their_answers_shares(tmp_path: Path) -> None:
    rows = answered(tmp_path, ["Yes", "No"] * 10)
    rows += answered(tmp_path, ["Yes", "No"] * 2, source="distilled")
    kept = mix(rows, {"teacher": 2, "distilled": 1}, False, 4, Ledger())
    of_teacher = Counter(answer_word(trace) for trace in kept if trace.source == "teacher")
    assert of_teacher == {"yes": 4, "no": 4}
    others = [mix(rows, {"teacher": 2, "distilled": 1}, False, seed, Ledger()) for seed in range(5)]
    assert any(other != kept for other in others)


def test_a_source_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'techer', of which no row is left; sources: dist"):
        mixed(tmp_path, {"techer": 1})
    with pytest.raises(ConfigError, match=r"mix.distilled=3 is more than the 2 rows"):
        wanted({"teacher": 7, "distilled": 2}, {"teacher": 1, "distilled": 3}, repeat=False)


# ---- queries --------------------------------------------------------------------------------

PHRASE = r"one point in the (free space [^.]*)\."
FREE = "Show one point in the free space left of the red cube. Answer with it."


def test_an_anchor_alone_becomes_the_place_that_was_asked_for(tmp_path: Path) -> None:
    spoken = Spoken(question=FREE, answer="[(0.21, 0.55)]", kind="point_free")
    place = "free space left of the red cube"
    rows = traces(tmp_path, row(spoken), without_fields(row(spoken)))
    made, counts = rewrite(rows, RewriteConfig(phrase=PHRASE), 0.05)
    assert counts == {"rewritten": 2}
    for trace in made:
        (call,) = trace.calls
        assert (call.arguments["obj_name"], call.points) == (place, ((0.21, 0.55),))
        assert trace.row["rewritten"] == {"query": "red cube", "point": [0.43, 0.57]}
    # What is written reads back as what was made, with the field and without it.
    again = traces(tmp_path, *(trace.row for trace in made))
    assert [trace.calls for trace in again] == [trace.calls for trace in made]
    assert f'"obj_name": "{place}"' in again[0].turns[0]
    assert again[0].replies[0] == ("[(0.21, 0.55)]",)
    assert rewrite(rows, RewriteConfig(), 0.05) == (rows, {})


@pytest.mark.parametrize(
    ("spoken", "changes", "why"),
    [
        (Spoken(answer="[(0.21, 0.55)]"), {}, "found 0 times"),
        (Spoken(question=FREE), {}, "the answer is the tool's point"),
        (Spoken(question=FREE, answer="[(0.21, 0.55)]"), {"reward": {"accuracy": 0.4}}, "right"),
        (Spoken(question=FREE, answer="[(0.21, 0.55)]", thought="Not 0.43."), {}, "a thought"),
        (
            Spoken(
                question=FREE,
                calls=[detect("blue ball", (0.43, 0.57))],
                answer="[(0.21, 0.55)]",
            ),
            {},
            "does not name",
        ),
        (
            Spoken(
                question=FREE,
                calls=[detect("red cube", (0.4, 0.5), thought="I need the red cube.")],
                answer="[(0.21, 0.55)]",
            ),
            {},
            "a thought",
        ),
        (
            Spoken(
                question=FREE, calls=[detect("red cube", (0.4, 0.5))] * 2, answer="[(0.2, 0.5)]"
            ),
            {},
            "not exactly one call",
        ),
    ],
)
def test_what_does_not_follow_from_the_fields_stays(
    spoken: Spoken, changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    rows = traces(tmp_path, row(spoken, **changes))
    made, counts = rewrite(rows, RewriteConfig(phrase=PHRASE), 0.05)
    assert made == rows
    assert re.search(why, "".join(counts)), counts


def test_released_replies_are_rewritten_with_their_query(tmp_path: Path) -> None:
    said = detect("red cube", (0.43, 0.57))
    said.reply = "Detected 1 instance(s) of 'red cube': [(0.43, 0.57)]"
    full = row(Spoken(question=FREE, calls=[said], answer="[(0.21, 0.55)]"))
    (made,), _ = rewrite(traces(tmp_path, full), RewriteConfig(phrase=PHRASE), 0.05)
    told = "Detected 1 instance(s) of 'free space left of the red cube': [(0.21, 0.55)]"
    assert made.replies[0] == (told,)
    assert np.allclose(made.calls[0].points, [(0.21, 0.55)])
