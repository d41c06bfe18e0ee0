"""Code as a tool: variables in, ``$result`` out, the session's tools within reach of the code."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.toolshed.fake_tools import HERE, picture
from toolshed.backends.code_executor import SandboxedCode, without_fences
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.hosting import BesideHost
from toolshed.registry import contract_of
from toolshed.replies import render, variables
from toolshed.sandbox import levels
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.tabletop.state import WorldState
from toolshed.tool import Family, SessionTools, methods_of, specs_of, tool
from toolshed.types import CodeRun, Json, TextReply, ToolCall, ToolImage, ToolResult

FAKES = {
    "vlm": "FakePointing",
    "sam2": "FakeSegmentation",
    "depth_estimator": "FakeDepth",
    "vision_ops": "FakeVisionOps",
    "robot": "FakeRobot",
}


@pytest.fixture(scope="module")
def shed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toolshed]:
    families: dict[str, Json] = {
        name: {"backend": f"{HERE}:{fake}"} for name, fake in FAKES.items()
    }
    trouble: dict[str, Json] = {
        "backend": f"{HERE}:Trouble",
        "arguments": {"folder": str(tmp_path_factory.mktemp("trouble"))},
    }
    content: dict[str, Json] = {
        **families,
        "trouble": trouble,
        "code_executor": {"backend": "light"},
    }
    with Toolshed.open(parse_tools(content)) as opened:
        yield opened


@pytest.fixture
def session(shed: Toolshed) -> Session:
    return shed.session([picture(3)], scene=3)


def ask(session: Session, *calls: tuple[str, dict[str, Json]]) -> list[ToolResult]:
    async def together() -> list[ToolResult]:
        made = [
            ToolCall(id=f"call_{number}", name=name, arguments=arguments)
            for number, (name, arguments) in enumerate(calls)
        ]
        return list(await asyncio.gather(*(session.call(each) for each in made)))

    return asyncio.run(together())


def execute(session: Session, code: str, **given: Json) -> ToolResult:
    (result,) = ask(session, ("code_executor.exec", {"code": code, **given}))
    return result


def estimated(session: Session) -> Session:
    ask(session, ("depth_estimator.estimate_depth", {"image_index": 0}))
    return session


def test_the_schema_shows_what_the_model_may_write() -> None:
    contract = contract_of("code_executor", "light")
    run, compute = specs_of(contract)
    assert (run.name, compute.name) == ("code_executor.exec", "code_executor.eval")
    properties: Any = run.parameters["properties"]
    assert {name: each["type"] for name, each in properties.items()} == {
        "code": "string",
        "variables": "object",
    }
    assert run.parameters["required"] == ["code"]
    assert compute.parameters["required"] == ["expression"]
    assert contract.calls_tools and not contract.idempotent and not contract.stateful


def test_variables_go_in_and_the_result_comes_out(session: Session) -> None:
    estimated(session)
    found = execute(
        session,
        "print('hello')\nnp.median(d) + extra[1]",
        variables={"d": "$depth_map", "extra": [1, 2], "f": "$focal_length_px"},
    )
    assert found.text == ("Result: 6.5\nStdout: hello\nKept for later calls: $result (number).")
    assert session.variables["result"].kind == "number"
    assert isinstance(found.value, CodeRun) and found.value.level == levels.choose().level
    (twice,) = ask(
        session, ("code_executor.eval", {"expression": "2 * x", "variables": {"x": "$result"}})
    )
    assert session.variables["result"].value == 13.0 and twice.status == "ok"


def test_results_serve_other_tools_where_a_literal_would(session: Session) -> None:
    estimated(session)
    execute(session, "d + 1", variables={"d": "$depth_map"})
    (read,) = ask(session, ("vision_ops.index_at", {"data": "$result", "u": 0, "v": 0}))
    assert read.text == "Pixel value at (0.000, 0.000) is 2.0"
    execute(session, "[(0.25, 0.5), (0.1, 0.2)]")
    (cut,) = ask(session, ("sam2.segment_from_points", {"points": "$result", "image_index": 0}))
    assert cut.status == "ok"
    (one,) = ask(
        session, ("sam2.segment_from_point", {"x": "$result[0][1]", "y": 0, "image_index": 0})
    )
    assert one.status == "ok"
    execute(session, "np.zeros((2, 3, 4, 5))")
    (wrong,) = ask(session, ("vision_ops.index_at", {"data": "$result", "u": 0, "v": 0}))
    assert wrong.reason == "bad_argument" and "2 x 3 x 4 x 5" in wrong.text
    execute(session, "np.full((2, 2), np.nan)")
    (none,) = ask(session, ("vision_ops.index_at", {"data": "$result", "u": 0, "v": 0}))
    assert none.reason == "bad_argument"


def test_a_picture_is_kept_and_shown(session: Session) -> None:
    found = execute(session, "255 - image", variables={"image": "$none"})
    assert found.reason == "unknown_variable"
    (kept,) = ask(session, ("robot.capture_image", {}))
    assert kept.images
    found = execute(session, "255 - image", variables={"image": "$captured_image"})
    assert found.text == "Result: image, 8x8\nKept for later calls: $result (image, 8x8)."
    (image,) = found.images
    assert int(image.pixels[0, 0, 0]) == 255 and session.images[2] is image


def test_code_calls_tools_as_the_model_does(session: Session) -> None:
    found = execute(
        session,
        "cup = tools.vlm.detect_one('cup', 0)\n"
        "(x, y), = cup.points\n"
        "mask = tools.sam2.segment_from_point(x=x, y=np.float64(y), image_index=0).mask\n"
        "read = toolkit.vision_ops.index_at('$segmentation_mask', 0, 0)\n"
        "result = [x, y, mask.shape[0], read.value, cup.text[:8]]",
    )
    assert isinstance(found.value, CodeRun)
    assert found.value.result == [0.5, 0.25, 8, False, "Detected"]
    assert found.value.calls == ("vlm.detect_one", "sam2.segment_from_point", "vision_ops.index_at")
    assert {"cup_detections", "segmentation_mask", "result"} <= set(session.variables)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("tools.vlm.detect_one('cup', 7)", "image_index=7 but only 1 images"),
        ("tools.vlm.detect_one('cup', image_index=True)", "got true"),
        ("tools.vlm.detect_one('cup')", "needs image_index"),
        ("tools.vlm.detect_one('cup', 0, 1)", "takes obj_name, image_index"),
        ("tools.vlm.detect_one('cup', obj_name='cup', image_index=0)", "given twice"),
        ("tools.vlm.detect_none('cup', 0)", "detect_none"),
        ("tools.nothing.at_all()", "families: vlm, sam2"),
        ("tools.code_executor.eval('1')", "no tools of family 'code_executor'"),
        ("tools.vision_ops.index_at(np.zeros((99, 99)), 0, 0)", "more than 1000 values"),
        ("tools.vision_ops.index_at('$depth_map', 0, 0)", "no variable"),
        ("tools.vision_ops.index_at(object(), 0, 0)", "object"),
    ],
)
def test_calls_of_code_are_checked_like_the_models(session: Session, code: str, words: str) -> None:
    found = execute(session, code)
    assert isinstance(found.value, CodeRun) and words in found.value.stderr, found.text
    assert found.value.result is None and "result" not in session.variables


def test_a_raw_message_cannot_reach_further_than_the_proxies(session: Session) -> None:
    code = """
