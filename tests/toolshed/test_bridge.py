"""The bridge: another process answers as this one would, and nothing it does hangs or is lost."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.toolshed.bridge_start import METHODS, pid_of, probing, variables_of
from toolshed.backend import Answer, BackEnd, BackEndSpec, Request, Voice
from toolshed.codec import CodecError
from toolshed.environments.bridge import Bridged
from toolshed.environments.environment import bridged, find
from toolshed.errors import ConfigError, ToolFailure, ToolRefusal
from toolshed.types import TextReply

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def tools() -> Iterator[Bridged]:
    made = probing()
    yield made
    made.close()


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, limit_s: float = 5.0) -> bool:
    end_s = time.monotonic() + limit_s
    while is_running(pid) and time.monotonic() < end_s:
        time.sleep(0.02)
    return not is_running(pid)


# ---- the same answers --------------------------------------------------------------------------


def test_a_bridged_family_answers_as_it_does_in_this_process() -> None:
    spec = BackEndSpec(
        name="vision_ops",
        location="toolshed.backends.light_vision_ops:LightVisionOps",
        arguments={},
        methods=("index_at",),
        voice=Voice(profile="released", defects="fixed"),
    )
    array = np.random.default_rng(0).random((40, 30)).astype(np.float32)
    request = Request(
        family="vision_ops", method="index_at", arguments={"data": array, "u": 0.3, "v": 0.9}
    )
    here, there = BackEnd(spec), BackEnd(bridged(spec, sys.executable))
    one, other = here.answer(request), there.answer(request)
    assert isinstance(one, Answer)
    assert (other.text, other.value) == (one.text, one.value)


def test_large_arrays_go_there_and_back_exactly(tools: Bridged) -> None:
    cloud = np.random.default_rng(0).random((2_000_000, 3))
    reply = tools.echo(cloud=cloud)
    assert isinstance(reply, TextReply)
    assert np.array_equal(np.asarray(reply.variables[0].value), cloud)


def test_arrays_arrive_read_only(tools: Bridged) -> None:
    with pytest.raises(ValueError, match="read-only"):
        tools.write(array=np.zeros(3))


def test_the_childs_packages_are_not_steered_by_our_variables(
    tools: Bridged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    other = probing()
    for name in ("PYTHONHOME", "VIRTUAL_ENV"):
        reply = other.environment(name=name)
        assert isinstance(reply, TextReply) and reply.text == "unset"
    other.close()


def test_a_method_that_is_not_served_does_not_exist(tools: Bridged) -> None:
    with pytest.raises(AttributeError):
        _ = tools.batch_key_of


# ---- the same errors ---------------------------------------------------------------------------


def test_refusals_and_failures_keep_their_reason(tools: Bridged) -> None:
    with pytest.raises(ToolRefusal, match="not found: cup") as refusal:
        tools.misbehave(how="refuse")
    assert refusal.value.reason == "not_found"
    with pytest.raises(ToolFailure, match="nobody answers") as failure:
        tools.misbehave(how="fail")
    assert failure.value.reason == "robot_offline"


def test_bugs_come_back_as_what_they_are_with_the_childs_traceback(tools: Bridged) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug") as bug:
        tools.misbehave(how="bug")
    assert "bridge_tools.py" in bug.value.__notes__[0]
    with pytest.raises(RuntimeError, match="Strange: a bug"):
        tools.misbehave(how="own bug")


def test_limits_of_the_machine_are_failures_of_the_call(tools: Bridged) -> None:
    spec = BackEndSpec(
        name="probing",
        location="toolshed.environments.bridge:Bridged",
        arguments={
            "interpreter": sys.executable,
            "location": "bridge_tools:Probing",
            "arguments": {},
            "methods": list(METHODS),
            "variables": dict(variables_of(find(sys.executable))),
        },
        methods=METHODS,
        voice=Voice(profile="compact", defects="fixed"),
    )
    back_end = BackEnd(spec)
    for how, reason in (("memory", "out_of_memory"), ("timeout", "timeout")):
        request = Request(family="probing", method="misbehave", arguments={"how": how})
        with pytest.raises(ToolFailure) as failure:
            back_end.answer(request)
        assert failure.value.reason == reason


def test_what_cannot_be_sent_is_said_and_harms_nothing(tools: Bridged) -> None:
    before = pid_of(tools)
    with pytest.raises(CodecError):
        tools.echo(thing=object())
    with pytest.raises(RuntimeError, match="set is no value that can be sent"):
        tools.unsendable()
    assert pid_of(tools) == before


def test_memory_can_be_bounded() -> None:
    tools = probing(memory_gb=6)
    with pytest.raises(MemoryError):
        tools.misbehave(how="allocate")
    assert tools.misbehave(how="nothing") == TextReply(text="fine")
    tools.close()


# ---- starting ----------------------------------------------------------------------------------


def test_what_is_wrong_with_a_back_end_is_said_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="no such weights"):
        probing(trouble="config")
    environment = find(sys.executable)
    for location, said in (
        ("bridge_tools:Nothing", "has no class 'Nothing'"),
        ("no_such_module:Probing", "no module 'no_such_module'"),
        ("bridge_tools:Batched", "cannot be made"),
    ):
        with pytest.raises(ConfigError, match=said):
            Bridged(
                interpreter=sys.executable,
                location=location,
                arguments={"trouble": ""},
                methods=("echo",),
                variables=variables_of(environment),
            )
    with pytest.raises(ConfigError, match="cannot be run"):
        Bridged(interpreter="/nowhere/python", location="a:B", arguments={}, methods=())


def test_a_bug_of_the_constructor_is_not_the_users_error() -> None:
    with pytest.raises(TypeError, match="has no len"):
        probing(trouble="type")


def test_a_child_that_dies_while_loading_leaves_its_last_words() -> None:
    with pytest.raises(ToolFailure, match=r"(?s)exit code 7.*the weights are broken") as failure:
        probing(trouble="crash")
    assert failure.value.reason == "bridge_died"


def test_loading_has_a_limit() -> None:
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match="2 s to load"):
        probing(trouble="hang", start_timeout_s=2.0)
    assert time.monotonic() - started_s < 8


# ---- dying and hanging -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sleep", "hold the interpreter"])
def test_a_hung_child_is_killed_on_time_and_replaced(how: str) -> None:
    tools = probing(timeout_s=3.0)
    before = pid_of(tools)
    started_s = time.monotonic()
    with pytest.raises(TimeoutError, match="within 3 s"):
        tools.misbehave(how=how, seconds=60.0)
    assert 2.5 < time.monotonic() - started_s < 8
    assert wait_until_gone(before)
    assert pid_of(tools) != before
    tools.close()


def test_a_child_that_dies_in_a_call_fails_that_call_alone(tools: Bridged) -> None:
    before = pid_of(tools)
    with pytest.raises(ToolFailure, match=r"(?s)exit code 3.*about to give up"):
        tools.misbehave(how="exit")
    assert pid_of(tools) != before

    running = pid_of(tools)
    threading.Timer(0.5, os.kill, (running, signal.SIGKILL)).start()
    with pytest.raises(ToolFailure, match="by signal SIGKILL"):
        tools.misbehave(how="sleep", seconds=30.0)
    assert tools.misbehave(how="nothing") == TextReply(text="fine")


def test_a_child_that_died_idle_is_replaced_unnoticed(tools: Bridged) -> None:
    before = pid_of(tools)
    os.kill(before, signal.SIGKILL)
    assert wait_until_gone(before)
    assert pid_of(tools) != before


def test_a_child_ends_with_its_bridge() -> None:
    tools = probing()
    closed = pid_of(tools)
    tools.close()
    assert wait_until_gone(closed)
    tools = probing()
    forgotten = pid_of(tools)
    del tools
    gc.collect()
    assert wait_until_gone(forgotten)


PARENT = """
import threading, time
from tests.toolshed.bridge_start import probing, pid_of
tools = probing()
print(pid_of(tools), flush=True)
threading.Thread(target=tools.misbehave, kwargs={{"how": {how!r}}}, daemon=True).start()
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["nothing", "hold the interpreter"])
def test_a_child_never_outlives_its_parent(how: str) -> None:
    script = PARENT.format(how=how)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environ
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        assert is_running(child)
        parent.kill()
        assert wait_until_gone(child)


