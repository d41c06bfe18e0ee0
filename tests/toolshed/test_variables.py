"""Variables of a session: bounded, expiring, and never silent about what became of them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.toolshed.fake_tools import HERE, picture
from toolshed.config import parse_tools
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.session import Session
from toolshed.shed import Toolshed
from toolshed.types import Json, StoredArray, ToolCall, Variable
from toolshed.variables import NUM_GONE, Variables


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def variable(name: str, value: object = 1.0) -> Variable:
    return Variable(name=name, kind="number", value=value)


def kept(clock: Clock, most: int = 3) -> Variables:
    return Variables(most=most, max_bytes=1000, seconds=60.0, clock=clock)


def test_the_least_used_goes_first_and_its_name_is_remembered() -> None:
    variables = kept(Clock())
    for name in ("a", "b", "c"):
        variables.keep(variable(name))
    assert variables["a"].value == 1.0
    variables.keep(variable("d"))
    assert list(variables) == ["c", "a", "d"]
    with pytest.raises(ToolRefusal, match=r"\$b has expired: only 3 .*variables: \$c, \$a, \$d"):
        variables.check_not_gone("b")
    variables.check_not_gone("never there")
    variables.keep(variable("b"))
    variables.check_not_gone("b")


def test_names_that_a_model_chooses_take_no_memory_without_end() -> None:
    variables = kept(Clock())
    for number in range(3 + NUM_GONE + 50):
        variables.keep(variable(f"name_{number}"))
    assert len(variables._gone) == NUM_GONE
    variables.check_not_gone("name_49")
    with pytest.raises(ToolRefusal, match="has expired"):
        variables.check_not_gone("name_50")
    variables.clear()
    assert not variables._gone


def test_a_session_keeps_no_order_of_names_once_its_calls_have_ended() -> None:
    config = parse_tools({"vlm": {"backend": f"{HERE}:FakePointing"}})

    async def turns(session: Session) -> None:
        for turn in range(20):
            names = [f"cup {turn} {number}" for number in range(3)]
            calls = [
                ToolCall(
                    id=name, name="vlm.detect_one", arguments={"obj_name": name, "image_index": 0}
                )
                for name in names
            ]
            results = await asyncio.gather(*(session.call(each) for each in calls))
            assert all(each.status == "ok" for each in results)

    with Toolshed.open(config) as shed:
        session = shed.session([picture()])
        asyncio.run(turns(session))
        assert len(session.variables) == 60 and not session._written


def test_a_variable_expires_when_nobody_uses_it() -> None:
    clock = Clock()
    variables = kept(clock)
    variables.keep(variable("old"))
    variables.keep(variable("used"))
    clock.now_s = 50.0
    assert "used" in variables and variables["used"].value == 1.0
    clock.now_s = 70.0
    assert list(variables) == ["used"]
    with pytest.raises(ToolRefusal, match=r"\$old has expired: nobody used it for 1 minutes"):
        variables.check_not_gone("old")


def test_the_world_neither_counts_nor_expires() -> None:
    clock = Clock()
    variables = kept(clock, most=1)
    variables.keep(variable("_world"))
    variables.keep(variable("a"))
    clock.now_s = 1e9
    assert list(variables) == ["_world"]


def test_what_is_too_large_is_refused_with_its_size() -> None:
    array = np.zeros(1000, dtype=np.float32)
    with pytest.raises(ToolRefusal, match=r"\$cloud would take 0 MB") as caught:
        kept(Clock()).check((variable("cloud", array),))
    assert caught.value.reason == "too_large"


class Lost(StoredArray):
    """An array whose machine is gone."""

    dtype, shape, key = "<f4", (8, 8), "lost"

    def fetch(self) -> np.ndarray:
        raise ToolFailure("expired", "its node is gone")


def test_a_model_reads_which_variable_a_lost_machine_took_with_it() -> None:
    families: dict[str, Json] = {
        "depth_estimator": {"backend": f"{HERE}:FakeDepth"},
        "vision_ops": {"backend": f"{HERE}:FetchingVisionOps"},
        "code_executor": {"backend": "light"},
    }
    with Toolshed.open(parse_tools(families)) as shed:
        session = shed.session([picture()])
        session.variables.keep(Variable(name="depth_map", kind="depth_map", value=Lost()))
        reading = ToolCall(
            id="1", name="vision_ops.index_at", arguments={"data": "$depth_map", "u": 0, "v": 0}
        )
        for _ in range(2):
            result = session.call_now(reading)
            assert (result.status, result.reason) == ("refused", "expired_variable")
            assert "$depth_map has expired: the machine that held it is gone" in result.text
        named: dict[str, Json] = {"expression": "d", "variables": {"d": "$depth_map"}}
        result = session.call_now(ToolCall(id="3", name="code_executor.eval", arguments=named))
        assert (result.status, result.reason) == ("refused", "expired_variable")
        made = ToolCall(id="2", name="depth_estimator.estimate_depth", arguments={"image_index": 0})
        assert session.call_now(made).status == "ok"
        assert session.call_now(reading).status == "ok"


def test_variables_of_another_session_are_unknown() -> None:
    with Toolshed.open(parse_tools({"vision_ops": {"backend": f"{HERE}:FakeVisionOps"}})) as shed:
        first, second = shed.session(), shed.session()
        first.variables.keep(Variable(name="depth_map", kind="depth_map", value=np.ones((2, 2))))
        call = ToolCall(
            id="1", name="vision_ops.index_at", arguments={"data": "$depth_map", "u": 0, "v": 0}
        )
        assert first.call_now(call).status == "ok"
        refused = second.call_now(call)
        assert (refused.status, refused.reason) == ("refused", "unknown_variable")
        first.close()
        assert first.call_now(call).reason == "unknown_variable"