import gc
(channel,) = [each for each in gc.get_objects() if type(each).__name__ == "Channel"]
replies = []
for name in ("code_executor.eval", "vlm.__init__", "shed.close", "vlm"):
    channel.send({"do": "call", "name": name, "arguments": {"expression": "1"}})
    replies.append(channel.receive()["reason"])
result = replies
"""
    found = execute(session, code)
    assert isinstance(found.value, CodeRun)
    assert found.value.result == ["too_deep", "unknown_tool", "unknown_tool", "unknown_tool"]


def test_a_quota_of_calls(session: Session) -> None:
    code = """
made = 0
try:
    for _ in range(20):
        tools.vlm.detect_one("cup", 0)
        made += 1
except tools.Error as error:
    result = [made, error.reason, str(error)]
"""
    found = execute(session, code)
    assert isinstance(found.value, CodeRun)
    assert found.value.result == [8, "quota", "call 9 of this run; allowed: 8 tool calls"]


def test_pictures_of_nested_calls_join_in_order(session: Session) -> None:
    moves = "tools.robot.execute_grasp(np.eye(4))\ntools.robot.capture_image()\n"
    results = ask(
        session,
        ("code_executor.exec", {"code": moves + "np.zeros((4, 4, 3), np.uint8)"}),
        ("robot.capture_image", {}),
    )
    first, second = results
    assert [each.width for each in first.images] == [8, 8, 4] and len(second.images) == 1
    assert [each.width for each in session.images] == [8, 8, 8, 4, 8]
    assert session.images[1:4] == list(first.images)
    world = session.world
    assert isinstance(world, WorldState) and world.num_actions == 1


def test_the_last_writer_of_a_name_is_the_call_that_comes_last(session: Session) -> None:
    """A sibling made later wins over what an earlier one's code brought, however late."""
    code = "time.sleep(0.5)\ntools.depth_estimator.estimate_depth(0)\n7"
    late = picture(9, size=4)
    session.images.append(late)
    ask(
        session,
        ("code_executor.exec", {"code": code}),
        ("depth_estimator.estimate_depth", {"image_index": 1}),
    )
    assert getattr(session.variables["depth_map"].value, "shape", None) == (4, 4)
    assert session.variables["result"].value == 7