def test_calls_of_several_threads_wait_for_one_another(tools: Bridged) -> None:
    other = threading.Thread(target=tools.misbehave, kwargs={"how": "sleep", "seconds": 1.0})
    other.start()
    time.sleep(0.2)
    started_s = time.monotonic()
    assert tools.misbehave(how="nothing") == TextReply(text="fine")
    assert time.monotonic() - started_s > 0.5
    other.join()


# ---- batches -----------------------------------------------------------------------------------


def test_batches_travel_whole_and_are_parted_by_the_back_ends_keys() -> None:
    tools = Bridged(
        interpreter=sys.executable,
        location="bridge_tools:Batched",
        arguments={},
        methods=("add",),
        variables=variables_of(find(sys.executable)),
    )
    assert tools.batch_key("add", {"number": 1}) is not None
    answers = tools.batch("add", [{"number": number} for number in (1, 2, 3, 0, 13, 4)])
    assert [each.text for each in answers if isinstance(each, TextReply)] == [
        "2 in a batch of 3",
        "3 in a batch of 2",
        "4 in a batch of 3",
        "1 in a batch of 1",
        "5 in a batch of 2",
    ]
    refused = answers[4]
    assert isinstance(refused, ToolRefusal) and refused.reason == "unlucky"
    tools.close()


def test_a_back_end_that_does_not_batch_is_asked_one_by_one(tools: Bridged) -> None:
    assert tools.batch_key("echo", {}) is None
