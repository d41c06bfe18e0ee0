"""The call log: exactly one whole line per call, whatever is in it and whoever else writes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolshed.fake_tools import HERE, picture
from toolshed.call_log import CallLog, call_line, read_calls
from toolshed.config import parse_tools
from toolshed.errors import ConfigError
from toolshed.shed import Toolshed
from toolshed.types import CodeRun, Json, Timings, ToolCall, ToolResult


def result(status: str = "ok", text: str = "fine") -> ToolResult:
    assert status in ("ok", "refused", "failed")
    return ToolResult(call_id="1", name="a.b", status=status, text=text)  # type: ignore[arg-type]


CALL = ToolCall(id="1", name="a.b", arguments={"x": 1})


def open_shed(folder: Path, log: Path | str) -> Toolshed:
    return Toolshed.open(
        parse_tools(
            {
                "call_log": str(log),
                "depth_estimator": {"backend": f"{HERE}:FakeDepth"},
                "trouble": {"backend": f"{HERE}:Trouble", "arguments": {"folder": str(folder)}},
            }
        )
    )


def test_each_outcome_leaves_one_line(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "calls.jsonl"
    names = ["depth_estimator.estimate_depth", "trouble.decline", "trouble.starve", "no.such"]
    with open_shed(tmp_path, log) as shed:
        session = shed.session([picture(size=8)])
        for number, name in enumerate(names):
            arguments: dict[str, Json] = {"image_index": 0} if name.startswith("depth") else {}
            session.call_now(ToolCall(id=str(number), name=name, arguments=arguments))
    lines = list(read_calls(log))
    assert [line["tool"] for line in lines] == names
    assert [line["call"] for line in lines] == ["0", "1", "2", "3"]
    told = [(line["status"], line["reason"]) for line in lines]
    assert told[:2] == [("ok", ""), ("refused", "no_mood")]
    assert told[2:] == [("failed", "out_of_memory"), ("refused", "unknown_tool")]
    assert len({line["session"] for line in lines}) == 1
    first = lines[0]
    assert first["kept_bytes"] == 8 * 8 * 4
    assert first["argument_chars"] == len('{"image_index":0}')
    assert isinstance(first["run_ms"], float) and isinstance(first["total_ms"], float)
    assert 0 < first["run_ms"] <= first["total_ms"]


def test_calls_made_together_leave_a_line_each(tmp_path: Path) -> None:
    async def many(shed: Toolshed) -> None:
        session = shed.session()
        calls = [ToolCall(id=str(i), name="trouble.where", arguments={}) for i in range(40)]
        await asyncio.gather(*(session.call(each) for each in calls))

    with open_shed(tmp_path, tmp_path / "calls") as shed:
        asyncio.run(many(shed))
    assert sorted(int(str(line["call"])) for line in read_calls(tmp_path / "calls")) == [*range(40)]


_WRITER = """
import sys
from toolshed.call_log import CallLog
from toolshed.types import ToolCall, ToolResult
log = CallLog(sys.argv[1])
for number in range(400):
    call = ToolCall(id=str(number), name="a.b", arguments={"x": "y" * (number * 7 % 900)})
    log.append(sys.argv[2] * 40, call, ToolResult(call_id=call.id, name="a.b", status="ok"))
"""


def test_code_and_the_calls_that_it_makes_leave_a_line_each(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    content: dict[str, Json] = {
        "call_log": str(log),
        "vlm": {"backend": f"{HERE}:FakePointing"},
        "code_executor": {"backend": "light"},
    }
    code = "tools.vlm.detect_one('cup', 0)"
    with Toolshed.open(parse_tools(content)) as shed:
        call = ToolCall(id="1", name="code_executor.exec", arguments={"code": code})
        result = shed.session([picture()]).call_now(call)
    inner, outer = read_calls(log)
    assert (inner["call"], inner["tool"]) == ("1.1", "vlm.detect_one") and "sandbox" not in inner
    assert isinstance(result.value, CodeRun) and outer["sandbox"] == result.value.level


def test_programs_share_a_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "calls")]
    writers = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [each.wait(60) for each in writers] == [0, 0, 0]
    text = (tmp_path / "calls").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for name in "abc":
        own = [int(line["call"]) for line in lines if line["session"] == name * 40]
        assert own == list(range(400))


def test_a_torn_line_harms_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    log = CallLog(path)
    log.append("s", CALL, result())
    with path.open("a") as file:
        file.write('{"time":17, "sess')
    CallLog(path).append("s", CALL, result("failed"))
    assert [line["status"] for line in read_calls(path)] == ["ok", "failed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_disk_is_said_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_shed(tmp_path, "/dev/full") as shed:
        session = shed.session()
        for _ in range(3):
            assert session.call_now(ToolCall(id="1", name="trouble.where", arguments={})).text
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "calls go on" in said


def test_a_log_that_cannot_be_had_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"call_log: .* cannot be written .*name another file"):
        open_shed(tmp_path, tmp_path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(name=st.text(), arguments=st.dictionaries(st.text(), _JSON, max_size=3), text=st.text())
def test_whatever_a_model_writes_the_line_is_one_and_whole(
    name: str, arguments: dict[str, Json], text: str
) -> None:
    call = ToolCall(id=text, name=name, arguments=arguments)
    timings = Timings(queue_s=0.001, total_s=1.5)
    line = call_line("s", call, ToolResult(call_id=text, name=name, status="ok", timings=timings))
    assert line.endswith("\n") and line.count("\n") == 1 and line.isascii()
    content = json.loads(line)
    assert (content["tool"], content["call"]) == (name, text)
    assert (content["queue_ms"], content["total_ms"]) == (1.0, 1500.0)


def test_arguments_that_json_cannot_hold_have_no_size() -> None:
    circle: list[Json] = []
    circle.append(circle)
    for value in (circle, {1, 2}):
        call = ToolCall(id="1", name="a.b", arguments={"x": value})  # type: ignore[dict-item]
        assert json.loads(call_line("s", call, result()))["argument_chars"] is None