def test_broken_machinery_under_code_fails_the_whole_call(session: Session) -> None:
    found = execute(session, "try: tools.trouble.starve()\nexcept Exception: pass\nresult = 1")
    assert (found.status, found.reason) == ("failed", "out_of_memory")
    with pytest.raises(KeyError, match="a bug"):
        execute(session, "tools.trouble.bug()")


def test_stale_results_and_double_runs_cannot_be(session: Session) -> None:
    assert execute(session, "result = 5").value is not None
    again = execute(session, "pass")
    assert again.text == "The code ran and left no output." and again.variables == ()
    code = "tools.vlm.detect_one('cup', 0)\nraise SyntaxError('late')"
    late = execute(session, code)
    assert isinstance(late.value, CodeRun) and late.value.calls == ("vlm.detect_one",)
    early = execute(session, "tools.vlm.detect_one('cup', 0)\nx = = 1")
    assert isinstance(early.value, CodeRun) and early.value.calls == ()
    assert "SyntaxError" in early.text


def test_limits_are_refusals_that_name_them(
    shed: Toolshed, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = execute(session, "for _ in range(100): print('x' * 20000)")
    assert (found.status, found.reason) == ("refused", "limit_output")
    assert found.text == "Error: code: the program printed more than 1 MB and was stopped"
    (died,) = ask(session, ("code_executor.eval", {"expression": "__import__('os')._exit(1)"}))
    assert died.reason == "died" and died.text.startswith("Error: expression: the program ended")


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({"code": ""}, "bad_argument", "code"),
        ({"code": 3}, "bad_argument", "code: got 3"),
        ({"code": "x" * 9000}, "bad_argument", "code: got text of 9000 characters"),
        ({"code": "1", "variables": "$depth_map"}, "bad_argument", "variables: got"),
        ({"code": "1", "variables": {"a b": 1}}, "bad_argument", 'variables: got "a b"'),
        ({"code": "1", "variables": {"__class__": 1}}, "bad_argument", "__class__"),
        ({"code": "1", "variables": {"for": 1}}, "bad_argument", "for"),
        ({"code": "1", "variables": {"a": "$_world"}}, "unknown_variable", "variables.a"),
        ({"code": "1", "variables": {"a": float("nan")}}, "bad_argument", "variables.a"),
        ({"code": "1", "variables": {"a": [[1e999]]}}, "bad_argument", "variables.a"),
    ],
)
def test_arguments_are_taken_strictly(
    session: Session, arguments: dict[str, Json], reason: str, words: str
) -> None:
    (found,) = ask(session, ("code_executor.exec", arguments))
    assert (found.status, found.reason) == ("refused", reason) and words in found.text, found.text


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("1 + 1", "1 + 1"),
        ("```python\n1 + 1\n```", "1 + 1"),
        ("Here:\n``` py \nx = 1\nx\n```\nand that is it", "x = 1\nx"),
        ("```\na\n```\n```python\nb\n```", "b"),
        ("x = '```'", "x = '```'"),
    ],
)
def test_fences_are_taken_off(written: str, code: str) -> None:
    assert without_fences(written) == code


