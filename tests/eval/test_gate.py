"""What poisons a run, and what does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from eval.breakages import BREAKAGES, breakage_in
from eval.gate import FEW, Limits, allowed, findings_of, phantoms, verdict_of
from eval.rows import EvalRow
from rl.show.episode import CallRecord, TurnRecord
from tests.eval.test_rows import make_row

# ---- texts of broken machinery ------------------------------------------------------------------

TOLD = {
    "out_of_memory": (
        "Error: CUDA out of memory. Tried to allocate 2.00 GiB",
        "torch.OutOfMemoryError: HIP",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.5 GiB for an array",
        "cuBLAS failed: CUBLAS_STATUS_ALLOC_FAILED",
    ),
    "device_lost": ("CUDA error: an illegal memory access was encountered",),
    "no_tool_process": (
        "Error when executing tool: Router actor not found",
        "ray.exceptions.RayActorError: The actor died unexpectedly before finishing this task.",
        "ActorDiedError: the worker process has died",
        "$depth_map has expired: the machine that held it is gone; call its tool again",
    ),
    "connection": (
        "HTTPConnectionPool(host='127.0.0.1', port=8000): Max retries exceeded with url: /query",
        "[Errno 111] Connection refused",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
    ),
    "server_error": (
        "Error: HTTP 500",
        "Request failed with status code 503",
        "502 Server Error: Bad Gateway for url",
        "Internal Server Error",
    ),
    "timeout": ("Error: ReadTimeout", "the request timed out after 60 s", "GetTimeoutError"),
    "traceback": ("Traceback (most recent call last):\n  File ...\nKeyError: 'x'",),
}


@pytest.mark.parametrize(
    ("reason", "text"), [(reason, text) for reason, texts in TOLD.items() for text in texts]
)
def test_texts_of_broken_machinery_are_known(reason: str, text: str) -> None:
    found = breakage_in("sam2.segment_from_point", {"x": 0.5}, text)
    assert found.startswith(f"sam2.segment_from_point: {reason}: the reply says ")
    assert TOLD.keys() == {each.reason for each in BREAKAGES}


@pytest.mark.parametrize(
    "text",
    [
        "Pixel value at (0.503, 0.500) is 502.0",
        "Detected 1 instance(s) of 'router on the shelf': [(0.500, 0.503)]",
        "Oriented bounding box computed from 500/503 points. Status: 500 points kept",
        "Error: TypeError: point_cloud must be Nx3 numpy array, got str. Did you use the $ syntax?",
        "Error when executing tool: u = 1.5 is outside [0, 1]",
        "No grasp without collision among 200; the last status was 4",
        "$mask would take 300 MB; a variable may take 256 MB; use a smaller picture",
    ],
)
def test_answers_and_refusals_are_none(text: str) -> None:
    assert breakage_in("vision_ops.index_at", {}, text) == ""


def test_what_the_model_wrote_is_not_read() -> None:
    arguments: dict[str, JsonValue] = {"obj_name": "sticker 'connection refused'", "image_index": 0}
    reply = "Detected 1 instance of 'sticker connection refused': [(0.5, 0.5)]"
    assert breakage_in("vlm.detect_one", arguments, reply) == ""
    assert breakage_in("vlm.detect_one", {}, reply)
    program = "Traceback (most recent call last): ZeroDivisionError"
    assert breakage_in("code_executor.exec", {"code": "1/0"}, program) == ""


@given(text=st.text(max_size=400), argument=st.text(max_size=40))
def test_any_text_is_read_without_harm(text: str, argument: str) -> None:
    found = breakage_in("a.b", {"x": [argument, {"y": argument}]}, text)
    assert found == "" or found.startswith("a.b: ")


# ---- rows ---------------------------------------------------------------------------------------


def row_with(number: int, *calls: CallRecord, text: str = "<answer>1</answer>") -> EvalRow:
    row = make_row(number)
    turns = (TurnRecord(text="", calls=calls), TurnRecord(text=text)) if calls else ()
    return replace(row, episode=replace(row.episode, turns=turns or (TurnRecord(text=text),)))


def call(reply: str, status: Any = "ok", **arguments: Any) -> CallRecord:
    return CallRecord(name="sam2.segment", arguments=arguments, status=status, reply=reply)


def test_a_text_that_counted_as_an_answer_poisons() -> None:
    rows = [row_with(n, call("fine")) for n in range(200)]
    assert not verdict_of(rows).poisoned
    bad = row_with(200, call("CUDA out of memory"))
    verdict = verdict_of([*rows, bad])
    assert verdict.poisoned and verdict.findings[0].key == bad.key
    assert verdict.reasons == (
        "tabletop-depth: machinery broke in 1 of 201 rows (allowed: 0), most often (1 times): "
        "sam2.segment: out_of_memory: the reply says 'CUDA out of memory'",
    )
    assert not verdict_of([*rows, bad], Limits(infrastructure=0.01)).poisoned


def test_a_row_that_stayed_broken_poisons() -> None:
    verdict = verdict_of([make_row(0), make_row(1, failed=True)])
    assert verdict.poisoned and "machinery broke in 1 of 2 rows" in verdict.reasons[0]


def test_the_released_checkpoints_phantoms_pass_and_are_listed() -> None:
    odd = call("no variable", "refused", mask="$segmentation_mask")
    rows = [row_with(n, odd if n < 2 else call("fine")) for n in range(124)]
    verdict = verdict_of(rows)
    assert not verdict.poisoned
    assert [f.words for f in verdict.findings] == ["$segmentation_mask"] * 2
    many = [row_with(n, odd if n < 7 else call("fine")) for n in range(124)]
    assert (
        "calls used variables that no tool had published in 7 of 124"
        in (verdict_of(many).reasons[0])
    )


def test_only_answers_publish() -> None:
    said = "no variable $mask; variables: none yet"
    row = row_with(0, call(said, "refused", mask="$mask"), call("ok", "ok", mask="$mask[0].u"))
    assert [f.words for f in findings_of(row)] == ["$mask"]
    kept = replace(call("done"), variables=("mask",))
    assert findings_of(row_with(0, kept, call("ok", mask="$mask"))) == []


def test_silence_is_found() -> None:
    assert [f.kind for f in findings_of(row_with(0, text=" \n"))] == ["empty_reply"]
    words = [f.words for f in findings_of(row_with(0, call("")))]
    assert words == ["sam2.segment answered with nothing"]
    row = make_row(0)
    refused = TurnRecord(text="", finish="refusal")
    assert not findings_of(replace(row, episode=replace(row.episode, turns=(refused,))))


def test_limits_of_few_rows() -> None:
    assert allowed(0.0, 10**6) == 0
    assert allowed(0.05, 4) == FEW
    assert allowed(0.05, 124) == 6


def test_a_stopped_run_is_poisoned() -> None:
    verdict = verdict_of([make_row(0)], stopped="9 of 20 episodes broke")
    assert verdict.reasons == ("the run was stopped: 9 of 20 episodes broke",)


# ---- recorded conversations ---------------------------------------------------------------------


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["trajectory"]:
                yield record


@pytest.mark.shared
def test_phantom_variables_are_those_that_were_recorded(recorded_eval: Path) -> None:
    num, num_phantom = 0, 0
    for record in _records(recorded_eval):
        arguments = [c["arguments"] for turn in record["trajectory"] for c in turn["tool_calls"]]
        replies = [r["text"] for turn in record["trajectory"] for r in turn["tool_responses"]]
        found = phantoms(arguments, replies)
        assert sorted(found) == sorted(record["vars_phantom"]), record["sample_id"]
        num, num_phantom = num + 1, num_phantom + bool(found)
    assert num >= 90 and num_phantom >= 1


@pytest.mark.shared
def test_no_recorded_reply_tells_of_broken_machinery(recorded_eval: Path) -> None:
    for record in _records(recorded_eval):
        for turn in record["trajectory"]:
            for each, reply in zip(turn["tool_calls"], turn["tool_responses"], strict=True):
                assert breakage_in(each["name"], each["arguments"], reply["text"]) == ""
