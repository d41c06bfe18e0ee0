"""Variables of a session: bounded, expiring, and never silent about what became of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toolshed.fake_tools import HERE, picture
from toolshed.config import parse_tools
from toolshed.errors import ToolFailure, ToolRefusal
from toolshed.shed import Toolshed
from toolshed.types import Json, StoredArray, ToolCall, Variable
from toolshed.variables import Variables


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