RUN = CodeRun(result=None, text="", text_length=0, stdout="", stderr="", level="bwrap")


def with_(**fields: Any) -> CodeRun:
    return dataclasses.replace(RUN, **fields)


@pytest.mark.parametrize(
    ("value", "released", "compact"),
    [
        (RUN, "The code ran and left no output.", "done"),
        (
            with_(result=0.865, text="0.865", text_length=5),
            "Result: 0.865\nKept for later calls: $result (number).",
            "$result 0.86",
        ),
        (
            with_(text="x" * 1000, text_length=5000, stdout="a\nb\n"),
            f"Result: {'x' * 200}... (truncated)\nStdout: a\nb",
            "a b",
        ),
        (
            with_(result=[1, 2], text="[1, 2]", text_length=6, stdout="hi\n"),
            "Result: [1, 2]\nStdout: hi\nKept for later calls: $result (list, 2 entries).",
            "$result [1, 2] printed: hi",
        ),
        (
            with_(stderr="Traceback\nValueError: no\n"),
            "Stderr: Traceback\nValueError: no",
            "error: ValueError: no",
        ),
        (
            with_(result=np.zeros((2, 3)), text="[[0. 0. 0.]]", text_length=12),
            "Result: [[0. 0. 0.]]\nKept for later calls: $result (numpy array, 2x3).",
            "$result [[0. 0. 0.]]",
        ),
        (
            with_(result=picture(), text="[[[", text_length=3),
            "Result: image, 8x8\nKept for later calls: $result (image, 8x8).",
            "$result image 2",
        ),
    ],
)
def test_golden_texts(value: CodeRun, released: str, compact: str) -> None:
    assert render(value, "released") == released
    index = 2 if isinstance(value.result, ToolImage) else None
    assert render(value, "compact", image_index=index) == compact
    assert [each.name for each in variables(value)] == ["result"] * (value.result is not None)


def test_much_output_is_cut_in_the_middle() -> None:
    text = render(with_(stdout="a" * 5000 + "z" * 5000), "released")
    assert len(text) < 3100 and "a... (truncated) ...z" in text


# ---- where it works ---------------------------------------------------------------------------


def test_the_family_works_beside_the_caller(shed: Toolshed) -> None:
    assert isinstance(shed._host, BesideHost)


def test_a_family_without_the_word_gets_no_tools() -> None:
    class Sly(Family):
        name = "sly"

        @tool
        def act(self, tools: SessionTools) -> TextReply:
            """Act."""
            return TextReply(text="")

    with pytest.raises(ConfigError, match="calls_tools"):
        methods_of(Sly)


def test_levels_may_be_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'docker' is none of sandlock, bwrap, rlimits"):
        SandboxedCode(require_level="docker")
    with pytest.raises(ConfigError, match="max_running"):
        SandboxedCode(max_running=0)
    monkeypatch.setattr(levels, "missing_for", lambda level: "a wish")
    content: dict[str, Json] = {
        "code_executor": {"backend": "light", "arguments": {"require_level": "sandlock"}}
    }
    with pytest.raises(ConfigError, match="sandlock needs a wish"):
        Toolshed.open(parse_tools(content))
