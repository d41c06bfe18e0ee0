"""Cleaning: for every rule a row that must go, and one that is nearly so and must stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.curation.answers import RULES, clean, on_grid
from sft.curation.config import CleanConfig
from sft.curation.ledger import Ledger
from tests.sft.curate_rows import (
    Row,
    Said,
    Spoken,
    depth,
    detect,
    index,
    refused,
    row,
    segment,
    traces,
    without_fields,
)
from toolshed.errors import ConfigError

CUBE = detect("red cube", (0.43, 0.57))
BALL = detect("blue ball", (0.81, 0.22))
BOX = Said(
    "bounding_box.compute_bbox",
    {"point_cloud": "$point_cloud", "mask": "$segmentation_mask"},
    "[(0.61, 0.33), (0.70, 0.41)] $obb_corners_2d",
    variables=("obb_corners_2d",),
)

OTHER_DEPTH = Said(
    "depth_estimator.estimate_depth", {"image_index": 1}, "$depth_map", variables=("depth_map",)
)
ECHO = Said(
    "vision_ops.index_at",
    {"data": "$segmentation_mask", "u": 0.35, "v": 0.6},
    "Pixel value at (0.350, 0.600) is True",
)


def read_depth(*extra: Said, **more: str) -> Spoken:
    calls = [CUBE, depth(), *extra, index(0.43, 0.57, 0.51)]
    return Spoken(question="How far?", calls=calls, answer="0.51", kind="number", **more)


def yes(*calls: Said) -> Spoken:
    return Spoken(question="Left?", calls=calls, answer="Yes", kind="yesno")


def pointed(answer: str, *calls: Said, **more: str) -> Spoken:
    return Spoken(calls=calls, answer=answer, **more)


BAD: dict[str, list[Row]] = {
    "failed_call": [
        row(pointed("[(0.43, 0.57)]", refused("cube"), CUBE)),
        without_fields(row(pointed("[(0.1, 0.1)]", Said("a.b", {}, "Error: no tool a.b")))),
    ],
    "needless_call": [
        row(yes(CUBE, CUBE)),
        row(pointed("[(0.43, 0.57)]", BALL, CUBE)),
    ],
    "unused_variable": [
        row(pointed("[(0.43, 0.57)]", CUBE, depth())),
        row(yes(CUBE, BALL, segment(0.43, 0.57))),
        # Another picture's map replaced the first one before it was read.
        row(read_depth(OTHER_DEPTH)),
        without_fields(row(pointed("[(0.43, 0.57)]", CUBE, depth()))),
    ],
    "guess": [
        row(pointed("[(0.35, 0.60)]", depth(), index(0.2, 0.2, 0.51))),
        # The reply only repeats what the model guessed.
        row(pointed("[(0.35, 0.60)]", ECHO)),
        without_fields(row(pointed("[(0.5, 0.5)]"))),
    ],
    "override": [
        row(pointed("[(0.52, 0.57)]", CUBE)),
        without_fields(row(pointed("[(0.52, 0.57)]", CUBE))),
    ],
}
LEAKS = Spoken(
    question="How far?",
    calls=[
        detect("red cube", (0.43, 0.57), thought="It should be 0.5084 away."),
        depth(),
        index(0.43, 0.57, 0.51),
    ],
    answer="0.51",
    kind="number",
)
BAD["leak"] = [row(LEAKS, ground_truth="0.5084"), without_fields(row(LEAKS, ground_truth=0.5084))]

FINE: dict[str, list[Row]] = {
    "failed_call": [row(pointed("[(0.43, 0.57)]", CUBE)), row(yes())],
    "needless_call": [
        # Both are compared; nothing says which one was not.
        row(yes(CUBE, BALL)),
        row(pointed("[(0.43, 0.57)]", BALL, CUBE, thought="The ball at 0.81 is further right.")),
        row(pointed("[(0.43, 0.57)]", BALL, depth(), index(0.81, 0.22, 0.7), CUBE)),
        # Deeds may be done twice.
        row(yes(*[Said("robot.open", {}, "Opened."), Said("robot.open", {}, "Opened.")])),
    ],
    "unused_variable": [
        row(read_depth()),
        row(pointed("[(0.61, 0.33), (0.70, 0.41)]", CUBE, segment(0.43, 0.57), BOX, kind="pose")),
        row(yes(CUBE, segment(0.43, 0.57), BOX)),
    ],
    "guess": [
        row(pointed("[(0.45, 0.55)]", CUBE)),
        row(pointed("[(0.35, 0.61)]", depth(), index(0.2, 0.2, 0.51))),
        row(pointed("[(320, 240)]")),
        row(Spoken(calls=[], answer="0.5", kind="number")),
    ],
    "leak": [
        row(read_depth(), ground_truth="0.5084"),
        # The last thought draws the conclusion.
        row(read_depth(thought="It is 0.5084."), ground_truth="0.5084"),
        row(
            Spoken(
                question="Which is nearer, the red cube or the ball?",
                calls=[detect("red cube", (0.43, 0.57), thought="Look for the red cube.")],
                answer="red cube",
                kind="choice",
            ),
            ground_truth="red cube",
        ),
        # A tool said so before.
        row(
            Spoken(
                calls=[
                    detect("red cube", (0.43, 0.57)),
                    depth(),
                    index(0.43, 0.57, 0.5084),
                    Said("a.b", {}, "Fine.", thought="It reads 0.5084."),
                ],
                answer="0.5084",
                kind="number",
            ),
            ground_truth="0.5084",
        ),
    ],
    "override": [
        row(pointed("[(0.47, 0.60)]", CUBE)),
        # The place follows from a measurement at the tool's point.
        row(pointed("[(0.62, 0.57)]", CUBE, segment(0.43, 0.57), BOX)),
        row(yes(CUBE)),
        row(pointed("[(0.1, 0.2), (0.3, 0.4)]", CUBE, kind="pose")),
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_bad_row_is_dropped_by_its_rule_alone(rule: str, tmp_path: Path) -> None:
    config = CleanConfig()
    for trace in traces(tmp_path, *BAD[rule]):
        assert RULES[rule](trace, config).reason, trace.turns
        ledger = Ledger()
        assert clean([trace], CleanConfig(rules=[rule]), ledger) == []
        (drop,) = ledger.drops
        assert (drop.step, drop.reason, drop.task_id) == ("clean", rule, "a/0/0")
        others = [name for name in RULES if name != rule]
        if rule != "failed_call":
            assert clean([trace], CleanConfig(rules=others), Ledger()) == [trace]


@pytest.mark.parametrize("rule", RULES)
def test_a_near_miss_stays(rule: str, tmp_path: Path) -> None:
    for trace in traces(tmp_path, *FINE[rule]):
        verdict = RULES[rule](trace, CleanConfig())
        assert not verdict.reason, (verdict.reason, trace.turns)
        assert not verdict.unchecked or rule == "leak", trace.turns


def test_rows_that_recover_are_kept_where_asked(tmp_path: Path) -> None:
    recovers = row(pointed("[(0.43, 0.57)]", refused("cube"), CUBE))
    never = row(pointed("[(0.43, 0.57)]", CUBE, refused("cube")))
    rows = traces(tmp_path, recovers, never)
    assert clean(rows, CleanConfig(keep_recovered=True), Ledger()) == rows[:1]
    assert clean(rows, CleanConfig(), Ledger()) == []


def test_a_short_target_is_not_looked_for(tmp_path: Path) -> None:
    look = detect("red cube", (0.43, 0.57), thought="Yes, first the cube.")
    (trace,) = traces(tmp_path, row(yes(look), ground_truth="Yes"))
    verdict = RULES["leak"](trace, CleanConfig())
    assert not verdict.reason and "too short" in verdict.unchecked


def test_a_call_that_cannot_be_read_is_a_failed_one(tmp_path: Path) -> None:
    broken = without_fields(row())
    broken["conversations"][1]["value"] = "<tool_call>\n{oops}\n</tool_call>"
    (trace,) = traces(tmp_path, broken)
    assert "cannot be read" in RULES["failed_call"](trace, CleanConfig()).reason


def test_what_rows_without_fields_do_not_say_is_not_guessed(tmp_path: Path) -> None:
    point = without_fields(row())
    corners = without_fields(row(pointed("[(0.12, 0.2), (0.3, 0.4)]", CUBE)))
    del point["ground_truth"]
    ledger = Ledger()
    kept = clean(traces(tmp_path, point, corners), CleanConfig(), ledger)
    assert len(kept) == 2
    assert ledger.unchecked == {
        ("failed_call", "not checked: no field calls"): 2,
        ("unused_variable", "not checked: no field calls"): 2,
        ("leak", "not checked: no field ground_truth"): 1,
        ("override", "not checked: no field answer_kind"): 1,
    }


def test_released_replies_are_read_as_points_and_variables(tmp_path: Path) -> None:
    reply = (
        "Detected 2 instance(s) of 'it's': [(0.43, 0.57), (0.1, 0.2)] Kept for later calls: "
        "$it_s_detections (list, 2 points)."
    )
    said = Said("vlm.detect_all", {"obj_name": "it's", "image_index": 0}, reply)
    (trace,) = traces(tmp_path, without_fields(row(pointed("[(0.1, 0.2)]", said))))
    (call,) = trace.calls
    assert call.points == ((0.43, 0.57), (0.1, 0.2))
    assert (call.variables, call.status) == (("it_s_detections",), None)
    assert trace.answer == "[(0.1, 0.2)]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"calls": "none"}, "calls is 'none', no list"),
        ({"calls": [{"turn": 7}]}, "call 0 has turn=7"),
        ({"answer": 3}, "answer is 3, no text"),
    ],
)
def test_fields_of_another_form_are_an_error(change: Row, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"row 0: {said}"):
        traces(tmp_path, row(**change))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=5))
def test_every_place_of_the_grid_is_found(cells: list[tuple[int, int]]) -> None:
    places = tuple((round(u * 0.05, 2), round(v * 0.05, 2)) for u, v in cells)
    assert on_grid(places, 0.05)
    (u, v), *rest = places
    aside = u + 0.01 if u < 0.5 else u - 0.01
    assert not on_grid(((aside, v), *rest), 0.05)


@given(st.floats(0, 1), st.floats(0, 1))
def test_no_other_place_is_on_the_grid(u: float, v: float) -> None:
    far = max(abs(each * 20 - round(each * 20)) for each in (u, v))
    assert on_grid(((u, v),), 0.05) == (far < 1e-6) or abs(far - 1e-6) < 1e-9
