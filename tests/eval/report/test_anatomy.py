"""Every wrong answer is in one class, and rules blame the right side."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.gate import Finding
from eval.report.anatomy import CLASSES, RULES, Anatomy, anatomies, anatomy_of, error_counts
from eval.report.evidence import SAME_PLACE, SAME_VALUE_M
from eval.report.traces import chain_shares, tool_times, turn_times
from eval.rows import EvalRow
from eval.scoring import kind_of, score_answer
from rl.show.episode import CallRecord, Drawing, TurnRecord
from tests.eval.report.made import call, made_row, point, reading, turn

SQUARE = "[(0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6)]"


def pointed(answer: str, *calls: CallRecord) -> Anatomy:
    return anatomy_of(
        made_row(
            "robospatial", 0, 0.0, kind="point_free", target=SQUARE, answer=answer,
            turns=[turn(*calls)],
        )
    )  # fmt: skip


def error(found: Anatomy) -> tuple[str | None, bool]:
    return found.error, found.decided


def test_right_and_partly_right_answers_have_no_class() -> None:
    assert anatomy_of(made_row("blinkdepth", 0, 1.0)).error is None
    assert anatomy_of(made_row("boppose", 0, 0.7, kind="pose")).outcome == "partly"
    grasp = made_row("bopgrasp", 0, 0.45, kind="grasp", parts={"success": 1.0})
    assert anatomy_of(grasp).outcome == "right"


def test_what_our_machinery_broke_is_nobodys_mistake() -> None:
    assert anatomy_of(made_row("blinkdepth", 0, None)).error == "infrastructure"
    row = made_row("blinkdepth", 0, 0.0)
    empty = Finding(kind="empty_reply", key=row.key, words="sam2 read nothing")
    assert anatomy_of(row, [empty]).error == "infrastructure"
    phantom = Finding(kind="phantom_variable", key=row.key, words="$depth was never published")
    assert anatomy_of(row, [phantom]).error == "tool_unused"


@pytest.mark.parametrize("state", ["off_option", "unparsable"])
def test_unreadable_answers_are_format(state: str) -> None:
    assert anatomy_of(made_row("blinkdepth", 0, 0.0, state=state)).error == "format"


def test_without_tools_none_can_be_unused() -> None:
    assert anatomy_of(made_row("blinkdepth", 0, 0.0, schema_hash="none")).error == "reasoning"
    assert anatomy_of(made_row("blinkdepth", 0, 0.0)).error == "tool_unused"


def test_points() -> None:
    off, inside = point("cup", (0.1, 0.123)), point("cup", (0.5, 0.5))
    assert error(pointed("[(0.1, 0.12)]", off)) == ("tool_wrong", True)
    assert error(pointed("[(0.1, 0.12)]", off, inside)) == ("reasoning", True)
    assert error(pointed("[(0.2, 0.2)]", off)) == ("reasoning", True)
    empty = call("roborefer.detect_one", reason="not_found")
    assert error(pointed("[(0.1, 0.12)]", empty)) == ("tool_wrong", True)
    miswritten = call("roborefer.detect_one", reason="bad_argument")
    assert error(pointed("[(0.1, 0.12)]", miswritten)) == ("reasoning", True)
    assert error(pointed("[(0.1, 0.12)]", reading(0.1, 0.1, 2.0))) == ("tool_unused", True)


def test_boxes_and_grasps() -> None:
    corners = tuple((0.1 * i, 0.2) for i in range(8))
    box = call("bounding_box.compute_bbox", Drawing(shape="box", points=corners))
    copied = str([(round(u, 3), v) for u, v in corners])
    for answer, expected in ((copied, "tool_wrong"), ("[(0.9, 0.9)]", "reasoning")):
        row = made_row("boppose", 0, 0.1, kind="pose", answer=answer, turns=[turn(box)])
        assert anatomy_of(row).error == expected
    refused = call("grasp_generator.compute_grasp", reason="collision")
    row = made_row("bopgrasp", 0, 0.1, kind="grasp", answer="Grasp center: [0.1, 0.1]",
                   parts={"success": 0.0}, turns=[turn(refused)])  # fmt: skip
    assert anatomy_of(row).error == "tool_wrong"


CLOSER = "Which object is closer, the lamp (red box) or the desk (blue box)?\n(A) lamp\n(B) desk"


def chosen(question: str, answer: str, *calls: CallRecord) -> tuple[str | None, bool]:
    row = made_row(
        "cvb3ddepth", 0, 0.0, kind="choice", question=question, answer=answer,
        turns=[turn(*calls)],
    )  # fmt: skip
    return error(anatomy_of(row))


def test_choices_follow_measured_depths_or_do_not() -> None:
    calls = (point("lamp (red box)", (0.2, 0.2)), point("the desk", (0.7, 0.7)),
             reading(0.2, 0.2, 3.0), reading(0.7, 0.7, 2.0))  # fmt: skip
    assert chosen(CLOSER, "B", *calls) == ("tool_wrong", True)
    assert chosen(CLOSER, "A", *calls) == ("reasoning", True)
    assert chosen(CLOSER, "B", *calls[:2]) == ("reasoning", False)
    same = (point("lamp", (0.2, 0.2)), point("desk", (0.2, 0.2)), reading(0.2, 0.2, 3.0))
    assert chosen(CLOSER, "A", *same) == ("tool_wrong", True)
    letters = "Which point is closer to the camera? (A) A is closer (B) B is closer"
    named = (point("red circle under label A", (0.2, 0.2)), point("label B", (0.7, 0.7)))
    assert chosen(letters, "B", *named, *calls[2:]) == ("tool_wrong", True)


def test_sides_follow_the_points_or_do_not() -> None:
    asked = (
        "Considering the relative positions of the sofa (annotated by the red box) and the door, "
        "where is the sofa (annotated by the red box) located with respect to the door? "
        "(A) left (B) right"
    )
    calls = point("sofa in red box", (0.8, 0.5)), point("door", (0.3, 0.5))
    assert chosen(asked, "B", *calls) == ("tool_wrong", True)
    assert chosen(asked, "A", *calls) == ("reasoning", True)
    assert chosen(asked, "A", calls[0]) == ("reasoning", False)


def test_numbers_are_read_where_a_tool_pointed_or_elsewhere() -> None:
    def measured(answer: str, *calls: CallRecord) -> str | None:
        row = made_row("tabletop-depth", 0, 0.0, kind="number", answer=answer, turns=[turn(*calls)])
        return anatomy_of(row).error

    assert measured("1.50", point("cup", (0.2, 0.2)), reading(0.2, 0.2, 1.5)) == "tool_wrong"
    assert measured("1.50", reading(0.2, 0.2, 1.5)) == "reasoning"
    assert measured("1.90", point("cup", (0.2, 0.2)), reading(0.2, 0.2, 1.5)) == "reasoning"
    # Two roundings of 1.595 lie 0.01 apart.
    assert measured("1.60", point("cup", (0.2, 0.2)), reading(0.2, 0.2, 1.59)) == "tool_wrong"
    assert measured("1.61", point("cup", (0.2, 0.2)), reading(0.2, 0.2, 1.59)) == "reasoning"
    # Right of the tools, but perhaps not what was asked for.
    assert measured("1.50", point("plate", (0.2, 0.2)), reading(0.2, 0.2, 1.5)) == "reasoning"


def test_what_counts_as_the_same_stands_on_the_page_and_in_the_guide() -> None:
    guide = (Path(__file__).resolve().parents[3] / "docs" / "EVALUATION.md").read_text()
    for bar in (SAME_PLACE, SAME_VALUE_M):
        assert str(bar) in RULES["tool_wrong"] and str(bar) in guide


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["yesno", "choice", "point_free", "pose", "grasp", "number"]),
            st.sampled_from([None, 0.0, 0.3, 0.6, 1.0]),
            st.sampled_from(["answered", "off_option", "unparsable"]),
            st.one_of(st.none(), st.text(max_size=20)),
        ),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_every_wrong_row_has_exactly_one_class(
    made: list[tuple[str, float | None, str, str | None]],
) -> None:
    rows = [
        made_row("x", n, score, kind=kind, state=state, answer=answer, target=SQUARE,
                 turns=[turn(point("cup", (0.1, 0.1)))])
        for n, (kind, score, state, answer) in enumerate(made)
    ]  # fmt: skip
    found = anatomies(rows, [])
    counts = error_counts(found, rows)
    assert tuple(counts.num) == CLASSES
    wrong = sum(one.outcome in ("wrong", "broken") for one in found.values())
    assert sum(counts.num.values()) == wrong


@pytest.mark.shared
def test_recorded_wrong_answers_fall_into_the_expected_classes(recorded_eval: Path) -> None:
    """Most of them repeat what a tool returned, as the reproducer's own attribution found."""
    counts: Counter[str | None] = Counter()
    for path in sorted(recorded_eval.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["ground_truth"] is not None and record["trajectory"]:
                counts[anatomy_of(recorded_row(record)).error] += 1
    counts.pop(None)
    assert counts == {"tool_wrong": 21, "reasoning": 10, "format": 1}


def recorded_row(record: dict) -> EvalRow:  # type: ignore[type-arg]
    asked = (record["benchmark"], record["question"] or "", record["ground_truth"])
    scored = score_answer(*asked, record["raw_answer"])
    turns = []
    for told in record["trajectory"]:
        pairs = zip(told.get("tool_calls", ()), told.get("tool_responses", ()), strict=False)
        turns.append(TurnRecord(text="", calls=tuple(recorded_call(a, b) for a, b in pairs)))
    return made_row(
        record["benchmark"], record["sample_id"], scored.accuracy, question=asked[1],
        kind=kind_of(record["benchmark"], record["ground_truth"]), turns=turns,
        target=record["ground_truth"], answer=record["raw_answer"], state=scored.state,
        parts={"success": scored.parts["sr"]} if "sr" in scored.parts else {},
    )  # fmt: skip


def recorded_call(asked: dict, told: dict) -> CallRecord:  # type: ignore[type-arg]
    failed = told["text"].startswith("No collision-free") or "filtering removed" in told["text"]
    return call(
        asked["name"],
        reply=told["text"],
        reason="collision" if failed else "",
        **asked["arguments"],
    )


# ---- chains and times ---------------------------------------------------------------------------


def test_chains_name_families_calls_and_turns() -> None:
    calls = point("a", (0.1, 0.1)), point("b", (0.2, 0.2)), call("depth_estimator.estimate_depth")
    rows = [
        made_row(
            "blinkdepth", n, float(n), turns=[turn(*calls), turn(reading(0.1, 0.1, 1)), turn()]
        )
        for n in range(2)
    ]
    rows += [made_row("blinkdepth", 2, 1.0), made_row("blinkdepth", 3, None)]
    first, second = chain_shares(rows)
    assert first.chain == "depth_estimatorx1+roboreferx2+vision_opsx1@3t"
    assert (first.num, first.mean_score, second.chain) == (2, 0.5, "@1t")
    assert first.share == pytest.approx(2 / 3)


def test_times_are_percentiles_of_calls_and_turns() -> None:
    calls = [call("vlm.detect_one", total_s=0.01 * n) for n in range(101)]
    row = made_row("blinkdepth", 0, 1.0, turns=[turn(*calls), turn()])
    (found,) = tool_times([row])
    assert (found.total.p50, found.total.p95, found.total.p99) == pytest.approx((0.5, 0.95, 0.99))
    turns = turn_times([row])
    assert turns is not None and turns.num_turns == 2 and turns.tools.p50 == 0.25
    assert turn_times([]) is None
